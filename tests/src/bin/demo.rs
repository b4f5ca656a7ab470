//! `make demo`. The demo itself runs in a child, so that this process can remove what is left of it however it ends: the
//! child's own children die with it, as does what the agent pinned; its cgroups and its folder are removed here.

use std::{
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use holdfast_agent::cgroups;
use holdfast_tests::{
    demo::{
        agent, attempt, script,
        site::{
            Local, Site,
            guest::{self, Guest},
        },
    },
    process::POLL,
    scenario::{cgroup::Top, worker},
    tools,
    vm::Kernel,
};
use nix::libc::SIGKILL;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: demo [--kernel=5.10|--kernel=6.1|--kernel=6.12] [--without-lsm]
  Without --kernel it runs on this machine's own kernel where that is possible, else in QEMU.
  --without-lsm leaves bpf out of the guest's lsm=.";

/// The node to play on.
struct Options {
    kernel: Option<Kernel>,
    lsm_bpf: bool,
}

impl Options {
    fn parse(flags: &[&str]) -> Result<Self> {
        let mut options = Self { kernel: None, lsm_bpf: true };
        for flag in flags {
            match *flag {
                "--kernel=5.10" => options.kernel = Some(Kernel::Debian5_10),
                "--kernel=6.1" => options.kernel = Some(Kernel::Debian6_1),
                "--kernel=6.12" => options.kernel = Some(Kernel::Debian6_12),
                "--without-lsm" => options.lsm_bpf = false,
                _ => bail!("{USAGE}"),
            }
        }
        ensure!(
            options.lsm_bpf || options.kernel.is_some(),
            "--without-lsm is about a guest: give --kernel\n{USAGE}"
        );
        Ok(options)
    }

    fn site(&self, step: &mut dyn FnMut(&str)) -> Result<Box<dyn Site>> {
        Ok(if let Some(kernel) = self.kernel {
            step(&format!(
                "building what runs in the guest (minutes, the first time), booting kernel {kernel} in QEMU"
            ));
            Box::new(Guest::new(kernel, self.lsm_bpf)?)
        } else {
            Box::new(Local::new(Path::new("/proc/self/exe"), &agent::binary()?)?)
        })
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match act(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn act(arguments: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        flags if flags.iter().all(|flag| flag.starts_with("--")) => runtime()?.block_on(supervise(arguments)),
        ["play", flags @ ..] => {
            let options = Options::parse(flags)?;
            let good = runtime()?.block_on(script::play(|step| options.site(step)))?;
            Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        ["guest", host, agent] => guest::serve(host.parse()?, Path::new(agent)).map(|()| ExitCode::SUCCESS),
        // What processes inside pods are asked for.
        ["enter", cgroup, netns, ..] => {
            worker::enter(Path::new(cgroup), Path::new(netns), &arguments[3..]).map(|()| ExitCode::SUCCESS)
        }
        ["work"] => worker::work().map(|()| ExitCode::SUCCESS),
        ["try", call, folder] => attempt::try_call(call, Path::new(folder)),
        _ => bail!("{USAGE}"),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// What the demo needs of the machine, all of it, before anything is started.
fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push(
            "root: the agent loads programs into the kernel, and pods take cgroups and namespaces".to_owned(),
        );
    }
    if let Err(error) = cgroups::root(Path::new("/proc/self/mountinfo")) {
        missing.push(format!("a cgroup v2 tree: {error}"));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        missing.push(
            "a kernel with BTF (CONFIG_DEBUG_INFO_BTF): /sys/kernel/btf/vmlinux does not exist".to_owned(),
        );
    }
    missing
}

async fn supervise(flags: &[String]) -> Result<ExitCode> {
    let mut flags = flags.to_vec();
    let words: Vec<&str> = flags.iter().map(String::as_str).collect();
    let on_host = Options::parse(&words)?.kernel.is_none();
    let missing = missing();
    if on_host && !missing.is_empty() {
        println!("demo: this machine's own kernel cannot be used, so the node is a guest in QEMU. It lacks:");
        for what in &missing {
            println!("demo:   {what}");
        }
        flags.push("--kernel=6.12".to_owned());
    }
    let on_host = on_host && missing.is_empty();
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .map(signal)
        .into_iter()
        .collect::<std::io::Result<Vec<_>>>()?;
    let folder = tempfile::Builder::new().prefix("holdfast-demo-").tempdir()?;
    let mut child = Command::new(tools::system_program("setpriv", "util-linux")?)
        .args(["--pdeathsig", "KILL", "--"])
        .arg(own_path()?)
        .arg("play")
        .args(&flags)
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        // A Ctrl-C of the terminal reaches this process alone, which then ends the child.
        .process_group(0)
        .spawn()
        .context("starting the demo")?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let [interrupt, terminate, hangup] = signals.as_mut_slice() else { bail!("three signals") };
        tokio::select! {
            () = tokio::time::sleep(POLL) => continue,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        eprintln!("\ndemo: interrupted; cleaning up");
        child.kill()?;
        break child.wait()?;
    };
    if on_host {
        // Whatever the child has not removed: a new tree of cgroups removes those of processes that are gone.
        drop(Top::new()?);
    }
    remove(folder).await?;
    Ok(match (status.code(), status.signal()) {
        (Some(0), _) => ExitCode::SUCCESS,
        (Some(code), _) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        (None, Some(SIGKILL)) => ExitCode::from(130),
        (None, signal) => bail!("the demo was ended by signal {}", signal.unwrap_or_default()),
    })
}

/// Removes a folder in which processes that are about to die may still write.
async fn remove(folder: tempfile::TempDir) -> Result<()> {
    let path: PathBuf = folder.keep();
    for _ in 0..200 {
        match std::fs::remove_dir_all(&path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    std::fs::remove_dir_all(&path).with_context(|| path.display().to_string())
}

fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("the path of this program")
}
