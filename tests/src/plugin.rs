//! `kubectl holdfast` as its users run it: kubectl finds the plugin in `PATH`, and a kubeconfig says who asks.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{builds::program, tools};

/// The plugin's program, built where it is not.
///
/// # Errors
/// When cargo fails; the error holds the end of what it said.
pub fn binary() -> Result<PathBuf> {
    program("kubectl-holdfast")
}

/// What came of a command.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// `kubectl holdfast`, for the user of a kubeconfig file, without its arguments. It runs in `folder`.
///
/// # Errors
/// When the plugin cannot be built, or kubectl is missing.
pub fn command(kubeconfig: &Path, folder: &Path) -> Result<Command> {
    let kubectl = tools::control_plane_program("kubectl")?;
    let binary = binary()?;
    let mut path = OsString::from(binary.parent().context("a program in no folder")?);
    if let Some(more) = std::env::var_os("PATH") {
        path.push(":");
        path.push(more);
    }
    let mut command = Command::new(kubectl);
    command.arg("holdfast").current_dir(folder).env("PATH", path).env("KUBECONFIG", kubeconfig);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Runs `kubectl holdfast` with these words, and waits for its end.
///
/// # Errors
/// When it cannot be run or prints no UTF-8; not when it fails.
pub fn run(kubeconfig: &Path, folder: &Path, words: &[&str]) -> Result<Said> {
    let output = command(kubeconfig, folder)?.args(words).output().context("cannot run kubectl")?;
    Ok(Said {
        code: output.status.code().context("kubectl was killed")?,
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}
