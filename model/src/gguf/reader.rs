//! A cursor over a GGUF header that can't run past its end, and the metadata values it yields.

use std::path::Path;

use crate::ModelError;

/// One metadata value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Array),
}

/// A metadata array, left in the file: vocabularies have a hundred thousand entries that opening does not need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Array {
    kind: u32,
    len: u64,
    start: usize,
}

const U8: u32 = 0;
const I8: u32 = 1;
const U16: u32 = 2;
const I16: u32 = 3;
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;
const I64: u32 = 11;
const F64: u32 = 12;

impl Value {
    pub(crate) fn unsigned(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    pub(crate) const fn float(&self) -> Option<f64> {
        match self {
            Self::Float(x) => Some(*x),
            _ => None,
        }
    }

    pub(crate) const fn flag(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(s) => Some(s),
            _ => None,
        }
    }

    pub(crate) const fn array(&self) -> Option<Array> {
        match self {
            Self::Array(array) => Some(*array),
            _ => None,
        }
    }

    /// The value for an error message.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Unsigned(n) => n.to_string(),
            Self::Signed(n) => n.to_string(),
            Self::Float(x) => x.to_string(),
            Self::Bool(b) => b.to_string(),
            Self::Text(s) => format!("{s:?}"),
            Self::Array(array) => format!("an array of {}", array.len),
        }
    }
}

impl Array {
    /// Reads an array of strings; `None` when it is of another type.
    pub(crate) fn texts(self, path: &Path, bytes: &[u8]) -> Result<Option<Vec<String>>, ModelError> {
        if self.kind != STRING {
            return Ok(None);
        }
        let mut reader = Reader { path, bytes, at: self.start };
        (0..self.len).map(|_| reader.string().map(str::to_owned)).collect::<Result<_, _>>().map(Some)
    }

    /// Reads an array of integers; `None` when it is of another type.
    pub(crate) fn integers(self, path: &Path, bytes: &[u8]) -> Result<Option<Vec<i64>>, ModelError> {
        let mut reader = Reader { path, bytes, at: self.start };
        let mut values = Vec::new();
        for _ in 0..self.len {
            match reader.scalar(self.kind)? {
                Value::Unsigned(n) => values.push(i64::try_from(n).unwrap_or(i64::MAX)),
                Value::Signed(n) => values.push(n),
                _ => return Ok(None),
            }
        }
        Ok(Some(values))
    }

    /// Reads an array of floats; `None` when it is of another type.
    pub(crate) fn floats(self, path: &Path, bytes: &[u8]) -> Result<Option<Vec<f64>>, ModelError> {
        let mut reader = Reader { path, bytes, at: self.start };
        let mut values = Vec::new();
        for _ in 0..self.len {
            match reader.scalar(self.kind)? {
                Value::Float(x) => values.push(x),
                _ => return Ok(None),
            }
        }
        Ok(Some(values))
    }
}

/// A position in a file's bytes.
pub(super) struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0 }
    }

    pub(super) const fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) const fn position(&self) -> u64 {
        self.at as u64
    }

    pub(super) fn damaged(&self, reason: &str) -> ModelError {
        ModelError::damaged(self.path, format!("{reason} (byte {})", self.at))
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], ModelError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(
                self.damaged(&format!("the header goes on for {len} bytes and the file ends at {}: it is truncated", self.bytes.len()))
            );
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ModelError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ModelError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn string(&mut self) -> Result<&'a str, ModelError> {
        let len = self.u64()?;
        let len = usize::try_from(len).map_err(|_| self.damaged("a string is longer than memory"))?;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.damaged("a string is not UTF-8"))
    }

    pub(super) fn value(&mut self) -> Result<Value, ModelError> {
        match self.u32()? {
            ARRAY => self.skip_array().map(Value::Array),
            kind => self.scalar(kind),
        }
    }

    fn scalar(&mut self, kind: u32) -> Result<Value, ModelError> {
        Ok(match kind {
            U8 => Value::Unsigned(self.array::<1>()?[0].into()),
            I8 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            U16 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            I16 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            U32 => Value::Unsigned(self.u32()?.into()),
            I32 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            F32 => Value::Float(shortest(f32::from_le_bytes(self.array()?))),
            BOOL => match self.array::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(self.damaged(&format!("a truth value is {other}, expected 0 or 1"))),
            },
            STRING => Value::Text(self.string()?.to_owned()),
            U64 => Value::Unsigned(self.u64()?),
            I64 => Value::Signed(i64::from_le_bytes(self.array()?)),
            F64 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(self.damaged(&format!("metadata value type {other} is unknown"))),
        })
    }

    fn skip_array(&mut self) -> Result<Array, ModelError> {
        let (kind, len) = (self.u32()?, self.u64()?);
        let start = self.at;
        match kind {
            STRING => {
                for _ in 0..len {
                    let bytes = self.u64()?;
                    self.skip(bytes, 1)?;
                }
            }
            U8 | I8 | BOOL => self.skip(len, 1)?,
            U16 | I16 => self.skip(len, 2)?,
            U32 | I32 | F32 => self.skip(len, 4)?,
            U64 | I64 | F64 => self.skip(len, 8)?,
            other => return Err(self.damaged(&format!("arrays of type {other} are not supported"))),
        }
        Ok(Array { kind, len, start })
    }

    fn skip(&mut self, count: u64, size: u64) -> Result<(), ModelError> {
        let bytes = count.checked_mul(size).and_then(|n| usize::try_from(n).ok());
        let bytes = bytes.ok_or_else(|| self.damaged("an array is longer than memory"))?;
        self.take(bytes).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}

/// The shortest decimal that is this `f32`: writers meant 1e-5, not 9.99999974737875e-6.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}
