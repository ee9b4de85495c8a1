//! Tables as CSV with a line of names. What there is none of is an empty field.

use crate::{ExportError, table::Table};

/// `table` as CSV.
///
/// # Errors
/// [`ExportError::Io`], which writing into memory does not give.
pub fn csv(table: &Table) -> Result<Vec<u8>, ExportError> {
    let wrong = |e: csv::Error| ExportError::Io { action: "write", path: table.name().into(), source: e.into() };
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(table.columns().iter().map(|c| c.name)).map_err(wrong)?;
    let mut field = String::new();
    for row in 0..table.rows() {
        for column in table.columns() {
            field.clear();
            column.values.write(row, &mut field);
            writer.write_field(&field).map_err(wrong)?;
        }
        writer.write_record(None::<&[u8]>).map_err(wrong)?;
    }
    writer.into_inner().map_err(|e| wrong(e.into_error().into()))
}
