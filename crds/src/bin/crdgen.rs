//! Writes the CRDs to `crds/yaml/`, one file a kind. With `--check` it writes nothing and fails where a file differs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use holdfast_crds::schema::files;

fn main() -> ExitCode {
    let mut check = false;
    let mut directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--check" => check = true,
            "--directory" => match arguments.next() {
                Some(path) => directory = PathBuf::from(path),
                None => return usage(),
            },
            _ => return usage(),
        }
    }
    match generate(&directory, check) {
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
    eprintln!("usage: crdgen [--check] [--directory PATH]");
    ExitCode::from(2)
}

/// The files that differ; none when they are written.
fn generate(directory: &Path, check: bool) -> Result<Vec<PathBuf>, Box<dyn std::error::Error>> {
    let mut differing = Vec::new();
    for (name, text) in files()? {
        let path = directory.join(name);
        if check {
            if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
                differing.push(path);
            }
        } else {
            std::fs::create_dir_all(directory)?;
            std::fs::write(&path, text)?;
        }
    }
    Ok(differing)
}
