//! Compiles the small C program that makes system calls by number, which Rust without `unsafe` cannot.

use std::{env, error::Error, path::PathBuf, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=helpers/calls.c");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("calls");
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(&compiler)
        .args(["-static", "-no-pie", "-O1", "-Wall", "-Werror", "-Wno-unused-result", "-o"])
        .arg(&out)
        .arg("helpers/calls.c")
        .status()
        .map_err(|error| format!("{}: {error}; install gcc", compiler.display()))?;
    if !status.success() {
        return Err(
            format!("{} helpers/calls.c: {status}; it takes gcc and libc6-dev", compiler.display()).into()
        );
    }
    Ok(())
}
