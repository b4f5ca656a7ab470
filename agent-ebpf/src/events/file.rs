//! Where lines go: a file that is rotated by its size, or the standard output. A line is written in full or not at all,
//! as far as that can be helped: a file is cut back to where the line began; after the torn end of a line in a pipe the
//! next one begins on a line of its own.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where events go, as the flags say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The standard output.
    Stdout,
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// It is rotated before it grows beyond this, in bytes.
        max_bytes: u64,
        /// How many files are kept, the current one included; at least 1.
        files: u32,
    },
}

/// An open destination.
#[derive(Debug)]
pub enum Target {
    /// Anything that lines are only added to: the standard output, a pipe, a terminal.
    Stream {
        /// It.
        file: File,
        /// The last line is not whole.
        torn: bool,
    },
    /// A regular file.
    Rotated(Rotated),
}

/// A file that is rotated: `events`, and before it `events.1`, `events.2` and so on.
#[derive(Debug)]
pub struct Rotated {
    path: PathBuf,
    file: File,
    size: u64,
    max_bytes: u64,
    files: u32,
}

impl Target {
    /// Opens it. A named pipe without a reader makes this wait for one.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(destination: &Destination) -> io::Result<Self> {
        match destination {
            Destination::Stdout => {
                let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
                Ok(Self::Stream { file, torn: false })
            }
            Destination::File { path, max_bytes, files } => {
                let mut file = open(path)?;
                let metadata = file.metadata()?;
                if !metadata.is_file() {
                    return Ok(Self::Stream { file, torn: false });
                }
                let (mut size, max_bytes, files) = (metadata.len(), *max_bytes, (*files).max(1));
                if is_torn(path, size)? {
                    write_all(&mut file, b"\n")?;
                    size += 1;
                }
                Ok(Self::Rotated(Rotated { path: path.clone(), file, size, max_bytes, files }))
            }
        }
    }

    /// Adds a line, which has its newline.
    ///
    /// # Errors
    ///
    /// When it could not be written in full.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream { file, torn } => {
                if *torn {
                    write_all(file, b"\n")?;
                }
                // A newline too many is no harm, a line that continues another is.
                *torn = true;
                write_all(file, line)?;
                *torn = false;
                Ok(())
            }
            Self::Rotated(rotated) => rotated.write(line),
        }
    }
}

/// Whether opening may wait for somebody else.
#[must_use]
pub fn is_pipe(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// Only the agent's user may read what processes were called with.
fn open(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

/// Whether an agent, or its machine, ended in the middle of the last line: what follows has to begin on a line of its own.
fn is_torn(path: &Path, size: u64) -> io::Result<bool> {
    let mut last = [0];
    let Some(at) = size.checked_sub(1) else { return Ok(false) };
    Ok(File::open(path)?.read_at(&mut last, at)? == 1 && last != *b"\n")
}

fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody made the other end of our standard output one that does not wait.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Rotated {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(length) > self.max_bytes {
            self.rotate()?;
        }
        match write_all(&mut self.file, line) {
            Ok(()) => {
                self.size += length;
                Ok(())
            }
            Err(error) => {
                // Without a line's torn half; where even that fails, the file is measured anew.
                if self.file.set_len(self.size).is_err() {
                    self.size = self.file.metadata().map_or(self.size, |metadata| metadata.len());
                }
                Err(error)
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.files == 1 {
            self.file.set_len(0)?;
        } else {
            for number in (1..self.files - 1).rev() {
                rename(&self.numbered(number), &self.numbered(number + 1))?;
            }
            rename(&self.path, &self.numbered(1))?;
            self.file = open(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &Path, max_bytes: u64, files: u32) -> Target {
        Target::open(&Destination::File { path: path.to_owned(), max_bytes, files }).expect("opened")
    }

    fn read(path: &Path, suffix: &str) -> String {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        fs::read_to_string(PathBuf::from(name)).unwrap_or_default()
    }

    #[test]
    fn a_file_is_rotated_before_it_grows_beyond_its_size_and_the_oldest_goes() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("events");
        let mut target = target(&path, 6, 3);
        for line in ["a1\n", "a2\n", "b1\n", "b2\n", "c1\n", "c2\n", "d1\n"] {
            target.write(line.as_bytes()).expect("written");
        }
        assert_eq!(read(&path, ""), "d1\n");
        assert_eq!(read(&path, ".1"), "c1\nc2\n");
        assert_eq!(read(&path, ".2"), "b1\nb2\n");
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 3);
    }

    #[test]
    fn a_line_longer_than_a_file_may_be_stands_alone_and_a_start_goes_on_with_the_file() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("events");
        target(&path, 6, 2).write(b"one\n").expect("written");
        let mut again = target(&path, 6, 2);
        again.write(b"longer\n").expect("written");
        assert_eq!((read(&path, ""), read(&path, ".1")), ("longer\n".to_owned(), "one\n".to_owned()));
        let mut single = target(&path, 6, 1);
        single.write(b"x\n").expect("written");
        assert_eq!((read(&path, ""), read(&path, ".1")), ("x\n".to_owned(), "one\n".to_owned()));
    }

    #[test]
    fn a_line_that_an_agent_died_in_is_not_continued() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("events");
        fs::write(&path, "one\nhal").expect("written");
        target(&path, 100, 2).write(b"two\n").expect("written");
        target(&path, 100, 2).write(b"three\n").expect("written");
        assert_eq!(read(&path, ""), "one\nhal\ntwo\nthree\n");
    }

    #[test]
    fn a_full_disk_leaves_no_torn_line() {
        // A file system of 16 KiB needs root; a limit on the file's size does the same to this file alone.
        let mut full =
            Target::open(&Destination::File { path: PathBuf::from("/dev/full"), max_bytes: 100, files: 2 })
                .expect("opened");
        let error = full.write(b"line\n").expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}
