//! What the tests share: teams, numbers, and comparison with slow plain arithmetic in f64.

use std::num::NonZeroUsize;
use std::sync::LazyLock;

use crate::simd::Level;
use crate::team::Team;

/// Every instruction set, alone and with company. Shared by all tests, so regions also find their team busy.
pub(crate) static TEAMS: LazyLock<Vec<Team>> = LazyLock::new(|| {
    [(1, Level::Portable), (1, Level::detect()), (2, Level::detect()), (5, Level::detect())]
        .map(|(threads, level)| Team::with_level(NonZeroUsize::new(threads).unwrap(), level).unwrap())
        .into()
});

/// Numbers in `-1..1` that look random and are the same on every run.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f32::from_bits(0x3f80_0000 | u32::try_from(state >> 41).unwrap()) * 2.0 - 3.0
        })
        .collect()
}

/// Fails unless `got` is within `tolerance` of `want` everywhere.
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(got) - want).abs() <= tolerance, "element {i}: {got} instead of {want}");
    }
}

/// The bits, to compare where NaN equals NaN and 0 does not equal -0.
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
