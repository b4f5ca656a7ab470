//! The cgroup v2 tree of this machine: where it is mounted, what is in it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::workloads::Cgroup;

/// Why the tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// mountinfo cannot be read.
    #[error("{path}: {source}")]
    MountInfo {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no cgroup v2 mount.
    #[error(
        "no cgroup v2 hierarchy is mounted (looked in {0}); mount one, for example with: mount -t cgroup2 none /sys/fs/cgroup"
    )]
    NotMounted(PathBuf),
    /// A directory of the tree cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Finds the cgroup v2 mount whose root is the root of the hierarchy.
///
/// # Errors
///
/// When `mountinfo` cannot be read, or has no such mount.
pub fn root(mountinfo: &Path) -> Result<PathBuf, CgroupError> {
    let text = fs::read_to_string(mountinfo)
        .map_err(|source| CgroupError::MountInfo { path: mountinfo.to_owned(), source })?;
    root_in(&text, is_root).ok_or_else(|| CgroupError::NotMounted(mountinfo.to_owned()))
}

/// Every cgroup has a type but the root of the hierarchy. What mountinfo calls the root of a mount tells it not: in a
/// cgroup namespace, as most containers have one, names begin there, and the node's own tree is called `/../../..`.
fn is_root(path: &Path) -> bool {
    path.join("cgroup.procs").exists() && !path.join("cgroup.type").exists()
}

/// proc(5): `36 35 98:0 /root /mount/point options [optional fields] - type source super-options`.
fn root_in(mountinfo: &str, is_root: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let candidates = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mount = before.split(' ').nth(4)?;
        let path = PathBuf::from(unescape(mount));
        (after.split(' ').next()? == "cgroup2" && is_root(&path)).then_some(path)
    });
    // Several mounts show the same tree; the shortest path is the one people know.
    candidates.min_by_key(|path| path.as_os_str().len())
}

/// Spaces and the like are written as octal escapes there.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The cgroup that this process is in, as a path in the tree that is mounted at `root`; `None` where that does not show
/// it. In a cgroup namespace the kernel does not tell the path, so it is looked for.
#[must_use]
pub fn own(root: &Path) -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let named = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    if holds_this_process(root, named) {
        return Some(named.to_owned());
    }
    Tree::walk(root).ok()?.paths.into_values().find(|path| holds_this_process(root, path))
}

/// Numbers of processes are shown as the reader's own namespace has them.
fn holds_this_process(root: &Path, path: &str) -> bool {
    let own = std::process::id().to_string();
    fs::read_to_string(root.join(path.trim_start_matches('/')).join("cgroup.procs"))
        .is_ok_and(|processes| processes.lines().any(|process| process == own))
}

/// What is known of the tree: id -> path.
#[derive(Debug, Default)]
pub struct Tree {
    paths: BTreeMap<u64, String>,
}

impl Tree {
    /// Reads the whole tree. Directories that vanish meanwhile are left out.
    ///
    /// # Errors
    ///
    /// When a directory cannot be read for another reason.
    pub fn walk(root: &Path) -> Result<Self, CgroupError> {
        let mut tree = Self::default();
        tree.walk_below(root, String::new())?;
        Ok(tree)
    }

    fn walk_below(&mut self, root: &Path, path: String) -> Result<(), CgroupError> {
        let full = root.join(path.trim_start_matches('/'));
        let gone = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound) || error.raw_os_error() == Some(libc::ENODEV)
        };
        let fail = |source| CgroupError::Read { path: full.clone(), source };
        let metadata = match fs::symlink_metadata(&full) {
            Err(error) if gone(&error) => return Ok(()),
            other => other.map_err(fail)?,
        };
        let entries = match fs::read_dir(&full) {
            Err(error) if gone(&error) => return Ok(()),
            other => other.map_err(fail)?,
        };
        for entry in entries {
            let entry = match entry {
                Err(error) if gone(&error) => continue,
                other => other.map_err(fail)?,
            };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.walk_below(root, format!("{path}/{}", entry.file_name().to_string_lossy()))?;
            }
        }
        self.paths.insert(metadata.ino(), if path.is_empty() { "/".to_owned() } else { path });
        Ok(())
    }

    /// A cgroup was made. Returns whether that was news.
    pub fn made(&mut self, id: u64, path: &str) -> bool {
        self.paths.insert(id, path.to_owned()).as_deref() != Some(path)
    }

    /// A cgroup is gone. Returns whether it was known.
    pub fn gone(&mut self, id: u64) -> bool {
        self.paths.remove(&id).is_some()
    }

    /// Takes the place of what was known. Returns whether anything differs.
    pub fn replace(&mut self, new: Self) -> bool {
        let differs = self.paths != new.paths;
        *self = new;
        differs
    }

    /// All cgroups.
    #[must_use]
    pub fn all(&self) -> Vec<Cgroup> {
        self.paths.iter().map(|(id, path)| Cgroup { id: *id, path: path.clone() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_tree_is_found_beside_v1_and_wherever_it_is_mounted() {
        let text = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - tmpfs tmpfs rw\n\
                    31 30 0:27 / /sys/fs/cgroup/cpu rw shared:10 - cgroup cgroup rw,cpu\n\
                    40 30 0:36 / /sys/fs/cgroup/uni\\040fied rw shared:19 - cgroup2 cgroup2 rw\n\
                    41 30 0:36 /some/pod /var/lib/x rw shared:19 - cgroup2 cgroup2 rw\n";
        let there = |path: &Path| path != Path::new("/var/lib/x");
        assert_eq!(root_in(text, there), Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
        assert_eq!(root_in("31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", there), None);
    }

    #[test]
    fn the_v2_tree_is_found_in_a_container_whose_cgroup_namespace_begins_below_its_root() {
        let text = "900 890 0:29 /../../../.. /sys/fs/cgroup rw shared:9 - cgroup2 cgroup rw\n\
                    901 890 0:29 / /own ro - cgroup2 cgroup rw\n";
        let found = root_in(text, |path| path == Path::new("/sys/fs/cgroup"));
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup")));
    }

    #[test]
    fn the_root_is_the_one_cgroup_without_a_type() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!is_root(dir.path()), "no cgroup at all");
        fs::write(dir.path().join("cgroup.procs"), "1\n").expect("written");
        assert!(is_root(dir.path()));
        fs::write(dir.path().join("cgroup.type"), "domain\n").expect("written");
        assert!(!is_root(dir.path()));
    }

    #[test]
    fn a_walk_finds_directories_by_inode() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("a/b")).expect("made");
        let tree = Tree::walk(dir.path()).expect("walked");
        let ino = fs::metadata(dir.path().join("a/b")).expect("there").ino();
        assert!(tree.all().contains(&Cgroup { id: ino, path: "/a/b".to_owned() }));
        assert_eq!(tree.all().len(), 3);
    }
}
