//! Writes what is made from other files: the CRDs, to `crds/yaml/` and to the chart, one file a kind, the tables of
//! `docs/policy-reference.md` from them, their schemas for the judgement without an API server, and the table of
//! `docs/chart-values.md` from the chart's `values.yaml`. With `--check` it writes nothing and fails where a file differs, is
//! missing, or stands there without a kind.

mod reference;
mod values;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use holdfast_crds::schema::{files, judged};

/// Where the CRDs stand, from the repository's root: for people and tests, and for Helm.
const DIRECTORIES: [&str; 2] = ["crds/yaml", "charts/holdfast/crds"];
/// The schemas by which objects are judged without an API server.
const JUDGED: &str = "crds/src/validate/schemas";
/// The document whose tables are filled from the CRDs.
const REFERENCE: &str = "docs/policy-reference.md";
/// The document whose table is filled from the chart's values, and these.
const VALUES: [&str; 2] = ["docs/chart-values.md", "charts/holdfast/values.yaml"];

fn main() -> ExitCode {
    let mut check = false;
    let mut root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--check" => check = true,
            "--root" => match arguments.next() {
                Some(path) => root = PathBuf::from(path),
                None => return usage(),
            },
            _ => return usage(),
        }
    }
    match generate(&root, check) {
        Ok(differing) if differing.is_empty() => ExitCode::SUCCESS,
        Ok(differing) => {
            for path in differing {
                eprintln!("crdgen: {} is not what the types say; run `make generate`", path.display());
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: crdgen [--check] [--root PATH]");
    ExitCode::from(2)
}

/// The files that differ; none when they are written.
fn generate(root: &Path, check: bool) -> Result<Vec<PathBuf>, Box<dyn std::error::Error>> {
    let files = files()?;
    let mut differing = Vec::new();
    for directory in DIRECTORIES.map(|directory| root.join(directory)) {
        for (name, text) in &files {
            let path = directory.join(name);
            if !check {
                std::fs::create_dir_all(&directory)?;
                std::fs::write(&path, text)?;
            } else if std::fs::read_to_string(&path).ok().as_ref() != Some(text) {
                differing.push(path);
            }
        }
        if directory.is_dir() {
            for entry in std::fs::read_dir(&directory)? {
                let path = entry?.path();
                if !files.iter().any(|(name, _)| path.ends_with(name)) {
                    differing.push(path);
                }
            }
        }
    }
    let read =
        |name: &str| std::fs::read_to_string(root.join(name)).map_err(|error| format!("{name}: {error}"));
    let reference = reference::fill(&read(REFERENCE)?).map_err(|error| format!("{REFERENCE}: {error}"))?;
    let [document, values] = VALUES;
    let table = values::fill(&read(document)?, &read(values)?)
        .ok_or_else(|| format!("{document}: there is no place for the table"))?;
    let mut texts = vec![(REFERENCE.to_owned(), reference), (document.to_owned(), table)];
    texts.extend(judged()?.into_iter().map(|(name, text)| (format!("{JUDGED}/{name}"), text)));
    for (name, text) in texts {
        if read(&name).is_ok_and(|there| there == text) {
            continue;
        }
        if check {
            differing.push(root.join(name));
        } else {
            let path = root.join(name);
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(path, text)?;
        }
    }
    Ok(differing)
}
