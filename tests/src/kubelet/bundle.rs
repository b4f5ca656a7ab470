//! From a container's spec to the bundle that an OCI runtime takes.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsRawFd,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use holdfast_policy::model::Capability;
use k8s_openapi::api::core::v1::{Container, PodSecurityContext, SecurityContext};
use serde_json::{Value, json};

use super::{Inner, container::Trouble, env, pod::PodRun, volumes};

/// What executes a container's program, and has it killed when the runtime dies.
const WRAPPER: &str = "/.node/setpriv";
/// The user of the operator's image.
const OPERATOR_USER: u32 = 65532;
/// What containerd gives where the pod does not say.
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];
/// What an image holds.
pub(super) enum Image {
    /// One of this tree's programs: its file, its place in the image, and its user.
    Program { file: PathBuf, entry: String, user: u32 },
    /// What this machine has.
    Machine,
}

/// An image's name without tag and digest, with a slash at its front.
pub(super) fn repository(image: &str) -> String {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    let (folder, last) = image.rsplit_once('/').unwrap_or(("", image));
    let last = last.split_once(':').map_or(last, |(name, _)| name);
    format!("{folder}/{last}")
}

/// Pulls an image, so to speak.
pub(super) fn image(inner: &Inner, container: &Container) -> Result<Image, Trouble> {
    let name = container.image.as_deref().unwrap_or_default();
    let repository = repository(name);
    if inner.options.missing_images.iter().any(|end| repository.ends_with(end.as_str())) {
        let message =
            format!("failed to pull image \"{name}\": node {} has no such image", inner.options.name);
        return Err(Trouble::new("ErrImagePull", message));
    }
    let program = |program: &str, user| Image::Program {
        file: inner.programs.join(program),
        entry: format!("/{program}"),
        user,
    };
    match repository.rsplit('/').next() {
        Some("operator") => Ok(program("holdfast-operator", OPERATOR_USER)),
        Some("agent") => Ok(program("holdfast-agent", 0)),
        _ if container.command.is_some() => Ok(Image::Machine),
        _ => Err(Trouble::new(
            "CreateContainerError",
            format!("image \"{name}\" has no entry point here, and the container no command"),
        )),
    }
}

/// What a bundle is made of.
pub(super) struct Bundle<'a> {
    pub(super) pod: &'a PodRun,
    pub(super) container: &'a Container,
    pub(super) image: Image,
    pub(super) environment: Vec<(String, String)>,
    pub(super) folder: &'a Path,
    pub(super) cgroup: &'a str,
}

struct Security {
    pod: PodSecurityContext,
    container: SecurityContext,
}

impl Bundle<'_> {
    /// Writes it.
    pub(super) fn write(&self) -> Result<(), Trouble> {
        self.refuse_what_is_not_there()?;
        let config = self.config()?;
        fs::write(self.folder.join("config.json"), config.to_string())
            .context("a bundle's configuration")
            .map_err(Into::into)
    }

    /// What would make a container other than its spec says, without anybody's notice.
    fn refuse_what_is_not_there(&self) -> Result<(), Trouble> {
        let container = self.container;
        let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
        let what = if container.lifecycle.is_some() {
            "lifecycle hooks"
        } else if container.restart_policy.is_some() {
            "containers with a restart policy of their own"
        } else if probes.into_iter().flatten().any(|probe| probe.grpc.is_some()) {
            "gRPC probes"
        } else if container.volume_devices.is_some() {
            "volume devices"
        } else {
            return Ok(());
        };
        Err(Trouble::new("CreateContainerConfigError", format!("this kubelet has no {what}")))
    }

    fn config(&self) -> Result<Value, Trouble> {
        let spec = self.pod.spec();
        let security = Security {
            pod: spec.security_context.clone().unwrap_or_default(),
            container: self.container.security_context.clone().unwrap_or_default(),
        };
        let (user, group) = self.user(&security)?;
        let groups: Vec<i64> =
            security.pod.supplemental_groups.iter().flatten().copied().chain(security.pod.fs_group).collect();
        let known: BTreeMap<String, String> = self.environment.iter().cloned().collect();
        let capabilities = capabilities(&security.container).context("capabilities")?;
        let pid = spec.host_pid.unwrap_or(false);
        let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "ipc"}), json!({"type": "uts"})];
        namespaces.push(json!({"type": "cgroup"}));
        let netns = self.pod.network().context("no network")?.netns(&self.pod.inner.place);
        let path = format!("/proc/{}/fd/{}", std::process::id(), netns.file().as_raw_fd());
        namespaces.push(json!({"type": "network", "path": path}));
        if !pid {
            namespaces.push(json!({"type": "pid"}));
        }
        let words: Vec<String> = [WRAPPER, "--pdeathsig", "KILL", "--"].map(str::to_owned).into();
        let args: Vec<String> = words.into_iter().chain(self.words(&known)).collect();
        let environment: Vec<String> =
            self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(json!({
            "ociVersion": "1.0.0",
            "hostname": env::hostname(self.pod),
            "process": {
                "user": {"uid": user, "gid": group, "additionalGids": groups},
                "cwd": self.container.working_dir.as_deref().unwrap_or("/"),
                "env": environment,
                "args": args,
                "noNewPrivileges": security.container.allow_privilege_escalation == Some(false),
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "root": {
                "path": "rootfs",
                "readonly": security.container.read_only_root_filesystem.unwrap_or(false),
            },
            "mounts": self.mounts()?,
            "linux": {
                "cgroupsPath": self.cgroup,
                "namespaces": namespaces,
                "maskedPaths": [
                    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
                ],
                "readonlyPaths": [
                    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
                ],
            },
        }))
    }

    fn user(&self, security: &Security) -> Result<(i64, i64), Trouble> {
        let (pod, own) = (&security.pod, &security.container);
        let image = match self.image {
            Image::Program { user, .. } => i64::from(user),
            Image::Machine => 0,
        };
        let user = own.run_as_user.or(pod.run_as_user).unwrap_or(image);
        let group = own.run_as_group.or(pod.run_as_group).unwrap_or(if user == image { image } else { 0 });
        if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) && user == 0 {
            let message = "container has runAsNonRoot and image will run as root";
            return Err(Trouble::new("CreateContainerConfigError", message));
        }
        Ok((user, group))
    }

    /// The program and its arguments.
    fn words(&self, known: &BTreeMap<String, String>) -> Vec<String> {
        let command = match (&self.container.command, &self.image) {
            (Some(command), _) => command.clone(),
            (None, Image::Program { entry, .. }) => vec![entry.clone()],
            (None, Image::Machine) => Vec::new(),
        };
        let arguments = self.container.args.clone().unwrap_or_default();
        command.iter().chain(&arguments).map(|word| env::expand(word, known)).collect()
    }

    /// The mounts, and in the root file system what they are mounted on.
    fn mounts(&self) -> Result<Vec<Value>> {
        let root = self.folder.join("rootfs");
        for part in ["proc", "sys", "dev", "usr", "etc", "tmp", ".node", "var/run", "run"] {
            fs::create_dir_all(root.join(part))?;
        }
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        for link in ["lib", "lib64", "bin", "sbin"] {
            symlink(format!("usr/{link}"), root.join(link))?;
        }
        let plain = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
        let mut mounts = vec![
            plain("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            plain("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            plain("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            plain("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            bind(Path::new("/usr/bin/setpriv"), WRAPPER, true, "rprivate"),
        ];
        match &self.image {
            Image::Program { file, entry, .. } => {
                for libraries in
                    ["/usr/lib", "/usr/lib64"].into_iter().filter(|path| Path::new(path).is_dir())
                {
                    mounts.push(bind(Path::new(libraries), libraries, true, "rprivate"));
                }
                mounts.push(bind(file, entry, true, "rprivate"));
            }
            Image::Machine => {
                mounts.push(bind(Path::new("/usr"), "/usr", true, "rprivate"));
                mounts.push(bind(Path::new("/etc"), "/etc", true, "rprivate"));
            }
        }
        let termination = self.folder.join("termination-log");
        fs::write(&termination, "")?;
        fs::set_permissions(&termination, fs::Permissions::from_mode(0o666))?;
        let at = self.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
        mounts.push(bind(&termination, at, false, "rprivate"));
        let mut asked = self.container.volume_mounts.clone().unwrap_or_default();
        // Whatever lies in another comes after it.
        asked.sort_by_key(|mount| mount.mount_path.matches('/').count());
        for mount in asked {
            let mut source = volumes::path(self.pod, &mount.name)?;
            if let Some(below) = &mount.sub_path {
                source.push(below);
                if !source.exists() {
                    fs::create_dir_all(&source)?;
                }
            }
            let propagation = match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => "rslave",
                Some("Bidirectional") => "rshared",
                _ => "rprivate",
            };
            mounts.push(bind(&source, &mount.mount_path, mount.read_only.unwrap_or(false), propagation));
        }
        Ok(mounts)
    }
}

fn bind(source: &Path, at: &str, read_only: bool, propagation: &str) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({"destination": at, "type": "bind", "source": source, "options": ["rbind", propagation, access]})
}

/// What the container's processes may have, of what this machine's root has.
fn capabilities(security: &SecurityContext) -> Result<Vec<String>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("no CapBnd")?;
    let bounding = u64::from_str_radix(line.trim(), 16)?;
    let wanted = wanted(security);
    let here = Capability::all().filter(|capability| bounding >> capability.number() & 1 != 0);
    let names = here.map(Capability::name).filter(|name| wanted.contains(name));
    Ok(names.map(|name| format!("CAP_{name}")).collect())
}

fn wanted(security: &SecurityContext) -> Vec<&'static str> {
    if security.privileged == Some(true) {
        return Capability::all().map(Capability::name).collect();
    }
    let lists = security.capabilities.clone().unwrap_or_default();
    let (add, drop) = (lists.add.unwrap_or_default(), lists.drop.unwrap_or_default());
    let has = |list: &[String], name: &str| list.iter().any(|entry| entry == name || entry == "ALL");
    let base = |name: &&str| CAPABILITIES.contains(name) && !has(&drop, name);
    Capability::all().map(Capability::name).filter(|name| has(&add, name) || base(name)).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Capabilities;

    use super::*;

    #[test]
    fn a_repository_has_neither_tag_nor_digest() {
        for (image, wanted) in [
            ("registry.test:5000/a/operator:v1", "registry.test:5000/a/operator"),
            ("registry.test/agent@sha256:00", "registry.test/agent"),
            ("agent", "/agent"),
            ("r/agent:v1@sha256:00", "r/agent"),
        ] {
            assert_eq!(repository(image), wanted);
        }
    }

    #[test]
    fn capabilities_are_dropped_and_added() {
        let lists = |add: &[&str], drop: &[&str]| SecurityContext {
            capabilities: Some(Capabilities {
                add: Some(add.iter().map(|name| (*name).to_owned()).collect()),
                drop: Some(drop.iter().map(|name| (*name).to_owned()).collect()),
            }),
            ..SecurityContext::default()
        };
        assert_eq!(wanted(&lists(&["BPF", "NET_ADMIN"], &["ALL"])), ["NET_ADMIN", "BPF"]);
        assert_eq!(wanted(&lists(&[], &["ALL"])), Vec::<&str>::new());
        assert_eq!(wanted(&lists(&[], &[])).len(), CAPABILITIES.len());
        assert!(!wanted(&lists(&[], &["KILL"])).contains(&"KILL"));
    }
}
