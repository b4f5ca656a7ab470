//! Bytes as text that can be turned back. Text stays as it is, but for what would make it ambiguous or play tricks on a
//! terminal: a backslash is doubled; bytes that are no UTF-8, control characters and those that reverse the direction of
//! writing are shown as `\xNN`, byte by byte.

use std::fmt::Write;

/// The bytes as text.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' {
                out.push_str(r"\\");
            } else if is_hidden(character) {
                push_bytes(&mut out, character.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                out.push(character);
            }
        }
        push_bytes(&mut out, chunk.invalid());
    }
    out
}

/// The bytes that [`escape`] was given; `None` where the text is none of its.
#[must_use]
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'\\' {
            out.push(*first);
            rest = after;
            continue;
        }
        match after {
            [b'\\', after @ ..] => {
                out.push(b'\\');
                rest = after;
            }
            [b'x', high, low, after @ ..] => {
                out.push(hex(*high)? << 4 | hex(*low)?);
                rest = after;
            }
            _ => return None,
        }
    }
    Some(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn push_bytes(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// Control characters, line and paragraph separators, and marks of bidirectional writing (Unicode, UAX #9).
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
