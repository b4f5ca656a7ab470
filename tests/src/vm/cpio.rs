//! Writes an initramfs: a cpio archive in the format `newc`, uncompressed, as unpacking costs more than it saves where
//! the guest's processor is emulated.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

/// Builds one archive. Folders are added as files need them.
pub(super) struct Archive<W> {
    output: W,
    written: u64,
    next_inode: u32,
    names: BTreeSet<String>,
}

enum Kind<'a> {
    Folder,
    File { mode: u32, content: &'a [u8] },
    Device { major: u32, minor: u32 },
}

impl<W: Write> Archive<W> {
    pub(super) fn new(output: W) -> Self {
        Self { output, written: 0, next_inode: 1, names: BTreeSet::new() }
    }

    /// A folder, and those above it. `path` is absolute or not; one that is there already is left alone.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        let mut name = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if !name.is_empty() {
                name.push('/');
            }
            name.push_str(part);
            if !self.names.contains(&name) {
                self.entry(&name, &Kind::Folder)?;
            }
        }
        Ok(())
    }

    /// A regular file with the permission bits `mode`.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.placed(path, &Kind::File { mode, content })
    }

    /// A character device.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.placed(path, &Kind::Device { major, minor })
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", &Kind::File { mode: 0, content: &[] })?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn placed(&mut self, path: &str, kind: &Kind<'_>) -> io::Result<()> {
        let name = path.trim_start_matches('/');
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.folder(folder)?;
        }
        if self.names.contains(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("two files want to be {path}")));
        }
        self.entry(name, kind)
    }

    fn entry(&mut self, name: &str, kind: &Kind<'_>) -> io::Result<()> {
        let (mode, content, major, minor): (u32, &[u8], u32, u32) = match *kind {
            Kind::Folder => (0o040_755, &[], 0, 0),
            Kind::File { mode, content } => (0o100_000 | mode, content, 0, 0),
            Kind::Device { major, minor } => (0o020_600, &[], major, minor),
        };
        let too_large =
            |_| io::Error::new(io::ErrorKind::FileTooLarge, format!("{name} is larger than 4 GiB"));
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        let inode = self.next_inode;
        self.next_inode += 1;
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.put(b"070701")?;
        for field in fields {
            self.put(format!("{field:08x}").as_bytes())?;
        }
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(content)?;
        self.pad()?;
        self.names.insert(name.to_owned());
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> io::Result<()> {
        while !self.written.is_multiple_of(4) {
            self.put(&[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn an_archive_is_unpacked_by_cpio_as_it_was_meant() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/bin/deep/tool", 0o755, b"twelve bytes").unwrap();
        archive.file("/etc/odd", 0o600, b"12345").unwrap();
        archive.folder("/var/lib").unwrap();
        let bytes = archive.finish().unwrap();

        let folder = tempfile::tempdir().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["--extract", "--quiet", "--format=newc"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(cpio.wait().unwrap().success());

        let at = |name: &str| folder.path().join(name);
        assert_eq!(fs::read(at("bin/deep/tool")).unwrap(), b"twelve bytes");
        assert_eq!(fs::read(at("etc/odd")).unwrap(), b"12345");
        assert_eq!(fs::metadata(at("bin/deep/tool")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::metadata(at("etc/odd")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::metadata(at("var/lib")).unwrap().is_dir());
    }

    #[test]
    fn two_files_of_one_name_are_refused() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/init", 0o755, b"one").unwrap();
        assert_eq!(archive.file("init", 0o755, b"two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
