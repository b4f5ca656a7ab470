//! A house: a process of a pod that lives as in a container, in a mount namespace of its own whose root is an overlayfs
//! over an image, with a tmpfs and a volume. It does deeds (`helpers/deeds.c`) and says what came of each.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use super::{
    process::Inside,
    protocol::{Answer, Op},
    rig::Rig,
};

/// The program that does deeds.
static DEEDS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/deeds"));

/// Where the image has that program, and what a deed is done by where nothing else is said.
pub const PROGRAM: &str = "/usr/bin/deeds";
/// The same program under other names, in the image. One is known as a dynamic loader.
const OTHERS: [&str; 8] = [
    "/usr/bin/tool",
    "/usr/bin/other",
    "/usr/bin/changed",
    "/opt/app/server",
    "/usr/lib64/ld-deeds.so.1",
    "/usr/bin/xmrig",
    "/app/login",
    "/usr/lib/postgresql/15/bin/postgres",
];
/// The volume, and the tmpfs.
const PLACES: [&str; 2] = ["/volume", "/tmp"];

/// A process in a house. Dropping it ends it and takes the house down.
pub struct House {
    inside: Inside,
    path: PathBuf,
    rooms: AtomicU32,
    _folder: tempfile::TempDir,
}

impl House {
    /// Builds one for a place, and starts a process in it in that place's cgroup. With `overlay` its root is an overlayfs,
    /// else it is the image itself.
    ///
    /// # Errors
    /// When a step is refused.
    pub fn build(rig: &Rig, place: &str, overlay: bool) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().to_owned();
        // Overlayfs wants extended attributes of what is written to, which not every root has.
        mount("house", &path, "tmpfs", MountFlags::empty(), None).context("mounting a tmpfs")?;
        let built = Self::furnish(&path).and_then(|()| {
            let place = rig.node.place(place)?;
            let netns = rig.node.netns(place.netns)?.path();
            let cgroup = rig.node.top.full(&place.cgroup);
            let form = if overlay { "overlay" } else { "plain" };
            Inside::start_as("the house", &cgroup, &netns, &["live", &path.display().to_string(), form])
        });
        let inside = built.inspect_err(|_| {
            // The first error counts.
            let _ = unmount(&path, UnmountFlags::DETACH);
        })?;
        let house = Self { inside, path, rooms: AtomicU32::new(0), _folder: folder };
        // Whoever answers has moved in.
        house.inside.arrivals().context("moving in")?;
        Ok(house)
    }

    fn furnish(path: &Path) -> Result<()> {
        let image = path.join("image");
        for part in ["upper", "work", "root", "volume"] {
            fs::create_dir_all(path.join(part))?;
        }
        let inside = |name: &str| image.join(name.trim_start_matches('/'));
        for part in ["proc", "dev", "tmp", "volume", "old", "etc/app", "run", "var", "srv"] {
            fs::create_dir_all(image.join(part))?;
        }
        for name in [&[PROGRAM], &OTHERS[..]].concat() {
            executable(&inside(name), DEEDS)?;
        }
        executable(&inside("/usr/bin/script"), format!("#!{} interpret\n", OTHERS[1]).as_bytes())?;
        for (name, target) in
            [("bin", "usr/bin"), ("lib64", "usr/lib64"), ("usr/bin/alias", "tool"), ("var/run", "../run")]
        {
            symlink(target, image.join(name))?;
        }
        for name in ["/etc/secret", "/etc/plain", "/etc/app/key", "/run/token", "/worker"] {
            fs::write(inside(name), "content")?;
        }
        symlink("secret", inside("/etc/link"))?;
        Ok(())
    }

    /// Where a path of the house is from outside.
    #[must_use]
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.inside.id()))
    }

    /// New directories with the same in each: a file `f`, a directory `sub` with the file `g`, and the program `tool`. One
    /// is in the upper layer of the root, one in the volume, one in the tmpfs.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn rooms(&self) -> Result<Rooms> {
        let rooms = Rooms { name: format!("room-{}", self.rooms.fetch_add(1, Ordering::Relaxed)) };
        for place in [&[""], &PLACES[..]].concat() {
            let room = self.outside(&format!("{place}/{}", rooms.name));
            fs::create_dir_all(room.join("sub"))?;
            fs::write(room.join("f"), "content")?;
            fs::write(room.join("sub/g"), "content")?;
            executable(&room.join("tool"), DEEDS)?;
            executable(&room.join("script"), format!("#!{} interpret\n", OTHERS[1]).as_bytes())?;
        }
        Ok(rooms)
    }

    /// Does deeds by a program of the house. Each says 0, an error number, or the negative number of the signal that ended
    /// who did it; all of them the last where the program itself did not start.
    ///
    /// # Errors
    /// When the process has ended, or the deeds make no sense.
    pub fn does(&self, program: &str, deeds: &[String], wait_ms: u64) -> Result<Vec<i32>> {
        let command = [&[program.to_owned()], deeds].concat();
        let answer = self.inside.act(Op::Run { command, wait_ms })?;
        let output = match answer {
            Answer::Ended { code: Some(0), output, .. } => output,
            Answer::Errno(errno) => return Ok(vec![errno; deeds.len()]),
            Answer::Ended { signal: Some(signal), output, .. } if output.is_empty() => {
                return Ok(vec![-signal; deeds.len()]);
            }
            other => anyhow::bail!("{program} {deeds:?}: {other:?}"),
        };
        let said = output
            .lines()
            .map(str::parse)
            .collect::<Result<Vec<i32>, _>>()
            .with_context(|| output.clone())?;
        ensure!(said.len() == deeds.len() && !said.contains(&WRONG), "{program} {deeds:?}: {said:?}");
        Ok(said)
    }

    /// Does something so often, and says how many nanoseconds each took: `fork`, `exec PATH` or `open PATH BYTES`, which
    /// reads and closes it too.
    ///
    /// # Errors
    /// When the process has ended, or it cannot be done.
    pub fn times(&self, count: u32, what: &str, wait_ms: u64) -> Result<u64> {
        let mut command = vec![PROGRAM.to_owned(), "times".to_owned(), count.to_string()];
        command.extend(what.split(' ').map(str::to_owned));
        match self.inside.act(Op::Run { command, wait_ms })? {
            Answer::Ended { code: Some(0), output, .. } => output.trim().parse().context(output),
            other => anyhow::bail!("{what}: {other:?}"),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.inside.id()
    }
}

/// What a deed says that makes no sense, or whose preparation failed.
const WRONG: i32 = 201;

impl Drop for House {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.path, UnmountFlags::DETACH) {
            eprintln!("scenarios: {}: {error}", self.path.display());
        }
    }
}

/// Directories of one scenario.
#[derive(Debug)]
pub struct Rooms {
    name: String,
}

impl Rooms {
    /// A text with `{d}`, `{v}` and `{t}` for the directories in the upper layer, the volume and the tmpfs.
    #[must_use]
    pub fn fill(&self, text: &str) -> String {
        let [volume, tmpfs] = PLACES;
        text.replace("{d}", &format!("/{}", self.name))
            .replace("{v}", &format!("{volume}/{}", self.name))
            .replace("{t}", &format!("{tmpfs}/{}", self.name))
    }
}

fn executable(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Moves into the house at `path` and executes this program there, as `work`: what a container runtime does after it has
/// joined the container's cgroup and namespaces.
///
/// # Errors
/// When a step is refused; it returns only then.
pub fn live(path: &Path, overlay: bool) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let [image, root] = ["image", "root"].map(|part| path.join(part));
    if overlay {
        let layers = ["lowerdir=image", "upperdir=upper", "workdir=work"].join(",");
        std::env::set_current_dir(path)?;
        let options = std::ffi::CString::new(layers)?;
        mount("overlay", &root, "overlay", MountFlags::empty(), Some(options.as_c_str()))
            .context("the root")?;
    } else {
        mount_bind(&image, &root).context("the root")?;
    }
    mount("proc", root.join("proc"), "proc", MountFlags::empty(), None).context("/proc")?;
    mount("tmpfs", root.join("tmp"), "tmpfs", MountFlags::empty(), None).context("/tmp")?;
    mount_bind("/dev", root.join("dev")).context("/dev")?;
    mount_bind(path.join("volume"), root.join("volume")).context("/volume")?;
    // By its path: what /proc/self/exe leads to is of the mount namespace that this program was started from.
    mount_bind(std::env::current_exe()?, root.join("worker")).context("the worker")?;
    rustix::process::pivot_root(&root, root.join("old")).context("changing the root")?;
    std::env::set_current_dir("/")?;
    unmount("/old", UnmountFlags::DETACH).context("leaving the old root")?;
    Err(Command::new("/worker").arg("work").exec()).context("executing the worker")
}
