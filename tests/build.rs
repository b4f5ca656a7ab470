//! Compiles the small C programs that make system calls by number and do deeds, which Rust without `unsafe` cannot.

use std::{env, error::Error, path::PathBuf, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    for name in ["calls", "deeds"] {
        compile(name)?;
    }
    Ok(())
}

fn compile(name: &str) -> Result<(), Box<dyn Error>> {
    let source = format!("helpers/{name}.c");
    println!("cargo::rerun-if-changed={source}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join(name);
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(&compiler)
        .args(["-static", "-no-pie", "-O1", "-Wall", "-Werror", "-Wno-unused-result", "-o"])
        .arg(&out)
        .arg(&source)
        .status()
        .map_err(|error| format!("{}: {error}; install gcc", compiler.display()))?;
    if !status.success() {
        return Err(format!("{} {source}: {status}; it takes gcc and libc6-dev", compiler.display()).into());
    }
    Ok(())
}
