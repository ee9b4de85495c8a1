//! Power over time, known exactly.

/// A small deterministic generator (`SplitMix64`), so that a seed gives the same device everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `low..high`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Piecewise constant power from time 0. After the last piece its power goes on.
#[derive(Clone, Debug)]
pub struct PowerCurve {
    /// Beginning of each piece in seconds, and the energy before it in joules.
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    from_s: f64,
    before_j: f64,
    watts: f64,
}

impl PowerCurve {
    /// Pieces of a length in seconds and a power in watts, one after the other. `None` when there are none or one is
    /// negative or not a number.
    ///
    /// ```
    /// use phase_energy::fake::PowerCurve;
    /// let curve = PowerCurve::new([(0.5, 100.0), (0.5, 400.0)]).unwrap();
    /// assert_eq!(curve.joules(0.25, 0.75), 125.0);
    /// ```
    pub fn new(pieces: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let (mut from_s, mut before_j) = (0.0, 0.0);
        let mut found = Vec::new();
        for (seconds, watts) in pieces {
            if !(seconds.is_finite() && seconds >= 0.0 && watts.is_finite() && watts >= 0.0) {
                return None;
            }
            found.push(Piece { from_s, before_j, watts });
            from_s += seconds;
            before_j += seconds * watts;
        }
        (!found.is_empty()).then_some(Self { pieces: found })
    }

    /// Requests as a language model makes them: rest, a short prefill near `max_w`, a longer decode at about two thirds, with
    /// noise of a twentieth in pieces of a few milliseconds. All within `min_w..=max_w`.
    pub fn requests(seconds: f64, min_w: f64, max_w: f64, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut pieces = Vec::new();
        let mut at = 0.0;
        while at < seconds {
            let rest = random.within(0.0, 0.6);
            let parts = [(rest, 0.02), (random.within(0.02, 0.3), 0.95), (random.within(0.1, 2.0), random.within(0.4, 0.7)), (rest, 0.1)];
            for (length, level) in parts {
                let end = at + length;
                while at < end {
                    let step = random.within(0.001, 0.008);
                    let watts = min_w + (max_w - min_w) * (level + random.within(-0.05, 0.05)).clamp(0.0, 1.0);
                    pieces.push((step, watts));
                    at += step;
                }
            }
        }
        Self::new(pieces).unwrap_or_else(|| Self { pieces: vec![Piece { from_s: 0.0, before_j: 0.0, watts: min_w }] })
    }

    /// A square wave: `period_s` long, `low_w` in the first half and `high_w` in the second, beginning at `from_s`, for
    /// `seconds`; `low_w` around it.
    pub fn square(from_s: f64, period_s: f64, seconds: f64, low_w: f64, high_w: f64) -> Option<Self> {
        let mut pieces = vec![(from_s, low_w)];
        let mut at = 0.0;
        while at < seconds {
            pieces.extend([(period_s / 2.0, low_w), (period_s / 2.0, high_w)]);
            at += period_s;
        }
        pieces.push((1.0, low_w));
        Self::new(pieces)
    }

    /// Energy from `start_s` to `end_s`, in joules.
    pub fn joules(&self, start_s: f64, end_s: f64) -> f64 {
        self.until(end_s) - self.until(start_s)
    }

    /// Power at `at_s`, in watts.
    pub fn watts(&self, at_s: f64) -> f64 {
        self.piece(at_s).watts
    }

    fn until(&self, at_s: f64) -> f64 {
        let piece = self.piece(at_s);
        piece.before_j + piece.watts * (at_s - piece.from_s)
    }

    fn piece(&self, at_s: f64) -> Piece {
        self.pieces[self.pieces.partition_point(|p| p.from_s <= at_s).saturating_sub(1)]
    }
}
