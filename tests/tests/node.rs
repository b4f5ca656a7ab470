//! The scenarios on this machine's own kernel.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use holdfast_tests::{builds, scenario::suite};

#[test]
fn every_scenario_passes_on_this_kernel() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let json = folder.path().join("verdicts.json");
    let filter = suite::filter();
    let status = Command::new(builds::program("scenarios")?)
        .args(["run", "--patience", "2", "--budgets", "keep", "--json"])
        .arg(&json)
        .arg("--agent")
        .arg(builds::program("holdfast-agent")?)
        .args(filter.iter().flat_map(|filter| ["--filter", filter]))
        .status()
        .context("cannot run the scenarios")?;
    let verdicts = std::fs::read(&json).context("the scenarios could not be run (see above)")?;
    suite::all_passed(suite::all(), &verdicts, filter.as_deref())?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
fn no_two_scenarios_have_one_name() {
    assert_eq!(suite::twice(), Vec::<&str>::new());
}

#[test]
fn there_are_as_many_scenarios_as_were_asked_for() {
    let network = holdfast_tests::scenario::network::all().len();
    let syscalls = holdfast_tests::scenario::syscalls::all().len();
    let access = holdfast_tests::scenario::access::all().len();
    assert!(network >= 40 && syscalls >= 20, "{network} of the network, {syscalls} of system calls");
    assert!(access >= 40, "{access} of executables, files and capabilities");
}
