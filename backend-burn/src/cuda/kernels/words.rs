//! Sixteen-bit numbers two to a word, tensor cores and asynchronous copies: what CubeCL leaves to PTX.
//!
//! An operand that is a mutable variable would be its address; `reinterpret` to its own type reads it.

use cubecl::prelude::*;

/// Two 16-bit numbers, the lower one first.
#[cube]
pub(super) fn pack(low: f32, high: f32, #[comptime] bf16: bool) -> u32 {
    let kind = comptime!(if bf16 { "bf16x2" } else { "f16x2" });
    let out: u32;
    gpu_asm!("cvt.rn.{kind}.f32 {out}, {high}, {low};", out = out(_) out, high = in(_) f32::reinterpret(high), low = in(_) f32::reinterpret(low), options(pure, nomem));
    out
}

/// The lower number of a word.
#[cube]
pub(super) fn low(word: u32, #[comptime] bf16: bool) -> f32 {
    if comptime!(bf16) {
        f32::reinterpret(word << 16u32)
    } else {
        let out: f32;
        gpu_asm!(
            "{{ .reg .b16 l, h; mov.b32 {{l, h}}, {word}; cvt.f32.f16 {out}, l; }}",
            out = out(_) out, word = in(_) u32::reinterpret(word), options(pure, nomem)
        );
        out
    }
}

/// The upper number of a word.
#[cube]
pub(super) fn high(word: u32, #[comptime] bf16: bool) -> f32 {
    if comptime!(bf16) {
        f32::reinterpret(word & 0xffff_0000u32)
    } else {
        let out: f32;
        gpu_asm!(
            "{{ .reg .b16 l, h; mov.b32 {{l, h}}, {word}; cvt.f32.f16 {out}, h; }}",
            out = out(_) out, word = in(_) u32::reinterpret(word), options(pure, nomem)
        );
        out
    }
}

/// `a · b + c` of a plane: 16 x 16 by 16 x 8, sums in f32.
#[cube]
pub(super) fn mma(
    a: Vector<u32, Const<4>>,
    b: Vector<u32, Const<2>>,
    c: Vector<f32, Const<4>>,
    #[comptime] bf16: bool,
) -> Vector<f32, Const<4>> {
    let kind = comptime!(if bf16 { "bf16" } else { "f16" });
    let out: Vector<f32, Const<4>>;
    gpu_asm!(
        "mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 {d}, {a}, {b}, {c};",
        d = out(_) out, a = in(_) Vector::<u32, Const<4>>::reinterpret(a), b = in(_) Vector::<u32, Const<2>>::reinterpret(b),
        c = in(_) Vector::<f32, Const<4>>::reinterpret(c), options(pure, nomem)
    );
    out
}

/// Sixteen bytes of global memory that are read once, past the first-level cache. Not `pure`: so it stays where it is
/// written, before what uses it, and many are under way at a time.
#[cube]
pub(super) fn stream(from: &[Vector<u32, Const<4>>], at: usize) -> Vector<u32, Const<4>> {
    let pointer = from[at..at + 1].as_ptr();
    let out: Vector<u32, Const<4>>;
    gpu_asm!(
        "ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {out}, [{from}];",
        out = out(_) out, from = in(_) pointer, options(nomem)
    );
    out
}

/// Two to the power of `x`.
#[cube]
pub(super) fn power(x: f32) -> f32 {
    let out: f32;
    gpu_asm!("ex2.approx.ftz.f32 {out}, {x};", out = out(_) out, x = in(_) f32::reinterpret(x), options(pure, nomem));
    out
}

/// Four 8 x 8 matrices from shared memory; each unit names one of their 32 rows.
#[cube]
pub(super) fn load_matrices(from: &[Vector<u32, Const<4>>], at: usize, #[comptime] transpose: bool) -> Vector<u32, Const<4>> {
    let trans = comptime!(if transpose { ".trans" } else { "" });
    let pointer = from[at..at + 1].as_ptr();
    let out: Vector<u32, Const<4>>;
    gpu_asm!(
        "ldmatrix.sync.aligned.m8n8.x4{trans}.b16 {out}, [{from}];",
        out = out(_) out, from = mem_in(_) pointer, options(explicit_mem)
    );
    out
}

/// Ends a group of asynchronous copies.
#[cube]
pub(super) fn commit_copies() {
    gpu_asm!("cp.async.commit_group;");
}

/// Waits until at most `pending` of the latest groups of this unit's copies are under way.
#[cube]
pub(super) fn wait_copies(#[comptime] pending: usize) {
    gpu_asm!("cp.async.wait_group {pending};", pending = const pending);
}

#[cube]
pub(super) fn vec4(a: u32, b: u32, c: u32, d: u32) -> Vector<u32, Const<4>> {
    let mut out = Vector::<u32, Const<4>>::empty();
    out.insert(0usize, a);
    out.insert(1usize, b);
    out.insert(2usize, c);
    out.insert(3usize, d);
    out
}

#[cube]
pub(super) fn vec2(a: u32, b: u32) -> Vector<u32, Const<2>> {
    let mut out = Vector::<u32, Const<2>>::empty();
    out.insert(0usize, a);
    out.insert(1usize, b);
    out
}

/// Number format of weights, caches and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    F32,
    F16,
    Bf16,
}

impl Format {
    /// Elements of 16 bytes.
    pub(crate) const fn per_vector(self) -> usize {
        16 / self.size_bytes()
    }

    pub(crate) const fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// One element of a vector.
#[cube]
pub(super) fn element(vector: Vector<u32, Const<4>>, #[comptime] index: usize, #[comptime] format: Format) -> f32 {
    if comptime!(format == Format::F32) {
        f32::reinterpret(vector.extract(index))
    } else if comptime!(index.is_multiple_of(2)) {
        low(vector.extract(comptime!(index / 2)), comptime!(format == Format::Bf16))
    } else {
        high(vector.extract(comptime!(index / 2)), comptime!(format == Format::Bf16))
    }
}

/// A number as it is after a stay in memory.
#[cube]
pub(super) fn rounded(value: f32, #[comptime] format: Format) -> f32 {
    if comptime!(format == Format::F32) {
        value
    } else {
        low(pack(value, value, comptime!(format == Format::Bf16)), comptime!(format == Format::Bf16))
    }
}

/// Lets the next kernel be brought to the device, and waits until the one before has ended and all it wrote is seen.
/// Every kernel here begins with it, or must, before it touches what others write.
#[cube]
pub(super) fn follow() {
    gpu_asm!("griddepcontrol.launch_dependents;");
    gpu_asm!("griddepcontrol.wait;");
}
