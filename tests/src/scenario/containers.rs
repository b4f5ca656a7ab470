//! Containers started by real runtimes from OCI bundles, and what is executed in them.
//!
//! The runtimes see a plain cgroup v2 tree, also on machines that mount it beside v1: they are started in a mount
//! namespace that has it at `/sys/fs/cgroup`.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use holdfast_policy::syscalls::{Abi, number};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use super::{
    node::{V4, container_id},
    rig::{Rig, network, only},
    suite::Scenario,
    syscalls::{CALLS, Given, given},
};

macro_rules! by_runtime {
    ($($name:literal, $function:ident, $runtime:literal);* $(;)?) => {
        /// All of them.
        #[must_use]
        pub fn all() -> Vec<Scenario> {
            vec![$(Scenario { name: $name, run: |rig| $function(rig, $runtime) }),*]
        }
    };
}

by_runtime! {
    "a container with @mount denied starts under crun, may not mount, and exec into it works", mount, "crun";
    "a container with @mount denied starts under runc, may not mount, and exec into it works", mount, "runc";
    "a container started by crun is isolated, and what is executed in it", isolated, "crun";
    "a container started by runc is isolated, and what is executed in it", isolated, "runc";
    "a container that runs already obeys a policy that comes later", later, "runc";
}

/// Executes a program with the cgroup v2 tree, and nothing else, at `/sys/fs/cgroup`.
///
/// # Errors
/// When a step is refused; it returns only then.
pub fn unified(program: &str, arguments: &[String]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context("making the mount namespace private")?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut old: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|path| *path == "/sys/fs/cgroup" || path.starts_with("/sys/fs/cgroup/"))
        .collect();
    old.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in old {
        rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).with_context(|| path.to_owned())?;
    }
    rustix::mount::mount("none", "/sys/fs/cgroup", "cgroup2", rustix::mount::MountFlags::empty(), None)
        .context("mounting the cgroup v2 tree")?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("executing {program}"))
}

/// A running container of the pod `batch`. Dropping it ends and removes it.
struct Container {
    _folder: tempfile::TempDir,
    path: PathBuf,
    runtime: &'static str,
    name: String,
}

impl Container {
    /// Starts one whose program makes a mount, leaves what came of it in the file `own`, and waits.
    fn start(rig: &Rig, runtime: &'static str) -> Result<Self> {
        let installed = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(runtime).is_file()));
        ensure!(installed, "{runtime} is missing: install the Debian package {runtime}");
        let folder = tempfile::tempdir()?;
        let path = folder.path().to_owned();
        for part in ["rootfs/bin", "rootfs/proc", "rootfs/dev", "rootfs/m", "rootfs/out", "out", "state"] {
            fs::create_dir_all(path.join(part))?;
        }
        fs::copy("/bin/busybox", path.join("rootfs/bin/busybox")).context("install busybox-static")?;
        fs::write(path.join("rootfs/calls"), CALLS)?;
        fs::set_permissions(path.join("rootfs/calls"), fs::Permissions::from_mode(0o755))?;
        let pod = rig.node.place("batch")?.pod_cgroup.clone().context("batch is a pod")?;
        let netns = format!("/proc/{}/ns/net", rig.inside("batch")?.id());
        let script = format!(
            "{} >/out/own.new; /bin/busybox mv /out/own.new /out/own; exec /bin/busybox sleep 600",
            mount_call()?.join(" ")
        );
        let capabilities = ["CAP_SYS_ADMIN", "CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_DAC_OVERRIDE"];
        let config = json!({
            "ociVersion": "1.0.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": true,
                "args": ["/bin/busybox", "sh", "-c", script],
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
                {"destination": "/out", "type": "bind", "source": path.join("out"), "options": ["bind", "rw"]},
            ],
            "linux": {
                "cgroupsPath": format!("{pod}/{}", container_id(200)),
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                    {"type": "network", "path": netns},
                ],
            },
        });
        fs::write(path.join("config.json"), serde_json::to_vec(&config)?)?;
        let name = format!("holdfast-{}-{runtime}", std::process::id());
        let container = Self { _folder: folder, path, runtime, name };
        let bundle = container.path.display().to_string();
        container.runtime(
            &["run", "--detach", "--bundle", &bundle, &container.name],
            &container.path.join("log"),
        )?;
        Ok(container)
    }

    /// Runs a command of the runtime. What the container's own processes write goes to the same place, and they do not
    /// end with it: so that is a file.
    fn runtime(&self, words: &[&str], log: &Path) -> Result<()> {
        let file = fs::File::create(log)?;
        let status = self
            .command(words)
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .context("running the runtime")?;
        let said = fs::read_to_string(log)?;
        ensure!(status.success(), "{} {words:?}: {status}: {said}", self.runtime);
        Ok(())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args(["unified", self.runtime, "--root"]).arg(self.path.join("state")).args(words);
        command
    }

    /// Executes a program in it.
    fn exec(&self, words: &[&str]) -> Result<Output> {
        let mut all = vec!["exec", &self.name];
        all.extend(words);
        self.command(&all).output().context("running the runtime")
    }

    /// What came of its own program's mount.
    fn own(&self, rig: &mut Rig) -> Result<String> {
        let path = self.path.join("out/own");
        rig.until("the container's program has made its call", |_| Ok(path.exists()))?;
        Ok(fs::read_to_string(path)?)
    }

    /// Whether something answers echo at an address.
    fn reaches(&self, rig: &Rig, name: &str, seconds: u32) -> Result<bool> {
        let (to, seconds) = (rig.at(name, V4, 8080)?, seconds * rig.patience);
        let script = format!("echo hello | /bin/busybox nc -w {seconds} {} {}", to.ip(), to.port());
        let output = self.exec(&["/bin/busybox", "sh", "-c", &script])?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("hello"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // One that could not be started has nothing to remove.
        let _ = self.command(&["delete", "--force", &self.name]).output();
    }
}

fn mount_call() -> Result<Vec<String>> {
    let native = if cfg!(target_arch = "x86_64") { Abi::X86_64 } else { Abi::Aarch64 };
    let number = number(native, "mount").context("mount has a number")?;
    Ok(format!("/calls native {number} s:none s:/m s:tmpfs 0 0").split(' ').map(str::to_owned).collect())
}

fn mount(rig: &mut Rig, runtime: &'static str) -> Result<()> {
    let id = "bank/no-mount";
    let spec =
        "{selector: {matchLabels: {app: batch}}, syscalls: {rules: [{names: ['@mount'], action: Deny}]}}";
    rig.enforce(&[(id, spec)])?;
    let given = given(rig, id, "syscalls.rules[0]")?;
    let before = rig.counts()?;
    let container = Container::start(rig, runtime)?;
    let own = container.own(rig)?;
    let counted = rig.counted_since(&before)?;
    let call = mount_call()?;
    let words: Vec<&str> = call.iter().map(String::as_str).collect();
    let executed = container.exec(&words)?;
    let seen = String::from_utf8_lossy(&executed.stdout).into_owned();
    // runc binds its own program while it is being moved into the container's cgroup, and copies it where that is refused:
    // before the kernel has told of the move this counts as the workload's.
    let most = if runtime == "runc" { 2 } else { 1 };
    if given == Given::Refused {
        ensure!(
            own.contains("errno=1\n")
                && (1..=most).contains(&only(&counted, id, "syscalls.rules[0]", "Deny")),
            "its own mount: {own}, {counted:?}"
        );
        ensure!(seen.contains("errno=1\n"), "exec: {executed:?}");
    } else {
        ensure!(own.contains("errno=0\n") && counted.is_empty(), "its own mount: {own}, {counted:?}");
        ensure!(seen.contains("errno=0\n"), "exec: {executed:?}");
    }
    drop(container);
    // The same without the rule.
    rig.enforce::<&str>(&[])?;
    let own = Container::start(rig, runtime)?.own(rig)?;
    ensure!(own.contains("errno=0\n"), "without the rule: {own}");
    Ok(())
}

const TO_API: &str =
    "{egress: {allow: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: api}}}]}]}}";

fn isolated(rig: &mut Rig, runtime: &'static str) -> Result<()> {
    rig.enforce(&[("bank/container", network("batch", TO_API))])?;
    let container = Container::start(rig, runtime)?;
    refuses_db(rig, &container, "bank/container")
}

fn later(rig: &mut Rig, runtime: &'static str) -> Result<()> {
    let container = Container::start(rig, runtime)?;
    ensure!(container.reaches(rig, "db", 5)?, "without a policy");
    rig.enforce(&[("bank/later", network("batch", TO_API))])?;
    refuses_db(rig, &container, "bank/later")
}

fn refuses_db(rig: &mut Rig, container: &Container, id: &str) -> Result<()> {
    ensure!(container.reaches(rig, "api", 5)?, "what is allowed does not answer");
    rig.inside("db")?.arrivals()?;
    let before = rig.counts()?;
    let reached = container.reaches(rig, "db", 1)?;
    let counted = rig.counted_since(&before)?;
    let arrived = rig.inside("db")?.arrivals()?;
    ensure!(
        !reached && arrived.is_empty() && only(&counted, id, "network.egress", "Drop") >= 1,
        "what is refused: {reached}, {arrived:?}, {counted:?}"
    );
    rig.reports(id, "network.egress", "Deny", "Deny")
}
