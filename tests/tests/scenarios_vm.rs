//! The same scenarios on Debian's kernels, each with `bpf` in `lsm=`; and those of them again without it that depend on the
//! mechanism. What an agent does on each kernel alike is seen on the newest only. `HOLDFAST_ECHO=1` shows what the guests print.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::{
    builds,
    scenario::suite::{self, Only},
    vm::{Kernel, Vm},
};

/// Without KVM a guest is many times slower than the machine that it runs on, and shares that with another guest.
const TIMEOUT: Duration = Duration::from_mins(25);
const PATIENCE: &str = "4";

fn pass(kernel: Kernel, lsm_bpf: bool) -> Result<()> {
    let mechanism = if lsm_bpf { "lsm" } else { "fmod_ret" };
    let only = match (kernel, lsm_bpf) {
        (Kernel::Debian6_12, true) => Only::All,
        (Kernel::Debian5_10, true) => Only::Kernels,
        // Between the two.
        (Kernel::Debian6_1, true) => Only::Programs,
        (_, false) => Only::Mechanisms,
    };
    let filter = suite::filter();
    let named = filter.as_ref().map_or_else(String::new, |filter| format!("--filter '{filter}' "));
    let outcome = Vm::new(kernel)
        .lsm_bpf(lsm_bpf)
        .file("/usr/bin/scenarios", builds::guest_program("scenarios")?)?
        .file("/usr/bin/holdfast-agent", builds::guest_program("holdfast-agent")?)?
        .program("crun", "crun")?
        .program("runc", "runc")?
        .echo(std::env::var_os("HOLDFAST_ECHO").is_some())
        .run(
            &format!(
                "scenarios run --agent /usr/bin/holdfast-agent --patience {PATIENCE} --mechanism {mechanism} \
                 --only {} {named}--json /results/verdicts.json",
                only.word()
            ),
            TIMEOUT,
        )?;
    let Some(verdicts) = outcome.results.get("verdicts.json") else {
        anyhow::bail!(
            "the scenarios could not be run:\n{}\n-- console:\n{}",
            outcome.output,
            outcome.console
        );
    };
    suite::all_passed(only.scenarios(), verdicts, filter.as_deref())?;
    ensure!(outcome.exit_code == 0, "exit code {}:\n{}", outcome.exit_code, outcome.output);
    println!("kernel {kernel}, {mechanism}: {:?}", outcome.total);
    Ok(())
}

#[test]
fn every_scenario_passes_on_5_10_with_lsm() -> Result<()> {
    pass(Kernel::Debian5_10, true)
}

#[test]
fn every_scenario_passes_on_5_10_with_fmod_ret() -> Result<()> {
    pass(Kernel::Debian5_10, false)
}

#[test]
fn every_scenario_passes_on_6_1_with_lsm() -> Result<()> {
    pass(Kernel::Debian6_1, true)
}

#[test]
fn every_scenario_passes_on_6_1_with_fmod_ret() -> Result<()> {
    pass(Kernel::Debian6_1, false)
}

#[test]
fn every_scenario_passes_on_6_12_with_lsm() -> Result<()> {
    pass(Kernel::Debian6_12, true)
}

#[test]
fn every_scenario_passes_on_6_12_with_fmod_ret() -> Result<()> {
    pass(Kernel::Debian6_12, false)
}
