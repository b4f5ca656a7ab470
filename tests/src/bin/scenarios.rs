//! The scenario runner, linked statically so that it also runs in a guest that holds nothing else.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use holdfast_tests::scenario::{containers, cost, house, suite, worker};

const USAGE: &str = "usage: scenarios list
       scenarios run [--filter TEXT] [--agent PATH] [--json FILE] [--patience FACTOR] [--mechanism lsm|fmod_ret|none]
                     [--budgets keep] [--only kernels|programs|mechanisms]
       scenarios cost --json FILE
       scenarios enter CGROUP NETNS ARGUMENT...
       scenarios live HOUSE overlay|plain
       scenarios unified PROGRAM ARGUMENT...
       scenarios work";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match act(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("scenarios: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn act(arguments: &[String]) -> Result<bool> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => {
            println!("holdfast scenarios {}\n{USAGE}", env!("CARGO_PKG_VERSION"));
            Ok(true)
        }
        ["list"] => {
            for scenario in suite::all() {
                println!("{}", scenario.name);
            }
            Ok(true)
        }
        ["run", flags @ ..] => {
            let verdicts = suite::run(&options(flags)?)?;
            Ok(!verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.error.is_none()))
        }
        ["cost", "--json", path] => cost::write(Path::new(path)).map(|()| true),
        ["enter", cgroup, netns, ..] => {
            worker::enter(Path::new(cgroup), Path::new(netns), &arguments[3..])?;
            Ok(true)
        }
        ["unified", program, ..] => {
            containers::unified(program, &arguments[2..])?;
            Ok(true)
        }
        ["live", path, form @ ("overlay" | "plain")] => {
            house::live(Path::new(path), *form == "overlay")?;
            Ok(true)
        }
        ["work"] => worker::work().map(|()| true),
        _ => bail!("{USAGE}"),
    }
}

fn options(flags: &[&str]) -> Result<suite::Options> {
    let mut options = suite::Options { patience: 1, ..suite::Options::default() };
    for pair in flags.chunks(2) {
        let [flag, value] = pair else { bail!("{USAGE}") };
        match *flag {
            "--filter" => options.filter = Some((*value).to_owned()),
            "--agent" => options.agent = Some(value.into()),
            "--json" => options.json = Some(value.into()),
            "--budgets" => options.budgets = *value == "keep",
            "--only" => options.only = suite::Only::read(value).context(USAGE)?,
            "--mechanism" => options.mechanism = Some((*value).to_owned()),
            "--patience" => options.patience = value.parse().context("--patience takes a number")?,
            _ => bail!("{USAGE}"),
        }
    }
    Ok(options)
}
