//! `holdfast-agent check FILE...`: what the API server would say of these files, without one.
//!
//! Every error is one line that names file, line, document, object and field, as far as each is known. Documents of one
//! kind, namespace and name are an error across all files.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use holdfast_crds::document::{self, DocumentError, MAX_FILE, Parsed};

/// What `check` is told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// YAML or JSON files of policies, external workloads and node agents; - is the standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Checks the files: errors on the standard error and exit 1, or one line that says what they hold.
#[must_use]
pub fn main(args: &Args) -> ExitCode {
    let parsed = read(&args.files, io::stdin().lock());
    let (text, code) =
        (report(&parsed, args.files.len()), ExitCode::from(u8::from(!parsed.errors.is_empty())));
    // Nobody reads it: the exit code still says it.
    let _ = if parsed.errors.is_empty() {
        io::stdout().write_all(text.as_bytes())
    } else {
        io::stderr().write_all(text.as_bytes())
    };
    code
}

fn read(files: &[PathBuf], stdin: impl Read) -> Parsed {
    let mut stdin = Some(stdin);
    document::join(files.iter().map(|file| {
        let mut parsed = if file == Path::new("-") {
            stdin.take().map_or_else(|| Err("is named twice".to_owned()), contents).map_or_else(
                |problem| Parsed { documents: Vec::new(), errors: vec![error("stdin", problem)] },
                |bytes| document::parse("stdin", &bytes),
            )
        } else {
            document::parse_file(file)
        };
        if parsed.documents.is_empty() && parsed.errors.is_empty() {
            parsed.errors.push(error(&file.display().to_string(), "holds no document".to_owned()));
        }
        parsed
    }))
}

fn contents(from: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    match from.take(limit).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn error(file: &str, problem: String) -> DocumentError {
    DocumentError {
        file: file.to_owned(),
        document: None,
        line: None,
        object: None,
        field: String::new(),
        problem,
    }
}

fn report(parsed: &Parsed, files: usize) -> String {
    if parsed.errors.is_empty() {
        return format!("{}, {}: ok\n", count(files, "file"), count(parsed.documents.len(), "document"));
    }
    parsed.errors.iter().fold(String::new(), |text, error| text + &error.to_string() + "\n")
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const GOOD: &str = "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {name: a, namespace: shop}\n\
                        spec: {selector: {}, network: {ingress: {}}}\n";

    fn checked(files: &[(&str, &str)], stdin: &str) -> (String, usize) {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = files
            .iter()
            .map(|(name, text)| {
                if *name == "-" {
                    return PathBuf::from("-");
                }
                fs::write(folder.path().join(name), text).unwrap();
                folder.path().join(name)
            })
            .collect();
        let parsed = read(&paths, stdin.as_bytes());
        let text = report(&parsed, paths.len());
        (text.replace(&format!("{}/", folder.path().display()), ""), parsed.errors.len())
    }

    #[test]
    fn good_files_are_one_line() {
        let other = GOOD.replace("name: a", "name: b");
        assert_eq!(checked(&[("a.yaml", GOOD)], ""), ("1 file, 1 document: ok\n".to_owned(), 0));
        assert_eq!(
            checked(&[("a.yaml", GOOD), ("-", "")], &format!("{other}---\n{}", GOOD.replace("shop", "bank"))),
            ("2 files, 3 documents: ok\n".to_owned(), 0)
        );
    }

    #[test]
    fn every_error_is_a_line_that_names_file_document_object_and_field() {
        let bad = GOOD.replace("selector: {}", "selector: {}, mode: Perhaps").replace("name: a", "name: b");
        let text = format!("{GOOD}---\n{bad}");
        let (said, count) = checked(&[("a.yaml", &text), ("b.yaml", "a: [")], "");
        assert_eq!(count, 2, "{said}");
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            lines[0].starts_with("a.yaml:9: document 2, WorkloadPolicy shop/b: spec.mode: \"Perhaps\""),
            "{said}"
        );
        assert!(lines[1].starts_with("b.yaml:"), "{said}");
    }

    #[test]
    fn a_name_given_twice_in_two_files_is_an_error_of_the_second() {
        let (said, count) = checked(&[("a.yaml", GOOD), ("b.yaml", GOOD)], "");
        assert_eq!(count, 1);
        assert!(said.starts_with("b.yaml: document 1, WorkloadPolicy shop/a: metadata.name: "), "{said}");
    }

    #[test]
    fn files_without_a_document_and_files_that_are_not_there_are_errors() {
        let (said, _) = checked(&[("a.yaml", "# nothing\n"), ("-", "")], "");
        assert_eq!(said, "a.yaml: holds no document\n-: holds no document\n");
        let parsed = read(&[PathBuf::from("/nowhere/a.yaml")], io::empty());
        assert!(report(&parsed, 1).starts_with("/nowhere/a.yaml: cannot be read: "));
    }

    #[test]
    fn the_standard_input_can_be_named_once() {
        let parsed = read(&["-".into(), "-".into()], GOOD.as_bytes());
        assert_eq!(report(&parsed, 2), "stdin: is named twice\n");
    }
}
