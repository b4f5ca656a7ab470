//! The VM rig itself: what a guest is, on each kernel, with and without `bpf` in `lsm=`.

use std::time::Duration;

use anyhow::Result;
use holdfast_tests::{
    builds,
    vm::{Kernel, Vm},
};

const TIMEOUT: Duration = Duration::from_mins(2);

fn is_what_was_asked_for(kernel: Kernel, lsm_bpf: bool) -> Result<()> {
    let release = kernel.release()?;
    let outcome = Vm::new(kernel)
        .lsm_bpf(lsm_bpf)
        .run(
            "uname -r
             sed s/,ima,evm$// /sys/kernel/security/lsm; echo
             test -s /sys/kernel/btf/vmlinux && echo has-btf
             awk '$2 == \"/sys/fs/cgroup\" || $2 == \"/sys/fs/bpf\" {print $2, $3}' /proc/mounts
             ip link add left type veth peer name right && echo has-veth
             ip link add shelf type bridge && echo has-bridge
             mkdir /tmp/lower /tmp/upper /tmp/work /tmp/merged
             mount -t overlay -o lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work overlay /tmp/merged && echo has-overlay
             cat /proc/net/if_inet6 | grep -q ' lo$' && echo has-ipv6",
            TIMEOUT,
        )?;
    // Landlock is of 5.13.
    let landlock = if kernel == Kernel::Debian5_10 { "" } else { "landlock," };
    let bpf = if lsm_bpf { ",bpf" } else { "" };
    let lsm = format!("lockdown,capability,{landlock}yama{bpf}");
    let wanted = [
        &release,
        &lsm,
        "has-btf",
        "/sys/fs/cgroup cgroup2",
        "/sys/fs/bpf bpf",
        "has-veth",
        "has-bridge",
        "has-overlay",
        "has-ipv6",
    ];
    assert_eq!(outcome.output.lines().collect::<Vec<_>>(), wanted, "console:\n{}", outcome.console);
    assert_eq!(outcome.exit_code, 0);
    assert!(release.starts_with(&format!("{kernel}.")));
    println!(
        "kernel {kernel}, bpf in lsm= {lsm_bpf}: command after {:?}, all in {:?}",
        outcome.boot, outcome.total
    );
    Ok(())
}

#[test]
fn kernel_5_10_boots_with_bpf_in_lsm() -> Result<()> {
    is_what_was_asked_for(Kernel::Debian5_10, true)
}

#[test]
fn kernel_5_10_boots_without_bpf_in_lsm() -> Result<()> {
    is_what_was_asked_for(Kernel::Debian5_10, false)
}

#[test]
fn kernel_6_1_boots_with_bpf_in_lsm() -> Result<()> {
    is_what_was_asked_for(Kernel::Debian6_1, true)
}

#[test]
fn kernel_6_1_boots_without_bpf_in_lsm() -> Result<()> {
    is_what_was_asked_for(Kernel::Debian6_1, false)
}

#[test]
fn kernel_6_12_boots_with_bpf_in_lsm() -> Result<()> {
    is_what_was_asked_for(Kernel::Debian6_12, true)
}

#[test]
fn kernel_6_12_boots_without_bpf_in_lsm() -> Result<()> {
    is_what_was_asked_for(Kernel::Debian6_12, false)
}

#[test]
fn the_static_programs_run_in_a_guest_and_an_exit_code_and_large_results_come_back() {
    let outcome = Vm::new(Kernel::Debian6_1)
        .file("/usr/bin/scenarios", builds::guest_program("scenarios").unwrap())
        .unwrap()
        .file("/usr/bin/holdfast-agent", builds::guest_program("holdfast-agent").unwrap())
        .unwrap()
        .run(
            "scenarios >/tmp/usage; head -n 1 /tmp/usage
             holdfast-agent --version
             mkdir /results/deep
             head -c 3000000 /dev/urandom >/results/deep/noise
             sha256sum </results/deep/noise >/results/sum
             exit 7",
            TIMEOUT,
        )
        .unwrap();
    assert_eq!(outcome.exit_code, 7);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(outcome.output, format!("holdfast scenarios {version}\nholdfast-agent {version}\n"));
    let noise = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&noise, &outcome.results["deep/noise"]).unwrap();
    assert_eq!(outcome.results["deep/noise"].len(), 3_000_000);
    let sum = std::process::Command::new("sha256sum").stdin(noise.reopen().unwrap()).output().unwrap();
    assert_eq!(sum.stdout, outcome.results["sum"]);
}

#[test]
fn debians_container_runtimes_run_a_container_in_a_guest() {
    let config = |runtime: &str| {
        format!(
            "mkdir -p /tmp/{runtime}/rootfs/bin && cp /bin/busybox /tmp/{runtime}/rootfs/bin/sh && cd /tmp/{runtime} &&
             {runtime} spec && sed -i 's/\"terminal\": true/\"terminal\": false/' config.json &&
             sed -i 's/\"args\": \\[/\"args\": [ \"sh\", \"-c\", \"echo in {runtime} $((6 * 7))\", /' config.json &&
             {runtime} run box"
        )
    };
    let outcome = Vm::new(Kernel::Debian6_1)
        .program("crun", "crun")
        .unwrap()
        .program("runc", "runc")
        .unwrap()
        .run(&format!("({}) && ({})", config("crun"), config("runc")), TIMEOUT)
        .unwrap();
    assert_eq!(outcome.output, "in crun 42\nin runc 42\n", "console:\n{}", outcome.console);
    assert_eq!(outcome.exit_code, 0);
}

#[test]
fn a_guest_whose_kernel_panics_is_an_error_with_the_console() {
    let error = Vm::new(Kernel::Debian6_12)
        .run("echo before; echo c >/proc/sysrq-trigger; sleep 60", TIMEOUT)
        .unwrap_err()
        .to_string();
    assert!(error.contains("ended without its command having ended"), "{error}");
    assert!(error.contains("sysrq triggered crash") && error.contains("before"), "{error}");
}

#[test]
fn a_guest_that_does_not_end_in_time_is_an_error() {
    let error = Vm::new(Kernel::Debian6_1)
        .run("echo stuck; sleep 300", Duration::from_secs(25))
        .unwrap_err()
        .to_string();
    assert!(error.contains("did not end in 25s") && error.contains("stuck"), "{error}");
}
