//! The same scenarios on Debian's kernels, each with `bpf` in `lsm=`; and those of them again without it that depend on the
//! mechanism. What an agent does on each kernel alike is seen on the newest only. `HOLDFAST_ECHO=1` shows what the guests print.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use holdfast_tests::{
    builds,
    scenario::suite::{self, Only},
    vm::{Kernel, SLOTS, Vm},
};

/// Without KVM a guest is many times slower than the machine that it runs on, and shares that with other guests.
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

/// The longest first, so that none is left alone at the end.
const GUESTS: [(Kernel, bool); 6] = [
    (Kernel::Debian6_12, true),
    (Kernel::Debian5_10, true),
    (Kernel::Debian6_1, true),
    (Kernel::Debian6_1, false),
    (Kernel::Debian6_12, false),
    (Kernel::Debian5_10, false),
];

#[test]
fn every_scenario_passes_on_every_kernel() -> Result<()> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let run_on = || {
        while let Some((kernel, lsm_bpf)) = GUESTS.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = pass(*kernel, *lsm_bpf) {
                let with = if *lsm_bpf { "with" } else { "without" };
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.push(format!("{kernel} {with} bpf in lsm=: {error:#}"));
            }
        }
    };
    // More at once than this machine has processors: a guest is idle for half of its time, while it waits for what must not
    // arrive.
    thread::scope(|scope| {
        for _ in 0..SLOTS {
            scope.spawn(run_on);
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}
