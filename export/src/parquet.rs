//! Tables as Parquet: integers delta-coded, words by dictionary, pages compressed with Snappy.

use crate::{
    ExportError,
    table::{Table, Text, Values},
};
use parquet::{
    basic::{Compression, Encoding, LogicalType, Repetition, Type as Physical},
    data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type},
    file::{
        metadata::KeyValue,
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::types::{ColumnPath, Type},
};
use std::{ops::Range, sync::Arc};

/// Rows of a row group: what DuckDB reads as one unit of work.
pub(crate) const GROUP: usize = 122_880;

/// `table` as a Parquet file. `notes` go into its key-value metadata.
///
/// # Errors
/// [`ExportError::Parquet`].
pub fn parquet(table: &Table, notes: &[(&str, &str)]) -> Result<Vec<u8>, ExportError> {
    let mut file = ParquetFile::new(table, notes)?;
    file.add(table)?;
    file.finish()
}

/// A Parquet file so far.
pub(crate) struct ParquetFile(SerializedFileWriter<Vec<u8>>);

impl ParquetFile {
    pub(crate) fn new(table: &Table, notes: &[(&str, &str)]) -> Result<Self, ExportError> {
        let fields =
            table.columns().iter().map(|column| field(column.name, &column.values).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let schema = Type::group_type_builder(table.name()).with_fields(fields).build()?;
        let notes = notes.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), (*value).to_owned()));
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("phase-export ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(notes.collect()));
        for column in table.columns() {
            let path = ColumnPath::from(column.name);
            properties = match &column.values {
                Values::Whole(_) | Values::MaybeWhole(_) => {
                    properties.set_column_dictionary_enabled(path.clone(), false).set_column_encoding(path, Encoding::DELTA_BINARY_PACKED)
                }
                Values::MaybeReal(_) => properties.set_column_dictionary_enabled(path, false),
                Values::Text(_) => properties,
            };
        }
        Ok(Self(SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties.build()))?))
    }

    /// Adds the rows of a table of the same columns, in row groups of their own.
    pub(crate) fn add(&mut self, table: &Table) -> Result<(), ExportError> {
        let words: Vec<Option<Vec<ByteArray>>> = table.columns().iter().map(|column| bytes(&column.values)).collect();
        let mut from = 0;
        while from < table.rows() {
            let rows = from..(from + GROUP).min(table.rows());
            let mut group = self.0.next_row_group()?;
            for (column, words) in table.columns().iter().zip(&words) {
                // There is a writer for every field of the schema.
                if let Some(mut writer) = group.next_column()? {
                    write(&mut writer, &column.values, words.as_deref(), rows.clone())?;
                    writer.close()?;
                }
            }
            group.close()?;
            from = rows.end;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Vec<u8>, ExportError> {
        Ok(self.0.into_inner()?)
    }
}

fn field(name: &str, values: &Values) -> Result<Type, ExportError> {
    let (physical, logical) = match values {
        Values::Whole(_) | Values::MaybeWhole(_) => (Physical::INT64, Some(LogicalType::integer(64, false))),
        Values::MaybeReal(_) => (Physical::DOUBLE, None),
        Values::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
    };
    let optional = match values {
        Values::Whole(_) => false,
        Values::MaybeWhole(_) | Values::MaybeReal(_) => true,
        Values::Text(text) => text.has_nulls(),
    };
    let repetition = if optional { Repetition::OPTIONAL } else { Repetition::REQUIRED };
    Ok(Type::primitive_type_builder(name, physical).with_logical_type(logical).with_repetition(repetition).build()?)
}

/// The words of a text column, each once: rows share them.
fn bytes(values: &Values) -> Option<Vec<ByteArray>> {
    match values {
        Values::Text(text) => Some(text.words().iter().map(|word| ByteArray::from(word.as_str())).collect()),
        _ => None,
    }
}

fn write(
    writer: &mut SerializedColumnWriter<'_>,
    values: &Values,
    words: Option<&[ByteArray]>,
    rows: Range<usize>,
) -> Result<(), ExportError> {
    match values {
        Values::Whole(all) => {
            let part: Vec<i64> = all[rows].iter().map(|v| v.cast_signed()).collect();
            writer.typed::<Int64Type>().write_batch(&part, None, None)?;
        }
        Values::MaybeWhole(all) => {
            let (levels, part) = known(&all[rows], |v| v.cast_signed());
            writer.typed::<Int64Type>().write_batch(&part, Some(&levels), None)?;
        }
        Values::MaybeReal(all) => {
            let (levels, part) = known(&all[rows], |v| v);
            writer.typed::<DoubleType>().write_batch(&part, Some(&levels), None)?;
        }
        Values::Text(text) => write_text(writer, text, words.unwrap_or_default(), rows)?,
    }
    Ok(())
}

fn write_text(writer: &mut SerializedColumnWriter<'_>, text: &Text, words: &[ByteArray], rows: Range<usize>) -> Result<(), ExportError> {
    let rows = &text.rows()[rows];
    let part: Vec<ByteArray> = rows.iter().filter_map(|at| words.get(*at as usize).cloned()).collect();
    let levels: Option<Vec<i16>> = text.has_nulls().then(|| rows.iter().map(|at| i16::from((*at as usize) < words.len())).collect());
    writer.typed::<ByteArrayType>().write_batch(&part, levels.as_deref(), None)?;
    Ok(())
}

/// Definition levels, and the values that are there.
fn known<T: Copy, U>(values: &[Option<T>], as_written: impl Fn(T) -> U) -> (Vec<i16>, Vec<U>) {
    (values.iter().map(|v| i16::from(v.is_some())).collect(), values.iter().flatten().map(|v| as_written(*v)).collect())
}
