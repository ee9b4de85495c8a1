//! GGUF files, versions 2 and 3: header, metadata and tensor list. Every length is checked before it is believed.

mod reader;
pub(crate) mod tokenizer;

use std::collections::BTreeMap;

use self::reader::Reader;
pub(crate) use self::reader::Value;
use crate::{
    ModelError,
    file::{RawTensor, TensorFile},
    stored::StoredType,
};

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: u32 = 4;

/// What a GGUF file says before its tensor data.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, RawTensor>,
}

/// Whether the file starts as a GGUF file does.
pub(crate) fn is_gguf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Reads the header of an open file.
pub(crate) fn read_header(file: &TensorFile) -> Result<Header, ModelError> {
    let mut reader = Reader::new(file.path(), file.bytes());
    if reader.take(4)? != MAGIC {
        return Err(reader.damaged("it does not start with the letters GGUF"));
    }
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        return Err(ModelError::unsupported(file.path(), "GGUF version", version, "2, 3 (little-endian)"));
    }
    let (tensor_count, metadata_count) = (reader.u64()?, reader.u64()?);
    let metadata = read_metadata(&mut reader, metadata_count)?;
    let infos = read_tensor_infos(&mut reader, tensor_count)?;
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(value) => value
            .unsigned()
            .filter(|a| a.is_power_of_two() && (8..=1 << 20).contains(a))
            .ok_or_else(|| reader.damaged("general.alignment is no power of two in 8..=1048576"))?,
    };
    let data = reader.position().next_multiple_of(alignment);
    place(file, infos, data, alignment).map(|tensors| Header { metadata, tensors })
}

fn read_metadata(reader: &mut Reader<'_>, count: u64) -> Result<BTreeMap<String, Value>, ModelError> {
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        let key = reader.string()?.to_owned();
        let value = reader.value()?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(reader.damaged(&format!("metadata key `{key}` is there twice")));
        }
    }
    Ok(metadata)
}

/// One entry of the tensor list, its offset relative to the data section.
struct Info {
    name: String,
    stored: StoredType,
    shape: Vec<usize>,
    offset: u64,
    len: u64,
}

fn read_tensor_infos(reader: &mut Reader<'_>, count: u64) -> Result<Vec<Info>, ModelError> {
    let mut infos = Vec::new();
    for _ in 0..count {
        let name = reader.string()?.to_owned();
        let dimensions = reader.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(reader.damaged(&format!("tensor `{name}` has {dimensions} dimensions, expected 1 to 4")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(reader.u64()?);
        }
        // GGUF lists the innermost dimension first.
        shape.reverse();
        let shape: Option<Vec<usize>> = shape.into_iter().map(|d| usize::try_from(d).ok()).collect();
        let number = reader.u32()?;
        let offset = reader.u64()?;
        let stored = StoredType::from_ggml(number).ok_or_else(|| ModelError::TensorType {
            tensor: name.clone(),
            path: reader.path().to_owned(),
            found: format!("ggml type {number}"),
            supported: StoredType::SUPPORTED,
        })?;
        let elements = |shape: &Vec<usize>| shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let sized = shape.and_then(|s| elements(&s).and_then(|n| stored.bytes_of(n)).map(|len| (s, len)));
        let Some((shape, len)) = sized else {
            return Err(reader.damaged(&format!("tensor `{name}` has a shape that is no whole number of {stored} blocks")));
        };
        infos.push(Info { name, stored, shape, offset, len: len as u64 });
    }
    Ok(infos)
}

/// Turns relative offsets into positions; refuses what overlaps or leaves the file.
fn place(file: &TensorFile, mut infos: Vec<Info>, data: u64, alignment: u64) -> Result<BTreeMap<String, RawTensor>, ModelError> {
    let damaged = |reason: String| ModelError::damaged(file.path(), reason);
    let available = (file.bytes().len() as u64).saturating_sub(data);
    infos.sort_by_key(|info| (info.offset, info.len));
    let mut end_of_last = 0;
    let mut tensors = BTreeMap::new();
    for Info { name, stored, shape, offset, len } in infos {
        let end = offset.checked_add(len).filter(|end| *end <= available);
        let Some(end) = end else {
            return Err(damaged(format!(
                "tensor `{name}` needs {len} bytes at {offset}, the data section has {available}: the file is truncated"
            )));
        };
        if !offset.is_multiple_of(alignment) {
            return Err(damaged(format!("tensor `{name}` starts at {offset}, no multiple of {alignment}")));
        }
        if offset < end_of_last {
            return Err(damaged(format!("tensor `{name}` at {offset} overlaps the one before, which ends at {end_of_last}")));
        }
        end_of_last = end;
        let raw = RawTensor { name: name.clone(), file: 0, offset: data + offset, stored, shape };
        if tensors.insert(name.clone(), raw).is_some() {
            return Err(damaged(format!("tensor `{name}` is listed twice")));
        }
    }
    Ok(tensors)
}
