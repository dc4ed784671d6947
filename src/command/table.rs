//! Rows for people: aligned, and coloured where that is wanted.

use std::io::{self, Write};

/// One field of a row.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    color: Option<Paint>,
}

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Good,
    Bad,
    Notable,
    Active,
}

impl Paint {
    const fn code(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[31m",
            Self::Notable => "\x1b[33m",
            Self::Active => "\x1b[36m",
        }
    }
}

impl Cell {
    pub(super) fn painted(text: impl Into<String>, color: Paint) -> Self {
        Self { color: Some(color), ..text.into().into() }
    }
}

impl From<String> for Cell {
    /// Without control characters: a command line may hold some, and they must not reach a terminal.
    fn from(text: String) -> Self {
        let text = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        Self { text, color: None }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// Rows under a head. Columns that are empty in every row are left out.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    head: [&'static str; N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    /// A column whose head ends in a colon is aligned to the right (and the colon is not shown).
    pub(super) fn new(head: [&'static str; N]) -> Self {
        Self { head, rows: Vec::new() }
    }

    pub(super) fn push(&mut self, row: [Cell; N]) {
        self.rows.push(row);
    }

    pub(super) fn print(&self, to: &mut impl Write, in_color: bool) -> io::Result<()> {
        let shown = |column: usize| self.rows.iter().any(|row| !row[column].text.is_empty());
        let columns: Vec<_> = (0..N).filter(|column| shown(*column)).collect();
        let width_of = |text: &str| text.chars().count();
        let widths: Vec<_> = columns
            .iter()
            .map(|column| {
                let widest = self.rows.iter().map(|row| width_of(&row[*column].text)).max().unwrap_or_default();
                widest.max(width_of(self.head[*column].trim_end_matches(':')))
            })
            .collect();
        let mut line = |row: &[Cell; N]| {
            let mut line = String::new();
            let mut gap = 0;
            for (column, width) in columns.iter().zip(&widths) {
                let Cell { text, color } = &row[*column];
                let pad = width - width_of(text);
                let (before, after) = if self.head[*column].ends_with(':') { (pad, 0) } else { (0, pad) };
                if text.is_empty() {
                    gap += before;
                } else {
                    line.extend(std::iter::repeat_n(' ', gap + before));
                    gap = 0;
                    match color.filter(|_| in_color) {
                        Some(color) => line.extend([color.code(), text, "\x1b[0m"]),
                        None => line.push_str(text),
                    }
                }
                gap += after + 2;
            }
            line.push('\n');
            to.write_all(line.as_bytes())
        };
        line(&self.head.map(|head| head.trim_end_matches(':').into()))?;
        self.rows.iter().try_for_each(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_aligned_and_empty_columns_left_out() {
        let mut table = Table::new(["NAME", "N:", "NONE", "LAST"]);
        table.push(["a".into(), "10".into(), Cell::default(), "x".into()]);
        table.push(["long \x1b[2J".into(), Cell::default(), Cell::default(), Cell::painted("y", Paint::Bad)]);
        let print = |in_color| {
            let mut bytes = Vec::new();
            table.print(&mut bytes, in_color).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(print(false), "NAME        N  LAST\na          10  x\nlong \u{fffd}[2J      y\n");
        assert!(print(true).ends_with("\x1b[31my\x1b[0m\n"));
    }
}
