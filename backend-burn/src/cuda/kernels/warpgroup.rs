//! Products on Hopper's own tensor-core instructions (`wgmma`): a group of four planes, both sides from shared memory.
//!
//! Sums live in registers that a kernel declares in PTX, because the instruction writes them while the program goes on.

use cubecl::prelude::{barrier::copy_async, *};

/// k of a stage: 64 numbers, 128 bytes, as many as a swizzled row of shared memory has.
pub(super) const DEEP: usize = 8;

/// Declares a kernel's sums and clears them. Once in a kernel, before everything else that names them.
#[cube]
pub(super) fn declare_sums(#[comptime] count: usize) {
    let clear = comptime!((0..count).map(|i| format!("mov.f32 sum{i}, 0f00000000; ")).collect::<String>());
    gpu_asm!(".reg .f32 sum<{count}>; {clear}", count = const count);
}

/// One of this unit's sums: of the instruction's columns `index / 4 * 8 + lane % 4 * 2 + index % 2`, and of the row `lane / 4` of
/// the plane's sixteen, or eight below it where `index % 4` is above one.
#[cube]
pub(super) fn sum(#[comptime] index: usize) -> f32 {
    let out: f32;
    gpu_asm!("mov.f32 {out}, sum{index};", out = out(_) out, index = const index);
    out
}

/// How the tensor core finds a tile of rows of 128 bytes, swizzled: 1,024 bytes from eight rows to the next eight.
#[cube]
pub(super) fn describe(tile: &[Vector<u32, Const<4>>], at: usize) -> u64 {
    let pointer = tile[at..at + 1].as_ptr();
    let out: u64;
    gpu_asm!(
        "{{ .reg .u64 a; cvta.to.shared.u64 a, {from}; shr.u64 a, a, 4; and.b64 a, a, 16383; or.b64 {out}, a, 0x4000004000010000; }}",
        out = out(_) out, from = in(_) pointer, options(nomem)
    );
    out
}

/// Adds `a · bᵀ` of 64 k to the sums: 64 rows of `a` by `columns` of `b`. Not done until it is waited for.
#[cube]
pub(super) fn multiply(a: u64, b: u64, #[comptime] columns: usize, #[comptime] bf16: bool) {
    let sums = comptime!((0..columns / 2).map(|i| format!("sum{i}")).collect::<Vec<_>>().join(", "));
    let kind = comptime!(if bf16 { "bf16" } else { "f16" });
    let name = comptime!(format!("wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind}"));
    gpu_asm!(
        "{{ .reg .pred p; .reg .u64 a, b; setp.eq.u32 p, 0, 0; mov.b64 a, {left}; mov.b64 b, {right}; wgmma.fence.sync.aligned; ",
        "{name} {{{sums}}}, a, b, p, 1, 1, 0, 0; add.u64 a, a, 2; add.u64 b, b, 2; ",
        "{name} {{{sums}}}, a, b, p, 1, 1, 0, 0; add.u64 a, a, 2; add.u64 b, b, 2; ",
        "{name} {{{sums}}}, a, b, p, 1, 1, 0, 0; add.u64 a, a, 2; add.u64 b, b, 2; ",
        "{name} {{{sums}}}, a, b, p, 1, 1, 0, 0; wgmma.commit_group.sync.aligned; }}",
        left = in(_) u64::reinterpret(a), right = in(_) u64::reinterpret(b)
    );
}

/// Waits until at most `pending` of this unit's products are under way.
#[cube]
pub(super) fn wait_products(#[comptime] pending: usize) {
    gpu_asm!("wgmma.wait_group.sync.aligned {pending};", pending = const pending);
}

/// Shows the tensor cores what this unit's copies have brought, once the cube has met.
#[cube]
pub(super) fn show_copies() {
    gpu_asm!("fence.proxy.async.shared::cta;");
}

/// Starts to copy 16 bytes.
#[cube]
pub(super) fn fetch(from: &[Vector<u32, Const<4>>], source: usize, to: &mut [Vector<u32, Const<4>>], at: usize) {
    copy_async(&from[source..source + 1], &mut to[at..at + 1], 4u32);
}

/// Where a row's vector lies among the swizzled: rows of eight vectors, of which each row has its own order.
#[cube]
pub(super) fn swizzled(row: u32, vector: u32) -> usize {
    (row * 8 + (vector ^ (row % 8))) as usize
}

/// Which row of the weights a column stands for. Gated columns come in eights: gates, then what they gate.
#[cube]
pub(super) fn weight_row(column: u32, n: u32, #[comptime] gated: bool) -> u32 {
    if comptime!(gated) { min(column / 16 * 8 + column % 8, n - 1) + (column / 8 % 2) * n } else { min(column, n - 1) }
}
