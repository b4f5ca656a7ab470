//! Reading the directory: which files changed, and what is in them now.
//!
//! Only names that end in `.yaml`, `.yml` or `.json` and do not begin with a dot count; directories below are not
//! entered. Symbolic links are followed, as a mounted `ConfigMap` consists of them. A file is read again when its inode,
//! size or times changed, when an event names it, or while its times are so young that a second change might not show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use holdfast_crds::document::MAX_FILE;

use super::files::Content;

/// A file that is still being written is read when it has been quiet for this long, unless its writer closes it first.
const QUIET: Duration = Duration::from_millis(100);
/// Times this young may not show the next change.
const YOUNG: Duration = Duration::from_secs(1);

/// What events said since the last scan.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// Files that their writer closed, or that were moved here.
    pub(crate) done: BTreeSet<String>,
    /// Nothing is being written: read everything that changed.
    pub(crate) all_done: bool,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// New contents.
    pub(crate) read: Vec<(String, Content)>,
    /// Every file that is there.
    pub(crate) present: BTreeSet<String>,
    /// Whether files were left for later as they are being written.
    pub(crate) postponed: bool,
}

/// Remembers what it has read.
#[derive(Debug)]
pub(crate) struct Scanner {
    folder: PathBuf,
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    settled: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Whether a file of this name is read.
pub(crate) fn counts(name: &str) -> bool {
    let known = [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending));
    known && !name.starts_with('.')
}

impl Scanner {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, known: BTreeMap::new() }
    }

    /// Reads what changed. An error is one of the directory as a whole.
    pub(crate) fn scan(&mut self, hints: &Hints) -> io::Result<Found> {
        let mut found = Found::default();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if counts(&name) {
                self.look(name, hints, &mut found);
            }
        }
        self.known.retain(|name, _| found.present.contains(name));
        Ok(found)
    }

    fn look(&mut self, name: String, hints: &Hints, found: &mut Found) {
        let path = self.folder.join(&name);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => return,
            Ok(metadata) => metadata,
            Err(error) => {
                // Gone in the meantime, or a link to nothing.
                if fs::symlink_metadata(&path).is_ok() {
                    self.known.remove(&name);
                    found.present.insert(name.clone());
                    found.read.push((name, Err(format!("cannot be read: {error}"))));
                }
                return;
            }
        };
        found.present.insert(name.clone());
        let stamp = Stamp::of(&metadata);
        let done = hints.all_done || hints.done.contains(&name);
        if !hints.done.contains(&name)
            && self.known.get(&name).is_some_and(|known| known.settled && known.stamp == stamp)
        {
            return;
        }
        let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        if !done
            && age.is_some_and(|age| age < QUIET)
            && self.known.get(&name).is_none_or(|known| known.stamp != stamp)
        {
            found.postponed = true;
            return;
        }
        let content = if metadata.is_file() {
            read(&path)
        } else {
            // A pipe would keep its reader waiting, and a device has no end.
            Err("is no regular file".to_owned())
        };
        let settled = age.is_some_and(|age| age > YOUNG) && content.is_ok();
        self.known.insert(name.clone(), Known { stamp, settled });
        found.read.push((name, content));
    }
}

fn read(path: &Path) -> Content {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(found: &Found) -> Vec<&str> {
        found.read.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn everything() -> Hints {
        Hints { all_done: true, ..Hints::default() }
    }

    #[test]
    fn only_yaml_and_json_without_a_dot_in_front_count() {
        for name in ["a.yaml", "b.yml", "c.json"] {
            assert!(counts(name), "{name}");
        }
        for name in [".a.yaml", "a.yaml~", "a.yaml.swp", "4913", "..data", "README.md", "yaml"] {
            assert!(!counts(name), "{name}");
        }
    }

    #[test]
    fn directories_are_skipped_and_links_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("below.yaml")).unwrap();
        fs::write(folder.path().join("below.yaml/a.yaml"), "a").unwrap();
        fs::create_dir(folder.path().join("..v1")).unwrap();
        fs::write(folder.path().join("..v1/b.yaml"), "b").unwrap();
        symlink("..v1", folder.path().join("..data")).unwrap();
        symlink("..data/b.yaml", folder.path().join("b.yaml")).unwrap();
        symlink("nowhere", folder.path().join("c.yaml")).unwrap();
        let mut scanner = Scanner::new(folder.path().to_owned());
        let mut found = scanner.scan(&everything()).unwrap();
        found.read.sort();
        assert_eq!(names(&found), ["b.yaml", "c.yaml"]);
        assert_eq!(found.read[0].1.as_deref(), Ok(&b"b"[..]));
        assert!(found.read[1].1.as_ref().unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo").arg(folder.path().join("a.yaml")).status().unwrap();
        assert!(made.success());
        let found = Scanner::new(folder.path().to_owned()).scan(&everything()).unwrap();
        assert_eq!(found.read, [("a.yaml".to_owned(), Err("is no regular file".to_owned()))]);
    }

    #[test]
    fn an_old_file_is_read_once_and_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        let write = |text: &str, seconds_ago: u64| {
            fs::write(&path, text).unwrap();
            let time = SystemTime::now() - Duration::from_secs(seconds_ago);
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        write("one", 100);
        let mut scanner = Scanner::new(folder.path().to_owned());
        assert_eq!(names(&scanner.scan(&Hints::default()).unwrap()), ["a.yaml"]);
        assert_eq!(names(&scanner.scan(&Hints::default()).unwrap()), Vec::<&str>::new());
        write("two", 50);
        assert_eq!(names(&scanner.scan(&Hints::default()).unwrap()), ["a.yaml"]);
    }

    #[test]
    fn a_file_that_is_being_written_waits_until_its_writer_is_done() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), "half").unwrap();
        let mut scanner = Scanner::new(folder.path().to_owned());
        let found = scanner.scan(&Hints::default()).unwrap();
        assert!(found.postponed && found.read.is_empty() && found.present.contains("a.yaml"));
        let done = Hints { done: BTreeSet::from(["a.yaml".to_owned()]), ..Hints::default() };
        assert_eq!(names(&scanner.scan(&done).unwrap()), ["a.yaml"]);
    }

    #[test]
    fn a_young_file_is_read_again_even_if_its_times_did_not_move() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), "one").unwrap();
        let mut scanner = Scanner::new(folder.path().to_owned());
        scanner.scan(&everything()).unwrap();
        assert_eq!(names(&scanner.scan(&Hints::default()).unwrap()), ["a.yaml"]);
    }
}
