//! The images of the operator and the agent: built by the very script of `make images` from static programs of the
//! tests' own profile, unpacked, and run as OCI containers by Debian's crun.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    builds::outside_of_cargo,
    process::{Process, tail},
    scenario::cgroup::Top,
    tools,
};

/// Executes what follows with the cgroup v2 tree at `/sys/fs/cgroup`, as nodes have it, and in a BPF file system at `$0`
/// that nobody else sees: it goes with its last process, and whatever is pinned in it.
const NODE: &str = "umount --lazy --recursive /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup && mount -t bpf bpf \"$0\" && exec \"$@\"";

/// Builds both images, once in the life of this program; the folder that they are in.
///
/// # Errors
/// When the script fails; the error holds the end of what it said.
pub fn build() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || -> Result<PathBuf> {
        let folder = tools::root().join("target/tests/images");
        let mut command = Command::new(tools::root().join("images/build.sh"));
        command.args(["--profile", "dev"]).arg(&folder);
        outside_of_cargo(&mut command);
        let output = command.output().context("cannot run images/build.sh")?;
        if !output.status.success() {
            bail!("images/build.sh failed:\n{}", tail(&String::from_utf8_lossy(&output.stderr), 40));
        }
        Ok(folder)
    };
    BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

/// An image, unpacked.
#[derive(Debug)]
pub struct Image {
    folder: tempfile::TempDir,
    /// Its configuration, as the OCI image specification has it.
    pub config: Value,
    /// The tag that its archive carries.
    pub tag: String,
    /// The size of its archive in bytes: what a node fetches.
    pub size: u64,
}

impl Image {
    /// Unpacks an OCI archive of one image.
    ///
    /// # Errors
    /// When it is no such archive.
    pub fn unpack(archive: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("holdfast-image-").tempdir()?;
        let layout = folder.path().join("layout");
        untar(archive, &layout)?;
        let index = document(&layout.join("index.json"))?;
        let manifests = index["manifests"].as_array().context("an index without manifests")?;
        ensure!(manifests.len() == 1, "{} images in one archive", manifests.len());
        let tag = manifests[0]["annotations"]["org.opencontainers.image.ref.name"].as_str();
        let tag = tag.context("an image without a tag")?.to_owned();
        let blob = |descriptor: &Value| -> Result<PathBuf> {
            let digest = descriptor["digest"].as_str().context("no digest")?;
            Ok(layout.join("blobs").join(digest.replace(':', "/")))
        };
        let manifest = document(&blob(&manifests[0])?)?;
        let config = document(&blob(&manifest["config"])?)?;
        for layer in manifest["layers"].as_array().context("no layers")? {
            untar(&blob(layer)?, &folder.path().join("rootfs"))?;
        }
        Ok(Self { folder, config, tag, size: fs::metadata(archive)?.len() })
    }

    /// Where its files are.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.folder.path().join("rootfs")
    }

    /// The words that its configuration begins every command with.
    ///
    /// # Errors
    /// When it has no entry point.
    pub fn entrypoint(&self) -> Result<Vec<String>> {
        serde_json::from_value(self.config["config"]["Entrypoint"].clone()).context("no entry point")
    }
}

fn document(path: &Path) -> Result<Value> {
    serde_json::from_slice(&fs::read(path)?).with_context(|| path.display().to_string())
}

fn untar(archive: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder).status()?;
    ensure!(status.success(), "tar cannot unpack {}: {status}", archive.display());
    Ok(())
}

/// How a container is run.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// The words after the entry point.
    pub args: Vec<String>,
    /// Environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Capabilities without `CAP_`.
    pub capabilities: Vec<String>,
    /// What is mounted: from where, where to, and whether it may be written.
    pub mounts: Vec<(PathBuf, String, bool)>,
    /// A file that is the network namespace; this process's own when absent.
    pub netns: Option<PathBuf>,
    /// The processes of the machine are seen.
    pub host_pid: bool,
}

/// A folder for a container's bundle, and the cgroups that it runs in. Dropping it ends what runs there.
#[derive(Debug)]
pub struct Runtime {
    folder: tempfile::TempDir,
    /// The cgroups: a container's own, and those that a test makes.
    pub top: Top,
}

impl Runtime {
    /// Makes it.
    ///
    /// # Errors
    /// When there is no cgroup v2 tree, or it cannot be written.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("holdfast-bundle-").tempdir()?;
        Ok(Self { folder, top: Top::another()? })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the BPF file system of the next container is; to be mounted into it.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.folder().join("bpf")
    }

    /// What a container has written, to standard output and error.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// Runs a container to its end.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn run(&self, image: &Image, spec: &Spec) -> Result<Output> {
        let words = self.prepare(image, spec)?;
        let unshare = tools::system_program("unshare", "util-linux")?;
        Command::new(unshare).args(words).output().context("cannot run crun")
    }

    /// Starts a container; it ends with the process that is returned, or with this.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn start(&self, image: &Image, spec: &Spec) -> Result<Process> {
        let words = self.prepare(image, spec)?;
        let unshare = tools::system_program("unshare", "util-linux")?;
        Process::start(&unshare, &self.folder().join("log"), |command| {
            command.args(words);
        })
    }

    /// Ends the container that runs, with SIGKILL.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> Result<()> {
        fs::write(self.top.full(&self.cgroup()).join("cgroup.kill"), "1").context("ending a container")
    }

    /// The container's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("{}/container", self.top.path())
    }

    /// Writes the bundle; the words that run it.
    fn prepare(&self, image: &Image, spec: &Spec) -> Result<Vec<String>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        tools::system_program("crun", "crun")?;
        fs::create_dir_all(self.bpffs())?;
        let user = image.config["config"]["User"].as_str().unwrap_or_default();
        let (uid, gid) = user.split_once(':').context("a user without a group")?;
        let (uid, gid): (u32, u32) = (uid.parse()?, gid.parse()?);
        let capabilities: Vec<String> = spec.capabilities.iter().map(|name| format!("CAP_{name}")).collect();
        let mut namespaces: Vec<Value> =
            ["mount", "ipc", "uts", "cgroup"].map(|kind| json!({"type": kind})).into();
        if !spec.host_pid {
            namespaces.push(json!({"type": "pid"}));
        }
        if let Some(netns) = &spec.netns {
            namespaces.push(json!({"type": "network", "path": netns}));
        }
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
            json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]}),
        ];
        for (from, to, writable) in &spec.mounts {
            let options = ["rbind", if *writable { "rw" } else { "ro" }];
            mounts.push(json!({"destination": to, "type": "bind", "source": from, "options": options}));
        }
        let config = json!({
            "ociVersion": "1.0.0",
            "process": {
                "user": {"uid": uid, "gid": gid},
                "cwd": "/",
                "env": spec.env,
                "args": ([image.entrypoint()?, spec.args.clone()].concat()),
                "noNewPrivileges": false,
                "capabilities": {
                    "bounding": capabilities,
                    // As runtimes do: none for users other than root.
                    "effective": if uid == 0 { capabilities.clone() } else { Vec::new() },
                    "permitted": if uid == 0 { capabilities.clone() } else { Vec::new() },
                },
            },
            "root": {"path": image.rootfs(), "readonly": true},
            "mounts": mounts,
            "linux": {"cgroupsPath": self.cgroup(), "namespaces": namespaces},
        });
        fs::write(self.folder().join("config.json"), config.to_string())?;
        let (state, bpffs) = (self.folder().join("crun"), self.bpffs());
        let name = format!("holdfast-image-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = self.folder().display().to_string();
        let words = [
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            NODE,
            &bpffs.display().to_string(),
            "crun",
            "--root",
            &state.display().to_string(),
            "run",
            "--bundle",
            &folder,
            &name,
        ];
        Ok(words.map(str::to_owned).into())
    }
}
