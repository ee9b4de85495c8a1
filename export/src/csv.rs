//! Tables as CSV with a line of names. What there is none of is an empty field.

use crate::{ExportError, table::Table};

/// `table` as CSV.
///
/// # Errors
/// [`ExportError::Io`], which writing into memory does not give.
pub fn csv(table: &Table) -> Result<Vec<u8>, ExportError> {
    let mut file = CsvFile::new(table)?;
    file.add(table)?;
    file.finish()
}

/// A CSV file so far.
pub(crate) struct CsvFile {
    name: &'static str,
    writer: csv::Writer<Vec<u8>>,
}

impl CsvFile {
    pub(crate) fn new(table: &Table) -> Result<Self, ExportError> {
        let (name, mut writer) = (table.name(), csv::Writer::from_writer(Vec::new()));
        writer.write_record(table.columns().iter().map(|c| c.name)).map_err(|e| wrong(name, e))?;
        Ok(Self { name, writer })
    }

    pub(crate) fn add(&mut self, table: &Table) -> Result<(), ExportError> {
        let mut field = String::new();
        for row in 0..table.rows() {
            for column in table.columns() {
                field.clear();
                column.values.write(row, &mut field);
                self.writer.write_field(&field).map_err(|e| wrong(self.name, e))?;
            }
            self.writer.write_record(None::<&[u8]>).map_err(|e| wrong(self.name, e))?;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Vec<u8>, ExportError> {
        self.writer.into_inner().map_err(|e| wrong(self.name, e.into_error().into()))
    }
}

fn wrong(name: &str, e: csv::Error) -> ExportError {
    ExportError::Io { action: "write", path: name.into(), source: e.into() }
}
