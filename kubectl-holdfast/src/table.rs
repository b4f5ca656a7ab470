//! Tables of plain text, as kubectl prints them: columns three spaces apart, as wide as their widest cell. The last
//! column is broken at words where a line would pass the width of a page.

/// The width that a table keeps to where its cells let it.
const PAGE: usize = 100;
/// The least width that the last column is broken to.
const LEAST: usize = 24;
const GAP: usize = 3;

/// A table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these column heads.
    pub(crate) fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    /// Adds a row; an empty cell is shown as such.
    pub(crate) fn row<I: Into<String>>(&mut self, cells: impl IntoIterator<Item = I>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether it has no row beside the heads.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// Its text, each line with this much space before it.
    pub(crate) fn text(&self, indent: usize) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let before: usize = indent + widths.iter().rev().skip(1).map(|width| width + GAP).sum::<usize>();
        let room = PAGE.saturating_sub(before).max(LEAST);
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (column, cell) in row.iter().enumerate() {
                if column + 1 == columns {
                    for (index, piece) in broken(cell, room).iter().enumerate() {
                        if index > 0 {
                            text.push_str(line.trim_end());
                            text.push('\n');
                            line = " ".repeat(before);
                        }
                        line.push_str(piece);
                    }
                } else {
                    let fill = widths.get(column).unwrap_or(&0).saturating_sub(cell.chars().count()) + GAP;
                    line.push_str(cell);
                    line.push_str(&" ".repeat(fill));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A text in lines of at most `width` characters, as far as its words let it.
pub(crate) fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "STATE", "WHY"]);
        assert!(table.is_empty());
        table.row(["a", "Enforced", ""]);
        table.row(["long-name", "No", "so"]);
        assert_eq!(
            table.text(2),
            "  NAME        STATE      WHY\n  a           Enforced\n  long-name   No         so\n"
        );
    }

    #[test]
    fn the_last_column_is_broken_at_words() {
        let mut table = Table::new(&["A", "B"]);
        table.row(["x".repeat(60), "one two three four five six seven eight nine ten".to_owned()]);
        let text = table.text(0);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.lines().nth(2).unwrap().starts_with(&" ".repeat(63)), "{text}");
    }
}
