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
    parse(&case.path.file_name().unwrap().to_string_lossy(), &case.bytes)
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
