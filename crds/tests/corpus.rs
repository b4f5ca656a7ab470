//! The parser on the corpus: what it accepts, what it refuses, and that its refusals name the field.

use std::fmt::Write;
use std::path::Path;

use holdfast_crds::document::{Parsed, parse};

#[path = "../../tests/corpus/cases.rs"]
mod cases;

use cases::{Case, cases};

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus")
}

fn parsed(case: &Case) -> Parsed {
    parse(&case.path.display().to_string(), &case.bytes)
}

#[test]
fn every_valid_document_is_accepted() {
    let cases = cases(&corpus(), "valid");
    assert!(cases.len() >= 40, "{} valid documents", cases.len());
    let mut wrong = String::new();
    for case in &cases {
        let parsed = parsed(case);
        for error in &parsed.errors {
            let _ = writeln!(wrong, "{error}");
        }
        if parsed.errors.is_empty() && parsed.documents.len() != 1 {
            let _ = writeln!(wrong, "{}: {} documents", case.path.display(), parsed.documents.len());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_other_document_is_refused_by_one_error_that_says_what_is_wrong() {
    for (folder, at_least) in [("invalid", 60), ("unaccepted", 3), ("malformed", 15)] {
        let cases = cases(&corpus(), folder);
        assert!(cases.len() >= at_least, "{folder}: {} documents", cases.len());
        let mut wrong = String::new();
        for case in &cases {
            assert!(
                case.message.is_some() || folder == "invalid" && case.field.is_some(),
                "{}: expects nothing",
                case.path.display()
            );
            let errors: Vec<String> = parsed(case).errors.iter().map(ToString::to_string).collect();
            let missing = match errors.as_slice() {
                [error] => case.missing_in(error),
                _ => Some(format!("one error; there are {}", errors.len())),
            };
            if let Some(missing) = missing {
                let _ = writeln!(wrong, "{}: does not have {missing}: {errors:?}", case.path.display());
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    }
}

#[test]
fn documents_with_damaged_bytes_are_read_or_refused_and_never_crash_the_parser() {
    const MARKS: &[u8] = b"{}[]:,&*!|>'\"%@`#-?<\n\t \0\xff~";
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut choose = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % limit.max(1) as u64).unwrap()
    };
    let mut originals = cases(&corpus(), "valid");
    originals.extend(cases(&corpus(), "malformed"));
    let (mut read, mut refused) = (0, 0);
    for _ in 0..4000 {
        let mut bytes = originals[choose(originals.len())].bytes.clone();
        for _ in 0..=choose(4) {
            let at = choose(bytes.len());
            match choose(4) {
                0 => bytes[at] = MARKS[choose(MARKS.len())],
                1 => bytes.truncate(at.max(1)),
                2 => {
                    bytes.remove(at);
                }
                _ => {
                    let piece = bytes[at..(at + choose(60)).min(bytes.len())].to_vec();
                    let to = choose(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
            if bytes.is_empty() {
                bytes.push(b'a');
            }
        }
        let parsed = parse("f.yaml", &bytes);
        for error in &parsed.errors {
            assert!(error.to_string().starts_with("f.yaml"));
        }
        if parsed.errors.is_empty() {
            read += 1;
        } else {
            refused += 1;
        }
    }
    assert!(read > 100 && refused > 1000, "{read} read, {refused} refused");
}
