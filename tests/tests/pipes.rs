//! What the programs print when nobody reads it: they end in silence, as `head` ends many a pipe.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use holdfast_tests::builds;

/// What a program says to standard error, and whether it succeeds, with a standard output that nobody reads.
fn unread(program: &'static str, words: &[&str]) -> Result<(bool, String)> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let output = Command::new(builds::program(program)?)
        .args(words)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("{program} cannot be run"))?;
    Ok((output.status.success(), String::from_utf8(output.stderr)?))
}

#[test]
fn a_program_whose_output_nobody_reads_ends_in_silence() -> Result<()> {
    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/src/demo/policy.yaml");
    for (program, words) in [
        ("kubectl-holdfast", &["--help"][..]),
        ("kubectl-holdfast", &["status", "--help"]),
        ("kubectl-holdfast", &["completion", "bash"]),
        ("holdfast-agent", &["--help"]),
        ("holdfast-agent", &["run", "--help"]),
        ("holdfast-operator", &["--help"]),
        ("holdfast-operator", &["--version"]),
    ] {
        let (success, said) = unread(program, words)?;
        ensure!(success && said.is_empty(), "{program} {words:?}: {said}");
    }
    let (_, said) = unread("holdfast-agent", &["check", policy])?;
    ensure!(!said.contains("panicked"), "{said}");
    Ok(())
}
