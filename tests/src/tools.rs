//! Where the tools that `make setup` brings are, and the error that a missing one gives.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The root of the source tree, absolute.
#[must_use]
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// `target/tools`, which `make setup` fills.
#[must_use]
pub fn directory() -> PathBuf {
    root().join("target/tools")
}

/// What the envtest convention puts into `$KUBEBUILDER_ASSETS`.
const ENVTEST: [&str; 3] = ["etcd", "kube-apiserver", "kubectl"];

/// A program of the control plane: etcd, kube-apiserver and kubectl from `$KUBEBUILDER_ASSETS` when that is set, the
/// others and all else from `target/tools/bin`.
///
/// # Errors
/// When it is not there; the error names the command that brings it.
pub fn control_plane_program(name: &str) -> Result<PathBuf> {
    let (folder, hint) = match std::env::var_os("KUBEBUILDER_ASSETS") {
        Some(assets) if ENVTEST.contains(&name) => (
            PathBuf::from(assets),
            "KUBEBUILDER_ASSETS says that it is there; complete that folder or unset it",
        ),
        _ => (directory().join("bin"), "run `make setup`"),
    };
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is missing: {hint}", path.display());
    }
    Ok(path)
}

/// A program of the machine, looked up in `PATH` and the `sbin` folders.
///
/// # Errors
/// When it is not there; the error names the Debian package that has it.
pub fn system_program(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(sbin)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is missing: run `make setup` (Debian package {package})"))
}
