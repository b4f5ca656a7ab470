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
    root_in(&text).ok_or_else(|| CgroupError::NotMounted(mountinfo.to_owned()))
}

/// proc(5): `36 35 98:0 /root /mount/point options [optional fields] - type source super-options`.
fn root_in(mountinfo: &str) -> Option<PathBuf> {
    let candidates = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        (after.split(' ').next()? == "cgroup2" && root == "/").then(|| PathBuf::from(unescape(mount)))
    });
    // Several mounts show the same tree; the shortest path is the one people know.
    candidates.min_by_key(|path| path.as_os_str().len())
}

/// Spaces and the like are written as octal escapes there.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
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
        assert_eq!(root_in(text), Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
        assert_eq!(root_in("31 30 0:27 / /sys/fs/cgroup/cpu rw shared:10 - cgroup cgroup rw,cpu\n"), None);
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
