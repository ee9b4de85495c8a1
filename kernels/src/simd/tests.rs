use super::{Kernel, LANES, Level, Simd, dispatch};

struct Exp<'a>(&'a mut [[f32; LANES]]);

impl Kernel for Exp<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for x in self.0 {
            simd.store(simd.exp(simd.load(x)), x);
        }
    }
}

fn exp(level: Level, x: f32) -> f32 {
    let mut lanes = [[x; LANES]];
    dispatch(level, Exp(&mut lanes));
    lanes[0][3]
}

#[test]
fn exp_is_good_to_a_few_units_in_the_last_place() {
    for level in [Level::Portable, Level::detect()] {
        for i in (-87_300..88_300).step_by(4) {
            let x = f32::from(i16::try_from(i / 4).unwrap()) * 4e-3;
            let (got, want) = (f64::from(exp(level, x)), f64::from(x).exp());
            assert!((got - want).abs() <= 2.5e-7 * want, "e^{x}: {got} instead of {want}");
        }
        assert_eq!(exp(level, 0.0).to_bits(), 1.0_f32.to_bits());
        for low in [-87.4, -1e30, f32::NEG_INFINITY] {
            assert_eq!(exp(level, low).to_bits(), 0);
        }
        assert_eq!(exp(level, 88.5).to_bits(), f32::INFINITY.to_bits());
        assert!(exp(level, f32::NAN).is_nan());
    }
}
