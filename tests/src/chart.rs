//! Holdfast's chart, and Helm as its users run it.
//!
//! [`Helm`] runs the real program with a home of its own, so that nothing of the machine's Helm is read or changed. The
//! chart's files are read here, and [`objects`] tells what an API server holds, to see what a release leaves behind.

mod snapshot;
mod values;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail, ensure};
use holdfast_crds::document;
use serde_json::Value;
use tempfile::TempDir;

use crate::tools;

pub use snapshot::{Key, Objects, key, objects, written};
pub use values::{Documented, documented, lookup, paths, without};

/// The release that the project's documents install.
pub const RELEASE: &str = "holdfast";
/// The namespace that they install it into.
pub const NAMESPACE: &str = "holdfast-system";

/// The chart's folder.
#[must_use]
pub fn directory() -> PathBuf {
    tools::root().join("charts/holdfast")
}

/// A YAML file with one document, as JSON.
///
/// # Errors
/// When it cannot be read, is no YAML, or holds several documents.
pub fn yaml_file(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut documents = yaml(&path.display().to_string(), &text)?;
    ensure!(documents.len() == 1, "{}: {} documents", path.display(), documents.len());
    documents.pop().context("no document")
}

/// The documents of a YAML text, as JSON; empty ones are left out.
///
/// # Errors
/// When it is no YAML.
pub fn yaml(name: &str, text: &[u8]) -> Result<Vec<Value>> {
    let (documents, errors) = document::read(name, text);
    if let Some(error) = errors.first() {
        bail!("{error}");
    }
    Ok(documents.into_iter().map(|document| document.value).collect())
}

/// The values of an installation that somebody may want, and its file's name without `.yaml`.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The file's name, without `.yaml`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

impl Scenario {
    /// Where what it renders to is kept.
    #[must_use]
    pub fn golden(&self) -> PathBuf {
        directory().join("scenarios/golden").join(format!("{}.yaml", self.name))
    }
}

/// All scenarios, by name.
///
/// # Errors
/// When their folder cannot be read.
pub fn scenarios() -> Result<Vec<Scenario>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory().join("scenarios"))? {
        let path = entry?.path();
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml");
        if let (true, Some(name)) = (is_yaml, path.file_stem()) {
            all.push(Scenario { name: name.to_string_lossy().into_owned(), path: path.clone() });
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// Helm, with a home of its own that goes with it.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    home: TempDir,
    kubeconfig: Option<PathBuf>,
}

impl Helm {
    /// A Helm that knows no cluster: for rendering.
    ///
    /// # Errors
    /// When it is missing (the error says how to get it).
    pub fn new() -> Result<Self> {
        let program = tools::control_plane_program("helm")?;
        let home = tempfile::Builder::new().prefix("holdfast-helm-").tempdir()?;
        Ok(Self { program, home, kubeconfig: None })
    }

    /// A Helm for the cluster of a kubeconfig file.
    ///
    /// # Errors
    /// As [`Helm::new`].
    pub fn with_cluster(kubeconfig: &Path) -> Result<Self> {
        Ok(Self { kubeconfig: Some(kubeconfig.to_owned()), ..Self::new()? })
    }

    /// Runs it, and returns whatever came of it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn output<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Output> {
        let home = self.home.path();
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HELM_") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .env("HELM_CACHE_HOME", home.join("cache"))
            .env("HELM_CONFIG_HOME", home.join("config"))
            .env("HELM_DATA_HOME", home.join("data"))
            .env("KUBECONFIG", self.kubeconfig.clone().unwrap_or_else(|| home.join("none")))
            .current_dir(home);
        command.output().context("cannot run helm")
    }

    /// Runs it, and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the error holds what it wrote to its standard error.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let output = self.output(arguments)?;
        if !output.status.success() {
            let shown: Vec<_> =
                arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
            let said = String::from_utf8_lossy(&output.stderr);
            let printed = String::from_utf8_lossy(&output.stdout);
            bail!("helm {} failed: {}\n{}", shown.join(" "), said.trim(), printed.trim());
        }
        String::from_utf8(output.stdout).context("helm printed no UTF-8")
    }

    /// What the chart renders to with the values of a file, as [`RELEASE`] in [`NAMESPACE`], without the CRDs.
    ///
    /// # Errors
    /// When Helm refuses the values or cannot render.
    pub fn render(&self, values: &Path) -> Result<String> {
        let (chart, values) = (directory().display().to_string(), values.display().to_string());
        self.run(&["template", RELEASE, &chart, "--namespace", NAMESPACE, "--values", &values])
    }

    /// What the chart renders to with these values.
    ///
    /// # Errors
    /// As [`Helm::render`].
    pub fn render_values(&self, values: &Value) -> Result<String> {
        self.render(&self.values_file(values)?)
    }

    /// A file of values, which goes with this Helm.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn values_file(&self, values: &Value) -> Result<PathBuf> {
        let path = self.home.path().join("values.json");
        fs::write(&path, serde_json::to_vec(values)?)?;
        Ok(path)
    }
}
