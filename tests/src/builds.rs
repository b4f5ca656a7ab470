//! Programs of this tree, built while tests run. They are static, so that the guests of [`crate::vm`], which hold no shared
//! libraries, can run them too.

use std::{fs, path::PathBuf, process::Command, sync::OnceLock};

use anyhow::{Context, Result, bail, ensure};

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
    // In the place of what .cargo/config.toml says, these would take from guests what they can run.
    command.current_dir(tools::root()).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    outside_of_cargo(&mut command);
    command
}

/// Where cargo puts the programs of this tree: `.cargo/config.toml` names the target, so that they can be static.
fn folder() -> PathBuf {
    tools::root().join("target").join(TARGET).join("debug")
}

/// A program of this tree. All are built, once in the life of this program and with the features that the tests were built
/// with, so that nothing is compiled twice; cargo decides what is left to do.
///
/// # Errors
/// When cargo fails; the error holds the end of what it said.
pub fn program(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let build = || -> Result<()> {
        let output = cargo()
            .args(["build", "--quiet", "--workspace", "--bins"])
            .output()
            .context("cannot run cargo")?;
        if !output.status.success() {
            bail!("building the programs failed:\n{}", tail(&String::from_utf8_lossy(&output.stderr), 40));
        }
        Ok(())
    };
    BUILT
        .get_or_init(|| build().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)?;
    let path = folder().join(name);
    ensure!(path.is_file(), "there is no program {}", path.display());
    Ok(path)
}

/// A program of this tree for a guest, whose files sit in its memory: without debug information.
///
/// # Errors
/// As [`program`], and when it cannot be stripped.
pub fn guest_program(name: &str) -> Result<PathBuf> {
    let whole = program(name)?;
    let stripped = folder().join("stripped");
    fs::create_dir_all(&stripped).with_context(|| stripped.display().to_string())?;
    // Several tests may do so at once.
    let new = tempfile::Builder::new().prefix(name).tempfile_in(&stripped)?.into_temp_path();
    let output = Command::new("strip").arg("--strip-debug").arg("-o").arg(&new).arg(&whole).output();
    let output = output.context("cannot run strip: install the Debian package binutils")?;
    ensure!(output.status.success(), "strip: {}", String::from_utf8_lossy(&output.stderr));
    let path = stripped.join(name);
    new.persist(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}
