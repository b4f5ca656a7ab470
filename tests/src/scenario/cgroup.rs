//! A tree of cgroups of one's own, below one directory that is removed with everything in it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use holdfast_agent::cgroups;

use crate::process::POLL;

const PREFIX: &str = "holdfast-test-";
const PATIENCE: Duration = Duration::from_secs(10);

/// The directory. Dropping it kills what still runs in it and removes it.
#[derive(Debug)]
pub struct Top {
    root: PathBuf,
    name: String,
}

impl Top {
    /// Makes it, after removing those of processes that are gone.
    ///
    /// # Errors
    /// When there is no cgroup v2 tree, or it cannot be written.
    pub fn new() -> Result<Self> {
        Self::named(&format!("{PREFIX}{}", std::process::id()))
    }

    /// Makes another one of this process, likewise.
    ///
    /// # Errors
    /// When there is no cgroup v2 tree, or it cannot be written.
    pub fn another() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("{PREFIX}{}-{number}", std::process::id()))
    }

    fn named(name: &str) -> Result<Self> {
        let root = cgroups::root(Path::new("/proc/self/mountinfo"))?;
        reap(&root)?;
        let name = name.to_owned();
        fs::create_dir(root.join(&name)).with_context(|| format!("a cgroup below {}", root.display()))?;
        Ok(Self { root, name })
    }

    /// The root of the cgroup v2 tree.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a cgroup below the directory; returns its path from the root of the tree, with a leading slash.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make(&self, path: &str) -> Result<String> {
        let path = format!("/{}/{path}", self.name);
        let full = self.full(&path);
        fs::create_dir_all(&full).with_context(|| full.display().to_string())?;
        Ok(path)
    }

    /// The path of the directory from the root of the tree, with a leading slash.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Where a path from the root of the tree is in the file system.
    #[must_use]
    pub fn full(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Removes a cgroup and those below it, as soon as their processes are gone.
    ///
    /// # Errors
    /// When they stay.
    pub fn remove(&self, path: &str) -> Result<()> {
        remove(&self.full(path))
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.root.join(&self.name)) {
            eprintln!("scenarios: {error:#}");
        }
    }
}

/// Removes the directories of runs that were killed.
fn reap(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        let Some(owner) = owner else { continue };
        if !Path::new(&format!("/proc/{owner}")).exists() {
            remove(&entry.path()).with_context(|| format!("left by process {owner}"))?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    // Kernels from 5.14 on end everything below it by one write; the root of an older tree has no such file.
    if let Ok(true) = path.join("cgroup.kill").try_exists() {
        fs::write(path.join("cgroup.kill"), "1").with_context(|| format!("ending {}", path.display()))?;
    }
    let began = Instant::now();
    loop {
        match remove_once(path) {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > PATIENCE => {
                bail!("{} cannot be removed: {error}", path.display())
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

fn remove_once(path: &Path) -> std::io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_once(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
