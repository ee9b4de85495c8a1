//! Weights by role: each read converts straight into the caller's memory, so that only one copy of a model exists.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use half::{bf16, f16};
use phase_core::{DType, LoadProgress};
use rayon::prelude::*;

use crate::{
    ModelError,
    file::{RawTensor, TensorFile},
    role::Role,
    safetensors::is_buffer,
    schema::{Layout, Slot},
    stored::{Element, Scratch, StoredType},
    view::{Blocks, TensorView, Values},
};

/// The tensors of one checkpoint, by [`Role`]. Every shape and format was checked when the checkpoint was opened.
///
/// ```
/// # use phase_model::{Checkpoint, LayerRole, ModelError, Role, random};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("tiny");
/// # random::write(&path, &random::Shape::tiny(phase_model::Architecture::Llama), 7, phase_core::DType::F32)?;
/// let checkpoint = Checkpoint::open(&path)?;
/// let (config, weights) = (checkpoint.config(), checkpoint.weights());
/// let rows = config.q_dim() + 2 * config.kv_dim();
/// let mut qkv = vec![0.0f32; rows * config.hidden];
/// let layer = |role| Role::Layer(0, role);
/// weights.read_joined(&[layer(LayerRole::Q), layer(LayerRole::K), layer(LayerRole::V)], &mut qkv)?;
/// assert_eq!(weights.to_vec::<f32>(layer(LayerRole::Q))?, qkv[..config.q_dim() * config.hidden]);
/// # Ok::<(), ModelError>(())
/// ```
#[derive(Debug)]
pub struct Weights {
    files: Vec<TensorFile>,
    entries: BTreeMap<Role, Entry>,
    tied: bool,
    progress: Option<LoadProgress>,
    read_bytes: AtomicU64,
}

/// One role's tensor.
#[derive(Debug)]
struct Entry {
    raw: RawTensor,
    shape: Vec<usize>,
    layout: Layout,
}

/// Elements converted by one task.
const TASK_ELEMENTS: usize = 1 << 18;

impl Weights {
    /// Matches the files' tensors with the places the model needs; anything missing, left over or different is an error.
    pub(crate) fn new(
        root: &Path,
        files: Vec<TensorFile>,
        mut tensors: BTreeMap<String, RawTensor>,
        slots: Vec<Slot>,
        tied: bool,
        ignored: impl Fn(&str) -> bool,
    ) -> Result<Self, ModelError> {
        let mut entries = BTreeMap::new();
        let mut used = BTreeSet::new();
        for slot in slots {
            let raw = tensors.get(&slot.name).ok_or_else(|| ModelError::MissingTensor {
                tensor: slot.name.clone(),
                expected: slot.stored_shape.clone(),
                path: root.to_owned(),
            })?;
            if raw.shape != slot.stored_shape {
                return Err(ModelError::TensorShape {
                    tensor: slot.name,
                    path: files[raw.file].path().to_owned(),
                    found: raw.shape.clone(),
                    expected: slot.stored_shape,
                });
            }
            let row = raw.shape.last().copied().unwrap_or(1);
            let by_rows = !matches!(slot.layout, Layout::Columns { .. }) && row.is_multiple_of(raw.stored.block_elements());
            if raw.stored.dense().is_none() && !by_rows {
                return Err(ModelError::TensorType {
                    tensor: slot.name,
                    path: files[raw.file].path().to_owned(),
                    found: format!("{} with rows of {row} elements", raw.stored),
                    supported: StoredType::SUPPORTED,
                });
            }
            entries.insert(slot.role, Entry { raw: raw.clone(), shape: slot.shape, layout: slot.layout });
            used.insert(slot.name);
        }
        tensors.retain(|name, _| !used.contains(name) && !is_buffer(name) && !ignored(name));
        if let Some(left) = tensors.into_values().next() {
            let path = files[left.file].path().to_owned();
            let reason = format!("it has no place for this tensor of shape {:?}", left.shape);
            return Err(ModelError::UnexpectedTensor { tensor: left.name, path, reason });
        }
        Ok(Self { files, entries, tied, progress: None, read_bytes: AtomicU64::new(0) })
    }

    /// Whether the model has a tensor of this role.
    pub fn has(&self, role: Role) -> bool {
        self.entry(role).is_ok()
    }

    /// Every role with a tensor of its own, in a fixed order. A tied output layer is not listed.
    pub fn roles(&self) -> impl ExactSizeIterator<Item = Role> + '_ {
        self.entries.keys().copied()
    }

    /// Logical shape: `[out, in]` for linear layers, whatever the order in the file.
    ///
    /// # Errors
    /// [`ModelError::NoSuchRole`].
    pub fn shape(&self, role: Role) -> Result<&[usize], ModelError> {
        Ok(&self.entry(role)?.shape)
    }

    /// Number format in the file.
    ///
    /// # Errors
    /// [`ModelError::NoSuchRole`].
    pub fn stored_type(&self, role: Role) -> Result<StoredType, ModelError> {
        Ok(self.entry(role)?.raw.stored)
    }

    /// Name in the file, for messages.
    ///
    /// # Errors
    /// [`ModelError::NoSuchRole`].
    pub fn name(&self, role: Role) -> Result<&str, ModelError> {
        Ok(&self.entry(role)?.raw.name)
    }

    /// Bytes that all weights take in their files.
    pub fn stored_bytes(&self) -> u64 {
        let bytes = |e: &Entry| e.raw.stored.bytes_of(e.shape.iter().product()).unwrap_or(0) as u64;
        self.entries.values().map(bytes).sum()
    }

    /// Reads a tensor into `out`, row-major in its logical shape, converting to `T` (nearest, ties to even).
    ///
    /// # Errors
    /// [`ModelError::NoSuchRole`]; [`ModelError::Buffer`] when `out` has another length; [`ModelError::Io`].
    pub fn read<T: Element>(&self, role: Role, out: &mut [T]) -> Result<(), ModelError> {
        let entry = self.entry(role)?;
        let expected = entry.elements();
        if out.len() != expected {
            return Err(ModelError::Buffer { role, expected, found: out.len() });
        }
        self.read_entry(entry, out)
    }

    /// As [`read`](Self::read) into a new vector.
    ///
    /// # Errors
    /// [`ModelError::NoSuchRole`]; [`ModelError::Io`].
    pub fn to_vec<T: Element>(&self, role: Role) -> Result<Vec<T>, ModelError> {
        let mut out = vec![T::default(); self.entry(role)?.elements()];
        self.read(role, &mut out)?;
        Ok(out)
    }

    /// Reads several tensors of equal row length one below the other, for example q, k and v into one matrix.
    ///
    /// # Errors
    /// As [`read`](Self::read), for the length of all together; [`ModelError::Join`] when row lengths differ.
    pub fn read_joined<T: Element>(&self, roles: &[Role], out: &mut [T]) -> Result<(), ModelError> {
        self.check_joined(roles, out.len())?;
        let mut rest = out;
        for role in roles {
            let (part, after) = rest.split_at_mut(self.entry(*role)?.elements());
            self.read_entry(self.entry(*role)?, part)?;
            rest = after;
        }
        Ok(())
    }

    /// As [`read_joined`](Self::read_joined), transposed: `out` is `[in, out of all]`, the right operand of `x * W`.
    ///
    /// Needs memory for one more copy of the largest tensor while it runs.
    ///
    /// # Errors
    /// As [`read_joined`](Self::read_joined).
    pub fn read_transposed<T: Element>(&self, roles: &[Role], out: &mut [T]) -> Result<(), ModelError> {
        const TILE: usize = 64;
        let width = self.check_joined(roles, out.len())?;
        let height = out.len() / width.max(1);
        let mut start = 0;
        for role in roles {
            let entry = self.entry(*role)?;
            let rows = entry.shape[0];
            let from = self.to_vec::<T>(*role)?;
            out.par_chunks_mut(TILE * height).enumerate().for_each(|(tile, out)| {
                for first in (0..rows).step_by(TILE) {
                    for (column, out) in out.chunks_mut(height).enumerate() {
                        let column = tile * TILE + column;
                        for row in first..rows.min(first + TILE) {
                            out[start + row] = from[row * width + column];
                        }
                    }
                }
            });
            start += rows;
        }
        Ok(())
    }

    /// The tensor in its stored format, or as `f32` when that is quantised: borrowed from the file's memory map where it
    /// lies there in logical order and aligned, otherwise read.
    ///
    /// # Errors
    /// [`ModelError::NoSuchRole`]; [`ModelError::Io`].
    pub fn view(&self, role: Role) -> Result<TensorView<'_>, ModelError> {
        let entry = self.entry(role)?;
        let values = match entry.raw.stored.dense() {
            Some(DType::F16) => Values::F16(self.borrow_or_read::<f16>(role, entry)?),
            Some(DType::Bf16) => Values::Bf16(self.borrow_or_read::<bf16>(role, entry)?),
            _ => Values::F32(self.borrow_or_read::<f32>(role, entry)?),
        };
        Ok(TensorView::new(&entry.shape, values))
    }

    /// The quantised blocks of a tensor, in logical row order; `None` for plain formats.
    ///
    /// # Errors
    /// [`ModelError::NoSuchRole`]; [`ModelError::Io`].
    pub fn blocks(&self, role: Role) -> Result<Option<Blocks<'_>>, ModelError> {
        let entry = self.entry(role)?;
        let stored = entry.raw.stored;
        if stored.dense().is_some() {
            return Ok(None);
        }
        let row_bytes = stored.bytes_of(entry.row_elements()).unwrap_or(0);
        let bytes = match entry.layout {
            Layout::Interleaved { head_dim } => {
                let mut out = vec![0; entry.shape[0] * row_bytes];
                self.files[entry.raw.file].read_at(&mut out, entry.raw.offset)?;
                for head in out.chunks_mut(head_dim * row_bytes) {
                    let stored = head.to_vec();
                    for (row, out) in head.chunks_mut(row_bytes).enumerate() {
                        out.copy_from_slice(&stored[interleaved(row, head_dim) * row_bytes..][..row_bytes]);
                    }
                }
                Cow::Owned(out)
            }
            Layout::Rows { start } | Layout::Columns { start } => {
                let first = byte_position(entry.raw.offset) + start * row_bytes;
                Cow::Borrowed(&self.files[entry.raw.file].bytes()[first..][..entry.shape[0] * row_bytes])
            }
        };
        Ok(Some(Blocks::new(&entry.shape, stored, bytes)))
    }

    /// Lets the kernel drop the pages that borrowed views of this tensor brought into memory. Reads never bring any.
    ///
    /// Views stay valid: a page touched again is read from the file again.
    ///
    /// # Errors
    /// [`ModelError::NoSuchRole`].
    pub fn release(&self, role: Role) -> Result<(), ModelError> {
        let raw = &self.entry(role)?.raw;
        let len = raw.stored.bytes_of(raw.shape.iter().product()).unwrap_or(0);
        self.files[raw.file].release(byte_position(raw.offset), len);
        Ok(())
    }

    /// Tells `progress` of every read from now on.
    pub(crate) fn tell(&mut self, progress: Option<LoadProgress>) {
        self.progress = progress;
    }

    fn note_read(&self, bytes: usize) {
        if let Some(progress) = &self.progress {
            let all = self.stored_bytes();
            let done = self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
            // What is read twice does not count twice.
            progress.at(done.min(all), all);
        }
    }

    pub(crate) fn files(&self) -> &[TensorFile] {
        &self.files
    }

    fn entry(&self, role: Role) -> Result<&Entry, ModelError> {
        let stored = if self.tied && role == Role::LmHead { Role::TokenEmbedding } else { role };
        self.entries.get(&stored).ok_or(ModelError::NoSuchRole(role))
    }

    /// Checks that rows have one length and `out` holds all of them; gives that length.
    fn check_joined(&self, roles: &[Role], out: usize) -> Result<usize, ModelError> {
        let Some(first) = roles.first() else { return Ok(1) };
        let expected = self.entry(*first)?.row_elements();
        let mut total = 0;
        for role in roles {
            let entry = self.entry(*role)?;
            if entry.row_elements() != expected {
                return Err(ModelError::Join { role: *role, expected, found: entry.row_elements() });
            }
            total += entry.elements();
        }
        if out != total {
            return Err(ModelError::Buffer { role: *first, expected: total, found: out });
        }
        Ok(expected)
    }

    fn borrow_or_read<T: Element>(&self, role: Role, entry: &Entry) -> Result<Cow<'_, [T]>, ModelError> {
        if let Layout::Rows { start } = entry.layout
            && entry.raw.stored.dense() == Some(T::DTYPE)
        {
            let first = byte_position(entry.raw.offset) + start * entry.row_elements() * size_of::<T>();
            let bytes = &self.files[entry.raw.file].bytes()[first..][..entry.elements() * size_of::<T>()];
            if let Ok(values) = bytemuck::try_cast_slice(bytes) {
                return Ok(Cow::Borrowed(values));
            }
        }
        self.to_vec(role).map(Cow::Owned)
    }

    fn read_entry<T: Element>(&self, entry: &Entry, out: &mut [T]) -> Result<(), ModelError> {
        let row = entry.row_elements();
        let granule = match entry.layout {
            Layout::Interleaved { head_dim } => head_dim,
            Layout::Rows { .. } | Layout::Columns { .. } => 1,
        };
        let rows = (TASK_ELEMENTS / row).next_multiple_of(granule).max(granule);
        out.par_chunks_mut(rows * row).enumerate().try_for_each_init(Scratch::default, |scratch, (task, out)| {
            self.read_rows(entry, task * rows, out, scratch)?;
            self.note_read(entry.raw.stored.bytes_of(out.len()).unwrap_or(0));
            Ok(())
        })
    }

    /// Reads whole logical rows from `first` on, as many as `out` holds.
    fn read_rows<T: Element>(&self, entry: &Entry, first: usize, out: &mut [T], scratch: &mut Scratch) -> Result<(), ModelError> {
        let file = &self.files[entry.raw.file];
        let (stored, row) = (entry.raw.stored, entry.row_elements());
        let position = |elements: usize| entry.raw.offset + (elements / stored.block_elements() * stored.block_bytes()) as u64;
        let bytes = |elements: usize| elements / stored.block_elements() * stored.block_bytes();
        match entry.layout {
            Layout::Rows { start } if stored.dense() == Some(T::DTYPE) => {
                file.read_at(bytemuck::cast_slice_mut(out), position((start + first) * row))
            }
            Layout::Rows { start } => {
                file.read_at(scratch.bytes(bytes(out.len())), position((start + first) * row))?;
                scratch.decode(stored, out);
                Ok(())
            }
            Layout::Interleaved { head_dim } => {
                let mut head = vec![T::default(); head_dim * row];
                for (index, out) in out.chunks_mut(head_dim * row).enumerate() {
                    file.read_at(scratch.bytes(bytes(head.len())), position((first + index * head_dim) * row))?;
                    scratch.decode(stored, &mut head);
                    for (row_in_head, out) in out.chunks_mut(row).enumerate() {
                        out.copy_from_slice(&head[interleaved(row_in_head, head_dim) * row..][..row]);
                    }
                }
                Ok(())
            }
            Layout::Columns { start } => {
                let (columns, stored_row) = (out.len() / row, entry.raw.shape[1]);
                let mut segment = vec![T::default(); columns];
                for stored_index in 0..row {
                    let at = position(stored_index * stored_row + start + first);
                    file.read_at(scratch.bytes(bytes(columns)), at)?;
                    scratch.decode(stored, &mut segment);
                    for (column, value) in segment.iter().enumerate() {
                        out[column * row + stored_index] = *value;
                    }
                }
                Ok(())
            }
        }
    }
}

impl Entry {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn row_elements(&self) -> usize {
        self.shape[1..].iter().product()
    }
}

/// Position inside a mapped file, whose length was checked against it.
fn byte_position(offset: u64) -> usize {
    usize::try_from(offset).expect("a mapped file is no longer than memory")
}

/// The stored row, within its head, of a logical row: ggml pairs `i` with `i + head_dim / 2` as neighbours.
const fn interleaved(row: usize, head_dim: usize) -> usize {
    let half = head_dim / 2;
    2 * (row % half) + row / half
}
