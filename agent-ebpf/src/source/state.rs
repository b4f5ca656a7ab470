//! The last good state on disk, so that a node that boots without the API server, or with a broken file, enforces what
//! it enforced before.
//!
//! A state file is a header line and then one record a line. It is written beside its place and renamed into it, after
//! the data has reached the disk. The header counts the records and holds a checksum of them: a file that does not fit
//! its header is put aside and reported, never half believed and never fatal.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The layout of state files; one of another number is put aside.
const LAYOUT: u32 = 1;
/// The shortest time between two writes of one file.
const INTERVAL: Duration = Duration::from_secs(1);
/// After a write that took long, the next waits this many times as long.
const REST: u32 = 20;
/// The longest header line, in bytes.
const MAX_HEADER: u64 = 4096;

/// A directory for state files, private to the agent.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

/// Why a state file cannot be used. None is fatal: the agent goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be made or is none.
    #[error("{}: cannot use it as the state directory: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("{}: cannot read the saved state: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("{}: cannot save the state: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not what was written. It has been renamed to `aside`.
    #[error("{}: the saved state is corrupt ({problem}); it was put aside as {}", path.display(), aside.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
        /// Where it is now.
        aside: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    holdfast: u32,
    records: usize,
    checksum: String,
}

impl StateDir {
    /// Makes the directory, with access for its owner only, where it is not there yet.
    ///
    /// # Errors
    /// When it cannot be made or is no directory.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(StateError::Directory { path, source }),
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.state"))
    }

    /// The records of a state file; `None` where there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<String>>, StateError> {
        let path = self.file(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Read { path, source }),
        };
        match records(file) {
            Ok(Ok(records)) => Ok(Some(records)),
            Ok(Err(problem)) => {
                let aside = self.0.join(format!("{name}.corrupt"));
                match fs::rename(&path, &aside) {
                    Ok(()) => Err(StateError::Corrupt { path, problem, aside }),
                    Err(source) => Err(StateError::Read { path, source }),
                }
            }
            Err(source) => Err(StateError::Read { path, source }),
        }
    }

    /// Replaces a state file by one of these records, each in one line.
    pub(crate) fn write<T: Serialize>(&self, name: &str, records: &[Arc<T>]) -> Result<(), StateError> {
        let path = self.file(name);
        self.replace(&path, name, records).map_err(|source| StateError::Write { path, source })
    }

    fn replace<T: Serialize>(&self, path: &Path, name: &str, records: &[Arc<T>]) -> io::Result<()> {
        let mut checksum = Checksum::default();
        for record in records {
            serde_json::to_writer(&mut checksum, &**record)?;
            checksum.write_all(b"\n")?;
        }
        let header = Header { holdfast: LAYOUT, records: records.len(), checksum: checksum.text() };

        let beside = self.0.join(format!("{name}.new"));
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        let mut out = BufWriter::new(file);
        serde_json::to_writer(&mut out, &header)?;
        out.write_all(b"\n")?;
        for record in records {
            serde_json::to_writer(&mut out, &**record)?;
            out.write_all(b"\n")?;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(&self.0)?.sync_all()
    }
}

/// Reads a state file. The inner error says why it is not what was written.
fn records(file: File) -> io::Result<Result<Vec<String>, String>> {
    let mut reader = BufReader::new(file);
    let mut header = Vec::new();
    reader.by_ref().take(MAX_HEADER).read_until(b'\n', &mut header)?;
    let header: Header = match serde_json::from_slice(&header) {
        Ok(header) => header,
        Err(error) => return Ok(Err(format!("its header cannot be read: {error}"))),
    };
    if header.holdfast != LAYOUT {
        return Ok(Err(format!("it has layout {}, not {LAYOUT}", header.holdfast)));
    }
    let mut checksum = Checksum::default();
    let mut records = Vec::new();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        checksum.write_all(&line)?;
        line.pop_if(|last| *last == b'\n');
        match String::from_utf8(line) {
            Ok(line) => records.push(line),
            Err(error) => return Ok(Err(format!("record {} is not UTF-8: {error}", records.len()))),
        }
    }
    if records.len() != header.records {
        return Ok(Err(format!("it has {} records, not {}", records.len(), header.records)));
    }
    if checksum.text() != header.checksum {
        return Ok(Err("its checksum is another".to_owned()));
    }
    Ok(Ok(records))
}

/// FNV-1a of 64 bits: against accidents, not against an attacker, who could write any state here.
struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}

impl Write for Checksum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What could not be read or saved, by the name of the state file.
pub(crate) type Problems = BTreeMap<String, String>;

/// Keeps one state file up to date: each new list of records is written soon, and only the newest of those that come
/// while a write goes on, or within a second of it.
pub(crate) struct Saver<T> {
    newest: watch::Sender<Arc<Vec<Arc<T>>>>,
    task: JoinHandle<()>,
}

impl<T: Serialize + Send + Sync + 'static> Saver<T> {
    /// Starts with nothing to write. A write that fails is told to `problems`, and taken back by one that succeeds.
    pub(crate) fn start(directory: StateDir, name: &'static str, problems: watch::Sender<Problems>) -> Self {
        let (newest, mut seen) = watch::channel(Arc::new(Vec::new()));
        let task = tokio::spawn(async move {
            let mut pause = Duration::ZERO;
            loop {
                // The last list is seen even when its sender is gone.
                if seen.changed().await.is_err() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // Nothing newer will come: write what there is.
                    () = closed(&mut seen) => {}
                }
                let records: Arc<Vec<Arc<T>>> = seen.borrow_and_update().clone();
                let began = Instant::now();
                let place = directory.clone();
                let written = tokio::task::spawn_blocking(move || place.write(name, &records)).await;
                let problem = match written {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(error) => Some(format!("{name}: saving the state broke off: {error}")),
                };
                problems.send_if_modified(|known| match problem {
                    None => known.remove(name).is_some(),
                    Some(problem) => {
                        known.insert(name.to_owned(), problem.clone()).is_none_or(|old| old != problem)
                    }
                });
                pause = INTERVAL.max(began.elapsed() * REST);
            }
        });
        Self { newest, task }
    }

    /// Has these records written.
    pub(crate) fn save(&self, records: Vec<Arc<T>>) {
        self.newest.send_replace(Arc::new(records));
    }

    /// Writes what is not written yet.
    pub(crate) async fn finish(self) {
        drop(self.newest);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "saving the state broke off");
        }
    }
}

/// Waits until the sender is gone.
async fn closed<T>(seen: &mut watch::Receiver<T>) {
    let mut seen = seen.clone();
    while seen.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(texts: &[&str]) -> Vec<Arc<String>> {
        texts.iter().map(|text| Arc::new((*text).to_owned())).collect()
    }

    fn state() -> (tempfile::TempDir, StateDir) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("a/b")).unwrap();
        (folder, state)
    }

    #[test]
    fn what_was_written_is_read() {
        let (_folder, state) = state();
        assert_eq!(state.read("x").unwrap(), None);
        state.write("x", &records(&["one", "two\nlines"])).unwrap();
        assert_eq!(state.read("x").unwrap().unwrap(), ["\"one\"", "\"two\\nlines\""]);
        state.write("x", &records(&[])).unwrap();
        assert_eq!(state.read("x").unwrap().unwrap(), Vec::<String>::new());
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_corrupt_file_is_put_aside_and_reported() {
        let good = {
            let (_folder, state) = state();
            state.write("x", &records(&["one", "two"])).unwrap();
            fs::read(state.file("x")).unwrap()
        };
        let mut flipped = good.clone();
        let last = flipped.len() - 3;
        flipped[last] ^= 1;
        let cases: [(&str, &[u8]); 6] = [
            ("empty", b""),
            ("garbage", &[0xff; 100]),
            ("cut", &good[..good.len() - 6]),
            ("half a record", &good[..good.len() - 1]),
            ("flipped bit", &flipped),
            ("other layout", b"{\"holdfast\":9,\"records\":0,\"checksum\":\"cbf29ce484222325\"}\n"),
        ];
        for (case, bytes) in cases {
            let (_folder, state) = state();
            fs::write(state.file("x"), bytes).unwrap();
            let error = state.read("x").unwrap_err();
            assert!(matches!(error, StateError::Corrupt { .. }), "{case}: {error}");
            assert_eq!(fs::read(state.path().join("x.corrupt")).unwrap(), bytes, "{case}");
            assert_eq!(state.read("x").unwrap(), None, "{case}");
        }
    }

    #[test]
    fn a_directory_that_is_a_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(StateDir::open(folder.path().join("file")).is_err());
    }

    #[tokio::test]
    async fn the_newest_records_are_on_disk_when_the_saver_has_finished() {
        let (_folder, state) = state();
        let problems = watch::Sender::new(Problems::new());
        let saver = Saver::start(state.clone(), "x", problems.clone());
        for number in 0..100 {
            saver.save(records(&[&number.to_string()]));
            tokio::task::yield_now().await;
        }
        saver.finish().await;
        assert_eq!(state.read("x").unwrap().unwrap(), ["\"99\""]);
        assert!(problems.borrow().is_empty());
    }

    #[tokio::test]
    async fn a_write_that_fails_is_told_and_taken_back() {
        let (_folder, state) = state();
        let problems = watch::Sender::new(Problems::new());
        let mut seen = problems.subscribe();
        let saver = Saver::start(state.clone(), "x", problems);
        fs::create_dir(state.path().join("x.new")).unwrap();
        saver.save(records(&["one"]));
        seen.wait_for(|known| known.contains_key("x")).await.unwrap();
        fs::remove_dir(state.path().join("x.new")).unwrap();
        saver.save(records(&["two"]));
        seen.wait_for(Problems::is_empty).await.unwrap();
        assert_eq!(state.read("x").unwrap().unwrap(), ["\"two\""]);
        saver.finish().await;
    }
}
