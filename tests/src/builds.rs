//! Programs of this tree, built while tests run: as usual, and for the guests of [`crate::vm`], which hold no shared
//! libraries, linked statically.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
};

use anyhow::{Context, Result, bail};

use crate::{process::tail, tools};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Takes out of a command's environment what cargo told this test of its own package: build scripts would run again.
pub fn outside_of_cargo(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(tools::root());
    outside_of_cargo(&mut command);
    command
}

/// The program of a package, both of this name, as the usual build makes it in `target/debug`. Built once in the life of
/// this program; cargo decides what is left to do.
///
/// # Errors
/// When cargo fails; the error holds the end of what it said.
pub fn program(package: &'static str) -> Result<PathBuf> {
    static BUILT: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if !built.contains(&package) {
        let output =
            cargo().args(["build", "--quiet", "-p", package]).output().context("cannot run cargo")?;
        if !output.status.success() {
            bail!("building {package} failed:\n{}", tail(&String::from_utf8_lossy(&output.stderr), 40));
        }
        built.push(package);
    }
    Ok(tools::root().join("target/debug").join(package))
}

/// The statically linked programs.
#[derive(Clone, Debug)]
pub struct StaticBinaries {
    /// `holdfast-agent`.
    pub agent: PathBuf,
    /// `scenarios`, the scenario runner of this crate.
    pub scenarios: PathBuf,
}

/// Builds the agent and the scenario runner, linked statically, once in the life of this program; cargo decides what
/// is left to do. They go to `target/x86_64-unknown-linux-gnu/debug`, so that the usual build keeps its own cache: the
/// flags reach nothing that is built for the host itself, such as build scripts and procedural macros.
///
/// # Errors
/// When cargo fails; the error holds the end of what it said.
pub fn static_binaries() -> Result<StaticBinaries> {
    static BUILT: OnceLock<Result<StaticBinaries, String>> = OnceLock::new();
    let build = || build("scenarios").map(|(agent, scenarios)| StaticBinaries { agent, scenarios });
    BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

/// Builds the agent and the program `demo`, likewise.
///
/// # Errors
/// When cargo fails; the error holds the end of what it said.
pub fn static_demo() -> Result<(PathBuf, PathBuf)> {
    build("demo")
}

/// Builds the agent and another program, which is of this crate.
fn build(program: &str) -> Result<(PathBuf, PathBuf)> {
    let output = cargo()
        .args(["build", "--quiet", "--target", TARGET])
        .args(["-p", "holdfast-agent", "-p", "holdfast-tests", "--bin", "holdfast-agent", "--bin", program])
        // A guest's files sit in its memory: no debug information.
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-C target-feature=+crt-static -C strip=debuginfo",
        )
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("building the static programs failed:\n{}", tail(&said, 40));
    }
    let folder = tools::root().join("target").join(TARGET).join("debug");
    Ok((folder.join("holdfast-agent"), folder.join(program)))
}
