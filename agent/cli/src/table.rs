//! Columns of text, for people and for `cut`.

use crate::manifests::one_line;

/// Rows of as many cells as the table has columns.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    is_headed: bool,
}

impl<const N: usize> Table<N> {
    /// A table under names of its columns.
    pub(crate) fn headed(columns: [&str; N]) -> Self {
        Self { rows: vec![columns.map(str::to_owned)], is_headed: true }
    }

    /// A table that says by itself what its columns are.
    pub(crate) const fn plain() -> Self {
        Self { rows: Vec::new(), is_headed: false }
    }

    pub(crate) fn add(&mut self, row: [String; N]) {
        // What comes out of a cluster may hold line breaks and the controls of terminals.
        self.rows
            .push(row.map(|cell| if cell.is_empty() { "-".to_owned() } else { one_line(&cell) }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == usize::from(self.is_headed)
    }

    /// The lines, each column as wide as its widest cell and the last as it is.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        });
        self.rows.iter().map(move |row| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::headed(["NAME", "STATE", "WHY"]);
        assert!(table.is_empty());
        table.add(["a".to_owned(), "Ready".to_owned(), String::new()]);
        table.add(["longer".to_owned(), "No".to_owned(), "two\nlines \u{1b}[31m".to_owned()]);
        assert!(!table.is_empty());
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(
            lines,
            ["NAME    STATE  WHY", "a       Ready  -", "longer  No     two lines  [31m"]
        );
    }
}
