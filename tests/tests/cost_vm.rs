//! What policies cost, counted in instructions: in a guest whose clock goes on by one nanosecond with each.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::{
    builds,
    scenario::cost::Cost,
    vm::{Kernel, Vm},
};

const TIMEOUT: Duration = Duration::from_mins(10);
/// How many times as long as without an agent it may take to start a process or a program, and to open a file and read so
/// many bytes of it. Of less than a page the hook is a part that can be seen: an overlayfs passes it twice, and two programs
/// that return at once cost 1.04 by themselves.
fn most(cost: &Cost) -> f64 {
    match cost.what.split(' ').nth(2).and_then(|bytes| bytes.parse::<u32>().ok()) {
        Some(..4096) => 1.08,
        _ => 1.05,
    }
}

#[test]
fn policies_that_concern_nothing_of_what_a_workload_does_cost_it_little() -> Result<()> {
    let outcome = Vm::new(Kernel::Debian6_12)
        .counted()
        .file("/usr/bin/scenarios", builds::guest_program("scenarios")?)?
        .echo(std::env::var_os("HOLDFAST_ECHO").is_some())
        .run("scenarios cost --json /results/costs.json", TIMEOUT)?;
    let Some(costs) = outcome.results.get("costs.json") else {
        anyhow::bail!("nothing was measured:\n{}\n-- console:\n{}", outcome.output, outcome.console);
    };
    let costs: Vec<Cost> = serde_json::from_slice(costs)?;
    println!("{}", outcome.output);
    let slow = costs.iter().filter(|cost| cost.ratio() > most(cost));
    let slow: Vec<String> = slow.map(|cost| format!("{}: {:.3}", cost.what, cost.ratio())).collect();
    ensure!(costs.len() >= 9 && slow.is_empty(), "times as long: {slow:?}");
    Ok(())
}
