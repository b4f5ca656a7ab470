//! Real kernels: boots Debian's in QEMU, without KVM, from an initramfs that holds busybox, the programs under test
//! and nothing else; runs one shell command in it; returns its exit code, its output and the files it left.
//!
//! ```no_run
//! use std::time::Duration;
//! use holdfast_tests::vm::{Kernel, Vm};
//!
//! let outcome = Vm::new(Kernel::Debian6_1)
//!     .lsm_bpf(true)
//!     .file("/bin/agent", holdfast_tests::builds::guest_program("holdfast-agent")?)?
//!     .run("agent probe -o json >/results/probe.json", Duration::from_secs(60))?;
//! assert_eq!(outcome.exit_code, 0, "{}", outcome.output);
//! let table = &outcome.results["probe.json"];
//! # anyhow::Ok(())
//! ```
//!
//! The guest has the kernel command line `lsm=lockdown,capability,landlock,yama[,bpf]`; proc, sysfs, cgroup v2 (all
//! controllers on), bpffs, securityfs, tracefs and debugfs at their usual places; `lo` up; [`DEFAULT_MODULES`] loaded.
//! At most three guests run at once on a machine, over all test programs; others wait for their turn.

mod cpio;
mod modules;

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    process::{POLL, Process, tail},
    tools,
};

/// The modules that every guest loads, with those that they need: what pods' networks are made of, the overlay file
/// system of container images, and the socket diagnosis that can end a socket.
pub const DEFAULT_MODULES: [&str; 7] = ["veth", "bridge", "dummy", "overlay", "tcp_diag", "udp_diag", "sctp"];

/// How many guests may run at once.
pub const SLOTS: usize = 3;

/// A kernel that `make setup` fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kernel {
    /// 5.10, of Debian 11: the oldest that is supported.
    Debian5_10,
    /// 6.1, of Debian 12.
    Debian6_1,
    /// 6.12, of Debian 13.
    Debian6_12,
}

impl Kernel {
    /// All of them, oldest first.
    pub const ALL: [Kernel; 3] = [Kernel::Debian5_10, Kernel::Debian6_1, Kernel::Debian6_12];

    /// The first two numbers of its version.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Kernel::Debian5_10 => "5.10",
            Kernel::Debian6_1 => "6.1",
            Kernel::Debian6_12 => "6.12",
        }
    }

    /// What `uname -r` prints in it.
    ///
    /// # Errors
    /// When `make setup` has not fetched it.
    pub fn release(self) -> Result<String> {
        let path = self.folder().join("release");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("no kernel {self} in {}: run `make setup`", self.folder().display()))?;
        Ok(text.trim().to_owned())
    }

    fn folder(self) -> PathBuf {
        tools::directory().join("kernels").join(self.version())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.version())
    }
}

/// A guest to be run.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Vm {
    kernel: Kernel,
    lsm_bpf: bool,
    memory_mib: u32,
    processors: u32,
    echo: bool,
    network: bool,
    counted: bool,
    files: BTreeMap<String, PathBuf>,
    modules: Vec<String>,
}

/// What a guest's command did.
#[derive(Debug)]
pub struct VmOutcome {
    /// The exit code of the command, as the shell sees it (128 + n after signal n).
    pub exit_code: i32,
    /// What the command wrote to its standard output and error.
    pub output: String,
    /// What the kernel and the first process wrote to the console.
    pub console: String,
    /// The files that the command left under `/results`, by their path in it.
    pub results: BTreeMap<String, Vec<u8>>,
    /// From the kernel's start to the command's, by the guest's clock.
    pub boot: Duration,
    /// From the start of QEMU to its end, by the host's clock.
    pub total: Duration,
}

impl Vm {
    /// A guest with this kernel, `bpf` in its `lsm=`, 1024 MiB and two processors.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            lsm_bpf: true,
            memory_mib: 1024,
            processors: 2,
            echo: false,
            network: false,
            counted: false,
            files: BTreeMap::new(),
            modules: DEFAULT_MODULES.map(str::to_owned).into(),
        }
    }

    /// Whether `bpf` is in the kernel's `lsm=`. Without it, BPF LSM programs load and attach, and are never called.
    #[must_use]
    pub fn lsm_bpf(mut self, on: bool) -> Self {
        self.lsm_bpf = on;
        self
    }

    /// The guest's memory. Its files take their size out of it, twice for a moment.
    #[must_use]
    pub fn memory_mib(mut self, size: u32) -> Self {
        self.memory_mib = size;
        self
    }

    /// The guest's processors.
    #[must_use]
    pub fn processors(mut self, count: u32) -> Self {
        self.processors = count;
        self
    }

    /// Prints what the command prints while it does so.
    #[must_use]
    pub fn echo(mut self, on: bool) -> Self {
        self.echo = on;
        self
    }

    /// Gives the guest an interface `eth0`, which QEMU's own user network is behind: a guest with the address 10.0.2.15/24
    /// reaches the host's loopback interface at 10.0.2.2, and nobody reaches the guest.
    #[must_use]
    pub fn network(mut self) -> Self {
        self.network = true;
        self.module("virtio_pci").module("virtio_net")
    }

    /// Lets the guest's clock go on by a nanosecond with each instruction of its one processor, whatever else the host does: what
    /// takes long there takes many instructions, and the same number again the next time.
    #[must_use]
    pub fn counted(mut self) -> Self {
        (self.counted, self.processors) = (true, 1);
        self
    }

    /// Loads a kernel module, and those that it needs, before the command runs.
    #[must_use]
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.to_owned());
        self
    }

    /// Puts the host's file `host` at the absolute path `guest`, with its permission bits. A program must be
    /// statically linked; see [`Vm::program`] for others. A relative `host` starts at the root of the source tree.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn file(mut self, guest: &str, host: impl AsRef<Path>) -> Result<Self> {
        let host = tools::root().join(host);
        if !host.is_file() {
            bail!("{} is to go into a guest, and is no file", host.display());
        }
        self.files.insert(guest.to_owned(), host);
        Ok(self)
    }

    /// Puts a program of the host, and the shared libraries that it is linked to, at the same paths in the guest.
    /// `package` is the Debian package that has it.
    ///
    /// # Errors
    /// When it is not there, or is linked to a library that is not.
    pub fn program(mut self, name: &str, package: &str) -> Result<Self> {
        let path = tools::system_program(name, package)?;
        for library in shared_libraries(&path)? {
            self = self.file(&library.to_string_lossy(), &library)?;
        }
        self.file(&path.to_string_lossy(), &path)
    }

    /// Boots the guest, runs `command` in it with busybox's shell, in `/root`, as root, and waits for its end.
    /// `timeout` counts from QEMU's start, not the wait for a turn.
    ///
    /// # Errors
    /// When a tool or file is missing, `timeout` passes, or the guest ends without its command having ended, such as
    /// by a kernel panic; the error shows the end of the console and of the command's output. A command that ends
    /// with a failure is no error here.
    pub fn run(&self, command: &str, timeout: Duration) -> Result<VmOutcome> {
        let qemu = tools::system_program("qemu-system-x86_64", "qemu-system-x86")?;
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let initramfs = folder.path().join("initramfs");
        self.write_initramfs(&initramfs, command).context("cannot write the guest's initramfs")?;
        let port = |name: &str| folder.path().join(name);

        let _slot = wait_for_slot()?;
        let began = Instant::now();
        let mut process = Process::start(&qemu, &port("qemu.log"), |arguments| {
            self.qemu_arguments(arguments, &initramfs, folder.path());
        })?;
        let mut echo = Echo { seen: 0, on: self.echo };
        let status = loop {
            echo.step(&port("output"));
            if let Some(status) = process.try_wait()? {
                break status;
            }
            if began.elapsed() > timeout {
                process.kill()?;
                return Err(self.failure(&format!("did not end in {timeout:?}"), folder.path()));
            }
            thread::sleep(POLL);
        };
        echo.step(&port("output"));
        let total = began.elapsed();
        if !status.success() {
            return Err(
                self.failure(&format!("QEMU failed ({status}): {}", process.log_tail()), folder.path())
            );
        }
        self.outcome(folder.path(), total)
    }

    fn qemu_arguments(&self, qemu: &mut Command, initramfs: &Path, ports: &Path) {
        let bpf = if self.lsm_bpf { ",bpf" } else { "" };
        // One thread for all of the guest's processors: with one for each, QEMU 7.2 was seen to let them spin for ever
        // where the kernel changes its own code (a tracepoint of system calls turned on while both make calls).
        qemu.args(["-accel", "tcg,thread=single", "-cpu", "max", "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-smp", &self.processors.to_string(), "-m", &self.memory_mib.to_string()])
            .arg("-kernel")
            .arg(self.kernel.folder().join("vmlinuz"))
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &format!("console=ttyS0 panic=-1 mitigations=off rcupdate.rcu_expedited=1 lsm=lockdown,capability,landlock,yama{bpf}")]);
        if self.counted {
            qemu.args(["-icount", "shift=0,sleep=off"]);
        }
        if self.network {
            qemu.args(["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="]);
        }
        for name in ["console", "output", "results"] {
            qemu.args(["-serial", &format!("file:{}", ports.join(name).display())]);
        }
    }

    fn write_initramfs(&self, path: &Path, command: &str) -> Result<()> {
        let release = self.kernel.release()?;
        let busybox = tools::system_program("busybox", "busybox-static")?;
        if !shared_libraries(&busybox)?.is_empty() {
            bail!("{} is linked to shared libraries: install busybox-static", busybox.display());
        }
        let mut archive = cpio::Archive::new(BufWriter::new(File::create(path)?));
        for folder in
            ["/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/var/lib", "/usr/bin", "/usr/sbin", "/sbin"]
        {
            archive.folder(folder)?;
        }
        archive.device("/dev/console", 5, 1)?;
        archive.file("/init", 0o755, include_bytes!("vm/init.sh"))?;
        archive.file("/command", 0o644, command.as_bytes())?;
        archive.file("/bin/busybox", 0o755, &fs::read(busybox)?)?;
        archive.file(
            "/etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        )?;
        archive.file("/etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
        archive.file("/etc/hostname", 0o644, b"guest\n")?;
        archive.file("/etc/hosts", 0o644, b"127.0.0.1 localhost guest\n::1 localhost\n")?;
        let mut order = String::new();
        for module in modules::with_dependencies(
            &self.kernel.folder().join("lib/modules").join(release),
            &self.modules,
        )? {
            let place = format!("/lib/holdfast-modules/{}.ko", module.name);
            archive.file(&place, 0o644, &module.content)?;
            order.push_str(&place);
            order.push('\n');
        }
        archive.file("/etc/modules", 0o644, order.as_bytes())?;
        for (guest, host) in &self.files {
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(host)?.permissions()) & 0o7777;
            let content = fs::read(host).with_context(|| format!("cannot read {}", host.display()))?;
            archive.file(guest, mode, &content)?;
        }
        archive.finish()?;
        Ok(())
    }

    fn outcome(&self, ports: &Path, total: Duration) -> Result<VmOutcome> {
        let unpacked = ports.join("unpacked");
        fs::create_dir(&unpacked)?;
        let tar =
            Command::new("tar").arg("-xf").arg(ports.join("results")).arg("-C").arg(&unpacked).output()?;
        let mut results = BTreeMap::new();
        if tar.status.success() {
            read_folder(&unpacked, "", &mut results)?;
        }
        let number =
            |name: &str| results.get(name).and_then(|text| std::str::from_utf8(text).ok()).map(str::trim);
        let (Some(exit_code), Some(boot)) = (
            number(".exit").and_then(|text| text.parse().ok()),
            number(".boot").and_then(|text| text.parse().ok()),
        ) else {
            return Err(self.failure("ended without its command having ended", ports));
        };
        results.retain(|name, _| name != ".exit" && name != ".boot");
        Ok(VmOutcome {
            exit_code,
            output: read_text(&ports.join("output")),
            console: read_text(&ports.join("console")),
            results,
            boot: Duration::from_secs_f64(boot),
            total,
        })
    }

    fn failure(&self, what: &str, ports: &Path) -> anyhow::Error {
        anyhow!(
            "the guest with kernel {} {what}\n-- console:\n{}\n-- output:\n{}",
            self.kernel,
            tail(&read_text(&ports.join("console")), 100),
            tail(&read_text(&ports.join("output")), 40),
        )
    }
}

/// Copies a growing file to the standard output.
struct Echo {
    seen: u64,
    on: bool,
}

impl Echo {
    fn step(&mut self, path: &Path) {
        if !self.on {
            return;
        }
        let mut fresh = Vec::new();
        let read = File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.seen))?;
            file.read_to_end(&mut fresh)
        });
        if read.is_ok() && !fresh.is_empty() {
            self.seen += fresh.len() as u64;
            let mut output = std::io::stdout().lock();
            // Nobody is hurt when the reader of the echo has gone: the outcome holds it all.
            let _ = output.write_all(&fresh).and_then(|()| output.flush());
        }
    }
}

/// Waits until fewer than [`SLOTS`] guests run on this machine. Dropping the file, or dying, gives the slot back.
fn wait_for_slot() -> Result<File> {
    fs::create_dir_all(tools::directory())?;
    let slots: Vec<File> = (0..SLOTS)
        .map(|slot| File::create(tools::directory().join(format!("vm-slot-{slot}.lock"))))
        .collect::<Result<_, _>>()
        .context("cannot make the lock files of guests")?;
    loop {
        if let Some(free) = slots.iter().position(|slot| slot.try_lock().is_ok()) {
            let mut slots = slots;
            return Ok(slots.swap_remove(free));
        }
        thread::sleep(POLL);
    }
}

/// The shared libraries, and the interpreter that loads them, of a program; none when it is statically linked.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output =
        Command::new("ldd").arg(program).output().context("cannot run ldd (Debian package libc-bin)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("{} is not complete: {}", program.display(), missing.trim());
    }
    Ok(text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .filter(|path| !path.ends_with(':'))
        .map(PathBuf::from)
        .collect())
}

fn read_text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\r', "")
}

fn read_folder(folder: &Path, prefix: &str, into: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            read_folder(&entry.path(), &format!("{name}/"), into)?;
        } else if entry.file_type()?.is_file() {
            into.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(())
}
