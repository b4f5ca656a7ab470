//! Dividing a file into documents.

/// A part of a file between lines that begin with `---`; such a line belongs to the document that it opens.
pub(super) struct Piece<'text> {
    pub(super) text: &'text str,
    /// The line of the file that the piece begins in, from 1.
    pub(super) line: usize,
}

impl Piece<'_> {
    /// Whether there is nothing but comments, blank lines and markers.
    pub(super) fn is_blank(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.strip_prefix("---").unwrap_or(line).trim();
            line.is_empty() || line.starts_with('#') || line == "..."
        })
    }
}

/// Divides a file.
pub(super) fn divide(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let opens = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if opens && offset > start {
            pieces.push(Piece { text: &text[start..offset], line: start_line });
            start = offset;
            start_line = number + 1;
        }
        offset += line.len();
    }
    pieces.push(Piece { text: &text[start..], line: start_line });
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_begin_at_lines_of_three_hyphens() {
        let pieces = divide("# head\n---\na: 1\n--- # second\nb: |\n  ---\n---x: 1\n---\n");
        let found: Vec<(usize, &str)> = pieces.iter().map(|piece| (piece.line, piece.text)).collect();
        assert_eq!(
            found,
            [(1, "# head\n"), (2, "---\na: 1\n"), (4, "--- # second\nb: |\n  ---\n---x: 1\n"), (8, "---\n")]
        );
        assert_eq!(pieces.iter().filter(|piece| piece.is_blank()).count(), 2);
    }
}
