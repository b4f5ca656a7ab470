//! The table of attempts.

use std::fmt;

/// One attempt: what should come of it and what did.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was tried.
    pub attempt: String,
    /// What should come of it.
    pub expected: String,
    /// What was seen.
    pub seen: String,
}

impl Row {
    /// A row.
    #[must_use]
    pub fn new(attempt: &str, expected: &str, seen: impl Into<String>) -> Self {
        Self { attempt: attempt.to_owned(), expected: expected.to_owned(), seen: seen.into() }
    }

    /// Whether what was seen is what should be.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.expected == self.seen
    }
}

/// Rows below one heading.
#[derive(Debug, Clone)]
pub struct Table<'a> {
    /// The heading of the first column.
    pub title: &'a str,
    /// The rows.
    pub rows: &'a [Row],
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |of: fn(&Row) -> &str, heading: usize| {
            self.rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0).max(heading)
        };
        let (first, second) = (width(|row| &row.attempt, self.title.len()), width(|row| &row.expected, 8));
        writeln!(f, "     {:<first$}  {:<second$}  SEEN", self.title, "EXPECTED")?;
        for row in self.rows {
            let mark = if row.holds() { "ok" } else { "NOT" };
            writeln!(f, "{mark:>4} {:<first$}  {:<second$}  {}", row.attempt, row.expected, row.seen)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_does_not_hold_is_marked() {
        let rows = [Row::new("one", "done", "done"), Row::new("other", "EPERM", "done")];
        let text = Table { title: "ATTEMPT", rows: &rows }.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            ["     ATTEMPT  EXPECTED  SEEN", "  ok one      done      done", " NOT other    EPERM     done",]
        );
    }
}
