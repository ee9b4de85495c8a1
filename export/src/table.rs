//! Tables by column, as they go into Parquet and CSV.

use std::collections::HashMap;

/// A table: columns of one length.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    name: &'static str,
    rows: usize,
    columns: Vec<Column>,
}

/// One column.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name and its values")]
pub struct Column {
    /// Its name, with the unit in it.
    pub name: &'static str,
    /// Its values.
    pub values: Values,
}

/// The values of a column. `None` is "there is none", in every format: an empty field in CSV, `NULL` in Parquet.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Values {
    /// Whole numbers, all known.
    Whole(Vec<u64>),
    /// Whole numbers.
    MaybeWhole(Vec<Option<u64>>),
    /// Numbers.
    MaybeReal(Vec<Option<f64>>),
    /// Words.
    Text(Text),
}

/// A column of words, each kept once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    words: Vec<String>,
    rows: Vec<u32>,
    known: HashMap<String, u32>,
    nulls: bool,
}

/// The row of a missing word.
const NONE: u32 = u32::MAX;

impl Text {
    /// A column in which words may be missing, also when none of its rows says so.
    pub(crate) fn with_nulls() -> Self {
        Self { nulls: true, ..Self::default() }
    }

    /// Adds a word.
    pub fn push(&mut self, word: &str) {
        // Rows that follow each other mostly say the same.
        let last = self.rows.last().copied().unwrap_or(NONE);
        let at = match self.words.get(last as usize) {
            Some(same) if same == word => last,
            _ => self.at(word),
        };
        self.rows.push(at);
    }

    /// Adds a word, or that there is none.
    pub fn push_maybe(&mut self, word: Option<&str>) {
        match word {
            Some(word) => self.push(word),
            None => {
                self.nulls = true;
                self.rows.push(NONE);
            }
        }
    }

    fn at(&mut self, word: &str) -> u32 {
        if let Some(at) = self.known.get(word) {
            return *at;
        }
        // Fewer rows than u32 counts fit into memory, and words are no more than rows.
        let at = u32::try_from(self.words.len()).unwrap_or(NONE - 1);
        self.words.push(word.to_owned());
        self.known.insert(word.to_owned(), at);
        at
    }

    /// The word of a row.
    pub fn get(&self, row: usize) -> Option<&str> {
        let at = *self.rows.get(row)?;
        self.words.get(at as usize).map(String::as_str)
    }

    pub(crate) fn words(&self) -> &[String] {
        &self.words
    }

    /// Positions in [`words`](Self::words), beyond its end where there is none.
    pub(crate) fn rows(&self) -> &[u32] {
        &self.rows
    }

    pub(crate) fn has_nulls(&self) -> bool {
        self.nulls
    }
}

impl<'t> FromIterator<Option<&'t str>> for Text {
    fn from_iter<I: IntoIterator<Item = Option<&'t str>>>(words: I) -> Self {
        let mut text = Self::default();
        words.into_iter().for_each(|word| text.push_maybe(word));
        text
    }
}

impl<'t> FromIterator<&'t str> for Text {
    fn from_iter<I: IntoIterator<Item = &'t str>>(words: I) -> Self {
        words.into_iter().map(Some).collect()
    }
}

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Whole(v) => v.len(),
            Self::MaybeWhole(v) => v.len(),
            Self::MaybeReal(v) => v.len(),
            Self::Text(v) => v.rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of one row as CSV has it, added to `out`: nothing where there is none.
    pub(crate) fn write(&self, row: usize, out: &mut String) {
        use std::fmt::Write;
        let _ = match self {
            Self::Whole(v) => v.get(row).map_or(Ok(()), |v| write!(out, "{v}")),
            Self::MaybeWhole(v) => v.get(row).copied().flatten().map_or(Ok(()), |v| write!(out, "{v}")),
            Self::MaybeReal(v) => v.get(row).copied().flatten().map_or(Ok(()), |v| write!(out, "{v}")),
            Self::Text(v) => out.write_str(v.get(row).unwrap_or_default()),
        };
    }
}

impl Table {
    /// A table of `columns`, which must be of one length: a longer one is cut to the shortest.
    pub(crate) fn new(name: &'static str, columns: Vec<Column>) -> Self {
        let rows = columns.iter().map(|c| c.values.len()).min().unwrap_or(0);
        debug_assert!(columns.iter().all(|c| c.values.len() == rows), "{name}: columns of one length");
        Self { name, rows, columns }
    }

    /// Its name, which is also that of its file.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Its columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }
}
