//! Every kernel through both compilers. Neither needs a device.

use std::path::PathBuf;

use cubecl::prelude::CubeKernel;
use half::{bf16, f16};
use phase_core::CacheSpec;

use super::{
    compile::{Code, Nvrtc, Source, Target, keep, kept},
    kernels::{
        attention::{Heads, attend_any::AttendAny, attend_one::AttendOne},
        few::{Shape, few::Few},
        finish::{Activation, Finish},
        plain::product::Product,
        prompt::{self, attend_tiles::AttendTiles},
        rows::{self, embed::Embed, last_rows::LastRows, norm::Norm, pick::Pick, rotate_append::RotateAppend},
        share::{Part, share::Share},
        tile::{self, tiles::Tiles},
        wide::{self, wide_tiles::WideTiles},
        words::Format,
    },
    launch::buffer as b,
};

/// The sources of all kernels, in the shapes that differ most.
fn sources() -> Vec<Source> {
    let target = Target::new();
    let mut all = Vec::new();
    let mut add = |source: Result<Source, crate::BurnError>| all.push(source.unwrap());
    fn make<K: CubeKernel>(target: &Target, kernel: K) -> Result<Source, crate::BurnError> {
        target.source(&kernel)
    }
    macro_rules! kernel {
        ($units:expr, $kernel:ty; $($fixed:expr),*) => {
            add(make(&target, <$kernel>::new(Target::settings($units), target.device.clone(), target.runtime.clone(), $($fixed),*)))
        };
    }
    macro_rules! for_format {
        ($element:ty, $format:expr) => {
            kernel!(rows::UNITS, Embed<$element>; b(), b(), b(), b(), b(), (), (), (), (), true, true);
            kernel!(rows::UNITS, Norm<$element>; b(), b(), b(), b(), (), (), true);
            kernel!(rows::UNITS, RotateAppend<$element>; b(), b(), b(), b(), b(), b(), b(), b(), (), (), (), (), 32, 8, 64, true, true, false);
            kernel!(rows::UNITS, AttendAny<$element>; b(), b(), b(), b(), b(), (), (), (), (), (), (), 32, 8, 80, false);
            for finish in [Finish::Store, Finish::Add, Finish::Plain(Activation::Gelu), Finish::Gated(Activation::Silu)] {
                kernel!(rows::UNITS, Product<$element>; b(), b(), b(), b(), b(), (), (), (), finish, true);
            }
            for (head_dim, normed, splits) in [(16, false, 16), (64, false, 16), (128, true, 1)] {
                let heads = Heads { heads: 32, kv_heads: 8, head_dim, group: 4, splits, rotate: true, normed, format: $format };
                kernel!(rows::UNITS, AttendOne<$element>; b(), b(), b(), b(), b(), b(), b(), b(), b(), b(), (), (), (), (), heads);
            }
        };
    }
    for_format!(f32, Format::F32);
    for_format!(f16, Format::F16);
    for_format!(bf16, Format::Bf16);
    kernel!(rows::UNITS, LastRows; b(), b(), (), ());
    kernel!(rows::UNITS, Pick; b(), b(), b(), b(), b(), b(), (), (), 64);
    for (head_dim, bf16) in [(64, true), (128, false)] {
        kernel!(prompt::UNITS, AttendTiles; b(), b(), b(), b(), (), (), (), (), (), 32, 8, head_dim, bf16);
    }
    for finish in [Finish::Store, Finish::Add, Finish::Plain(Activation::GeluTanh), Finish::Gated(Activation::Silu)] {
        kernel!(tile::UNITS, Tiles<bf16>; b(), b(), b(), b(), b(), (), (), (), true, false, finish);
        kernel!(tile::UNITS, Tiles<f16>; b(), b(), b(), b(), b(), (), (), (), false, true, finish);
        for width in wide::WIDTHS {
            kernel!(wide::UNITS, WideTiles<bf16>; b(), b(), b(), b(), b(), (), (), (), true, width, true, finish);
        }
        for (rows, groups, shares) in [(8, 1, 8), (16, 1, 3), (64, 2, 1)] {
            let part = Part { bf16: false, rows, groups, shares, biased: true, finish };
            kernel!(part.units(), Share<f16>; b(), b(), b(), b(), b(), b(), b(), (), (), (), part);
        }
        for (tiles, shares, unroll, normed) in [(1, 8, 4, 0), (1, 2, 4, 1024), (2, 4, 4, 0), (8, 1, 2, 0)] {
            let shape = Shape { bf16: true, tiles, shares, unroll, normed, layer: normed > 0, biased: true, finish };
            kernel!(rows::UNITS, Few<bf16>; b(), b(), b(), b(), b(), b(), b(), b(), (), (), (), (), shape);
        }
    }
    all
}

#[test]
fn a_cache_is_counted_in_32_bits() {
    let check = |batch, capacity| super::check_count(1024, CacheSpec { batch, capacity });
    assert!(check(64, 65_535).is_ok());
    assert!(check(64, 65_536).unwrap_err().to_string().contains("64 x 65536 positions of 1024"));
    assert!(check(1, usize::MAX).is_err());
}

#[test]
fn cubecl_takes_every_kernel() {
    for source in sources() {
        assert!(source.text.contains(&source.entry) && source.shared_bytes <= super::compile::SHARED_BYTES, "{}", source.entry);
    }
}

#[test]
fn what_is_kept_comes_back_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("burn-cuda/a.cubin");
    assert_eq!(kept(&file), None);
    let code = Code { entry: "few_e__1".to_owned(), shared_bytes: 70_000, machine: vec![7, 0, 255] };
    keep(&file, &code).unwrap();
    assert_eq!(kept(&file), Some(code));
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(kept(&file), None, "damaged");
    std::fs::write(&file, &bytes[..20]).unwrap();
    assert_eq!(kept(&file), None, "cut short");
}

/// NVRTC needs CUDA's headers and no device, so this runs wherever both are.
#[test]
#[expect(clippy::disallowed_methods, reason = "where CUDA is, is the tester's to say")]
fn nvrtc_takes_every_kernel() {
    let home = std::env::var_os("CUDA_HOME").map(PathBuf::from);
    let nvrtc = match Nvrtc::new(home.as_deref(), None).and_then(|nvrtc| Nvrtc::version().map(|_| nvrtc)) {
        Ok(nvrtc) => nvrtc,
        Err(e) => {
            println!("skipped: {e}");
            return;
        }
    };
    for source in sources() {
        let code = nvrtc.compile(&source).unwrap();
        assert!(code.starts_with(b"\x7fELF"));
    }
}
