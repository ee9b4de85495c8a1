//! A table's file while it is written, some rows after others.

use crate::{ExportError, Format, csv::CsvFile, parquet::ParquetFile, table::Table};

/// The bytes of a CSV or Parquet file so far.
pub(crate) enum TableFile {
    Csv(CsvFile),
    Parquet(ParquetFile),
}

impl TableFile {
    /// A file of the columns that `table` has, without its rows.
    pub(crate) fn new(format: Format, table: &Table, notes: &[(&str, &str)]) -> Result<Self, ExportError> {
        Ok(match format {
            Format::Csv => Self::Csv(CsvFile::new(table)?),
            _ => Self::Parquet(ParquetFile::new(table, notes)?),
        })
    }

    /// Adds the rows of a table of the same columns.
    pub(crate) fn add(&mut self, table: &Table) -> Result<(), ExportError> {
        match self {
            Self::Csv(file) => file.add(table),
            Self::Parquet(file) => file.add(table),
        }
    }

    pub(crate) fn finish(self) -> Result<Vec<u8>, ExportError> {
        match self {
            Self::Csv(file) => file.finish(),
            Self::Parquet(file) => file.finish(),
        }
    }
}
