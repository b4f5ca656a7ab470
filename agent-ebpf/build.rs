//! Compiles the kernel programs with clang. Without a clang that knows the bpf target the build fails: an agent
//! without its programs would be of no use.
//!
//! Programs that name helpers which old kernels refuse are compiled a second time without: `bpf_loop` is of 5.17, the
//! cookie of a socket in an iterator of 5.12.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The sources that `HF_OLD` makes a difference to.
const WITH_NEW_HELPERS: [&str; 2] = ["sock", "syscall"];

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let out = PathBuf::from(std::env::var("OUT_DIR").context("OUT_DIR")?);
    let arch = match std::env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => bail!("no kernel programs for the architecture {other}"),
    };
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let mut sources: Vec<PathBuf> = std::fs::read_dir("bpf")
        .context("agent-ebpf/bpf")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    sources.retain(|path| path.to_string_lossy().ends_with(".bpf.c"));
    sources.sort();
    for source in sources {
        let name = source.file_name().context("a source has a name")?.to_string_lossy().replace(".bpf.c", "");
        compile(&clang, arch, &source, &[], &out.join(format!("{name}.o")))?;
        if WITH_NEW_HELPERS.contains(&name.as_str()) {
            compile(&clang, arch, &source, &["-DHF_OLD"], &out.join(format!("{name}-old.o")))?;
        }
    }
    Ok(())
}

fn compile(clang: &str, arch: &str, source: &Path, flags: &[&str], out: &Path) -> Result<()> {
    let mut command = Command::new(clang);
    command
        .args(["-O2", "-g", "-target", "bpf", "-Wall", "-Werror", "-c"])
        .arg(format!("-D__TARGET_ARCH_{arch}"))
        .args(flags)
        // Debian keeps asm/types.h in a directory of the machine's own name, which the bpf target does not search.
        .arg("-I/usr/include/x86_64-linux-gnu")
        .arg("-I/usr/include/aarch64-linux-gnu")
        .arg(source)
        .arg("-o")
        .arg(out);
    let status = command.status().with_context(|| {
        format!("{clang} could not be started: install clang and libbpf-dev (make setup)")
    })?;
    if !status.success() {
        bail!("{clang} could not compile {}: {status}", source.display());
    }
    Ok(())
}
