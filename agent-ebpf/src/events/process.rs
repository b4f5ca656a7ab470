//! The process of an event: from the record, and where the kernel could not read the arguments, from `/proc` if it is the
//! same process still.

use std::fs;
use std::path::Path;

use holdfast_crds::event::{Parent, Process, Truncated, escape};

use super::decode::Clock;
use crate::abi::event::{Task, task_flags};

/// The process, and what of it is cut short.
#[must_use]
pub fn process(task: &Task, clock: Clock) -> Process {
    let mut truncated = Vec::new();
    let executable = path(&task.path.0, task.path_size, task.flags & task_flags::ROOTED != 0);
    if task.flags & task_flags::PATH_CUT != 0 && executable.is_some() {
        truncated.push(Truncated::Executable);
    }
    let whole = usize::try_from(task.arguments_size).unwrap_or(usize::MAX);
    let arguments = arguments(&task.arguments.0[..whole.min(task.arguments.0.len())]);
    if whole > task.arguments.0.len() {
        truncated.push(Truncated::Arguments);
    }
    let parent =
        path(&task.parent_path.0, task.parent_path_size, task.flags & task_flags::PARENT_ROOTED != 0);
    if task.flags & task_flags::PARENT_PATH_CUT != 0 && parent.is_some() {
        truncated.push(Truncated::ParentExecutable);
    }
    Process {
        pid: Some(task.tgid),
        thread: (task.pid != task.tgid).then_some(task.pid),
        start_time: Some(clock.show(task.start_ns)),
        name: Some(escape(task.name.0.split(|byte| *byte == 0).next().unwrap_or_default())),
        executable,
        arguments,
        truncated,
        cgroup: None,
        parent: (task.parent != 0).then_some(Parent { pid: task.parent, executable: parent }),
    }
}

/// Names come from the last to the first, each with a final zero.
fn path(bytes: &[u8], size: u16, rooted: bool) -> Option<String> {
    let bytes = bytes.get(..usize::from(size))?;
    let mut names: Vec<&[u8]> = bytes.strip_suffix(&[0])?.split(|byte| *byte == 0).collect();
    names.reverse();
    let joined = names.join(&b'/');
    Some(if rooted { format!("/{}", escape(&joined)) } else { escape(&joined) })
}

fn arguments(bytes: &[u8]) -> Vec<String> {
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.strip_suffix(&[0]).unwrap_or(bytes).split(|byte| *byte == 0).map(escape).collect()
}

/// At most this much is read of a process's arguments, in bytes.
const MOST: usize = 512;

/// The arguments of a process that lives, as `/proc` has them.
#[must_use]
pub fn arguments_of(proc: &Path, task: &Task) -> Option<(Vec<String>, bool)> {
    let folder = proc.join(task.tgid.to_string());
    let bytes = fs::read(folder.join("cmdline")).ok().filter(|bytes| !bytes.is_empty())?;
    // Asked afterwards: the number may have become another's before.
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // proc(5): the name, in brackets, may hold anything; starttime is the 22nd field, in ticks of 10 ms.
    let started: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    (started == task.start_ns / 10_000_000)
        .then(|| (arguments(&bytes[..bytes.len().min(MOST)]), bytes.len() > MOST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::event::Bytes;

    fn bytes<const N: usize>(text: &[u8]) -> Bytes<N> {
        let mut out = Bytes::default();
        out.0[..text.len()].copy_from_slice(text);
        out
    }

    fn task() -> Task {
        Task {
            start_ns: 5_010_000_000,
            tgid: 7,
            pid: 8,
            parent: 1,
            arguments_size: 8,
            flags: task_flags::ROOTED | task_flags::PARENT_ROOTED,
            path_size: 9,
            parent_path_size: 5,
            name: bytes(b"cu\xffrl\0junk"),
            path: bytes(b"curl\0bin\0junk"),
            parent_path: bytes(b"init\0"),
            arguments: bytes(b"curl\0\xfe\\\0junk"),
        }
    }

    #[test]
    fn names_and_arguments_are_put_together_and_bytes_beyond_their_sizes_are_nobody_s() {
        let process = process(&task(), Clock { boot_unix_ns: 0 });
        assert_eq!(process.executable.as_deref(), Some("/bin/curl"));
        assert_eq!(process.arguments, ["curl", r"\xfe\\"]);
        assert_eq!(process.name.as_deref(), Some(r"cu\xffrl"));
        assert_eq!((process.pid, process.thread), (Some(7), Some(8)));
        assert_eq!(process.parent, Some(Parent { pid: 1, executable: Some("/init".to_owned()) }));
        assert_eq!(process.start_time.as_deref(), Some("1970-01-01T00:00:05.010000000Z"));
        assert!(process.truncated.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_said_and_a_memfd_has_no_place_in_the_tree() {
        let cut = Task { arguments_size: 600, flags: task_flags::PATH_CUT, ..task() };
        let cut = process(&cut, Clock { boot_unix_ns: 0 });
        assert_eq!(cut.executable.as_deref(), Some("bin/curl"));
        assert_eq!(cut.truncated, [Truncated::Executable, Truncated::Arguments]);
        let memfd = Task { path: bytes(b"memfd:x\0"), path_size: 8, flags: 0, ..task() };
        assert_eq!(process(&memfd, Clock { boot_unix_ns: 0 }).executable.as_deref(), Some("memfd:x"));
        let unknown = Task { path_size: 0, arguments_size: 0, ..task() };
        let unknown = process(&unknown, Clock { boot_unix_ns: 0 });
        assert_eq!((unknown.executable, unknown.arguments), (None, Vec::new()));
    }

    #[test]
    fn proc_is_believed_only_for_the_same_process() {
        let proc = tempfile::tempdir().expect("a directory");
        let folder = proc.path().join("7");
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("cmdline"), b"a\0b\xff\0").expect("written");
        let stat = |start: u64| {
            let between = "0 ".repeat(18);
            fs::write(folder.join("stat"), format!("7 (a) b) S {between}{start} 0 0")).expect("written");
        };
        stat(501);
        let found = arguments_of(proc.path(), &task());
        assert_eq!(found, Some((vec!["a".to_owned(), r"b\xff".to_owned()], false)));
        stat(502);
        assert_eq!(arguments_of(proc.path(), &task()), None);
    }
}
