//! Markdown tables whose columns line up in plain text too.

use std::fmt;

/// Rows of text under a header; columns whose cells all look like numbers are set to the right.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row; a missing cell stays empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<_> = cells.into_iter().map(|c| c.replace('|', "\\|").replace('\n', " ")).collect();
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
    }

    fn is_numeric(&self, column: usize) -> bool {
        self.rows.iter().any(|r| !r[column].is_empty()) && self.rows.iter().all(|r| numeric(&r[column]))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn numeric(text: &str) -> bool {
    text.is_empty() || text == "-" || text.starts_with(|c: char| c.is_ascii_digit())
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<_> = (0..self.header.len())
            .map(|i| {
                let wide = self.rows.iter().map(|r| width(&r[i])).chain([width(&self.header[i]), 3]).max().unwrap_or(3);
                (wide, self.is_numeric(i))
            })
            .collect();
        let mut line = |cells: &[String]| {
            write!(f, "|")?;
            for (cell, (wide, right)) in cells.iter().zip(&columns) {
                let fill = " ".repeat(wide - width(cell));
                if *right { write!(f, " {fill}{cell} |")? } else { write!(f, " {cell}{fill} |")? }
            }
            writeln!(f)
        };
        line(&self.header)?;
        let rule: Vec<_> =
            columns.iter().map(|(wide, right)| if *right { format!("{}:", "-".repeat(wide - 1)) } else { "-".repeat(*wide) }).collect();
        line(&rule)?;
        self.rows.iter().try_for_each(|row| line(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_right() {
        let mut table = Table::new(&["cell", "ms"]);
        table.row(["a|b".to_owned(), "1.5".to_owned()]);
        table.row(["long name".to_owned()]);
        assert_eq!(table.to_string(), "| cell      |  ms |\n| --------- | --: |\n| a\\|b      | 1.5 |\n| long name |     |\n");
    }
}
