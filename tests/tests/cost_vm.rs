//! What policies cost, counted in instructions: in a guest whose clock goes on by one nanosecond with each.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::{
    builds,
    scenario::cost::Cost,
    vm::{Kernel, Vm},
};

const TIMEOUT: Duration = Duration::from_mins(10);
/// To start a process or a program, and to open a file and read some of it, may take so many times as long as without an
/// agent.
const MOST: f64 = 1.05;
/// And to open one and read less than a page, which is little else than the hook.
const MOST_OF_OPENS: f64 = 1.15;

#[test]
fn policies_that_concern_nothing_of_what_a_workload_does_cost_it_little() -> Result<()> {
    let built = builds::static_binaries()?;
    let outcome = Vm::new(Kernel::Debian6_12)
        .counted()
        .file("/usr/bin/scenarios", built.scenarios)?
        .echo(std::env::var_os("HOLDFAST_ECHO").is_some())
        .run("scenarios cost --json /results/costs.json", TIMEOUT)?;
    let Some(costs) = outcome.results.get("costs.json") else {
        anyhow::bail!("nothing was measured:\n{}\n-- console:\n{}", outcome.output, outcome.console);
    };
    let costs: Vec<Cost> = serde_json::from_slice(costs)?;
    println!("{}", outcome.output);
    let slow = costs.iter().filter(|cost| {
        let bytes = cost.what.split(' ').nth(2).and_then(|bytes| bytes.parse::<u32>().ok());
        cost.ratio() > if bytes.is_some_and(|bytes| bytes < 4096) { MOST_OF_OPENS } else { MOST }
    });
    let slow: Vec<String> = slow.map(|cost| format!("{}: {:.3}", cost.what, cost.ratio())).collect();
    ensure!(costs.len() >= 6 && slow.is_empty(), "times as long: {slow:?}");
    Ok(())
}
