//! What happens to queries and keys on their way into attention: rotary embedding and the write into the cache.

use crate::disjoint::Disjoint;
use crate::element::Element;
use crate::shape::HeadShape;
use crate::team::Team;

/// Elements below which a call stays on its thread: waking a sleeping worker costs more.
const INLINE: usize = 32 * 1024;

/// Writes new keys (or values) into a cache, rounding to its element type (to nearest, ties to even).
///
/// `src` is `[batch, query_len, heads, head_dim]`, as a projection leaves it, with `heads` the key-value heads;
/// `cache` is `[batch, heads, capacity, head_dim]`. Position `i` of `src` goes to position `start + i`; nothing else is
/// written.
///
/// # Panics
/// When `start + query_len` exceeds `capacity`, or when the length of a slice is not the product of its dimensions.
///
/// ```
/// use std::num::NonZeroUsize;
/// use phase_kernels::{HeadShape, Team, append_kv};
///
/// let team = Team::new(NonZeroUsize::MIN)?;
/// let mut cache = [0.0_f32; 6];
/// append_kv(&team, &[1.0, 2.0], &mut cache, HeadShape { batch: 1, query_len: 1, heads: 2, head_dim: 1 }, 3, 1);
/// assert_eq!(cache, [0.0, 1.0, 0.0, 0.0, 2.0, 0.0]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn append_kv<E: Element>(team: &Team, src: &[f32], cache: &mut [E], shape: HeadShape, capacity: usize, start: usize) {
    let HeadShape { batch, query_len, heads, head_dim } = shape;
    assert_eq!(src.len(), shape.len(), "append_kv: src is [batch, query_len, heads, head_dim]");
    assert_eq!(cache.len(), batch * heads * capacity * head_dim, "append_kv: cache is [batch, heads, capacity, head_dim]");
    assert!(start + query_len <= capacity, "append_kv: positions {start} to {} exceed {capacity}", start + query_len);
    let cache = Disjoint::new(cache);
    let write = |unit: usize| {
        let (sequence, head) = (unit / heads, unit % heads);
        let first = (unit * capacity + start) * head_dim;
        // SAFETY: each unit is another sequence or head, so its part of the cache is its own.
        let rows = unsafe { cache.slice(first..first + query_len * head_dim) };
        for (query, row) in rows.chunks_exact_mut(head_dim.max(1)).enumerate() {
            let from = ((sequence * query_len + query) * heads + head) * head_dim;
            E::narrow(&src[from..from + head_dim], row);
        }
    };
    if src.len() < INLINE {
        (0..batch * heads).for_each(write);
    } else {
        team.run(batch * heads, write);
    }
}

/// Applies rotary position embedding in place, in the half-split form of Hugging Face's Llama (`rotate_half`): element
/// `i` of a head is paired with element `i + head_dim / 2`.
///
/// `x` has the dimensions of `shape`; `cos` and `sin` are `[positions, head_dim / 2]`. Query `i` of each sequence is at
/// position `start + i`.
///
/// # Panics
/// When `head_dim` is odd, when a table ends before the last position, or when the length of `x` is not that of `shape`.
///
/// ```
/// use std::num::NonZeroUsize;
/// use phase_kernels::{HeadShape, Team, rotary};
///
/// let team = Team::new(NonZeroUsize::MIN)?;
/// let mut x = [1.0, 2.0];
/// // A quarter turn at position 1.
/// rotary(&team, &mut x, &[1.0, 0.0], &[0.0, 1.0], HeadShape { batch: 1, query_len: 1, heads: 1, head_dim: 2 }, 1);
/// assert_eq!(x, [-2.0, 1.0]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn rotary(team: &Team, x: &mut [f32], cos: &[f32], sin: &[f32], shape: HeadShape, start: usize) {
    let HeadShape { query_len, heads, head_dim, .. } = shape;
    let half = head_dim / 2;
    assert!(head_dim.is_multiple_of(2), "rotary: head_dim ({head_dim}) is odd");
    assert_eq!(x.len(), shape.len(), "rotary: x is [batch, query_len, heads, head_dim]");
    let positions = (start + query_len) * half;
    assert!(cos.len() >= positions && sin.len() >= positions, "rotary: the tables end before position {}", start + query_len);
    let row_len = heads * head_dim;
    if row_len == 0 {
        return;
    }
    let turn = |row: usize, x: &mut [f32]| {
        let at = (start + row % query_len) * half;
        let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
        for head in x.chunks_exact_mut(head_dim) {
            let (low, high) = head.split_at_mut(half);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
            }
        }
    };
    crate::rows::for_each_row(team, x, row_len, turn);
}

#[cfg(test)]
mod tests;
