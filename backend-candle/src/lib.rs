//! candle behind the phase traits: own decoder, session-owned cache.
