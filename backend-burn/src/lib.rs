//! burn behind the phase traits: own decoder on burn-flex.
