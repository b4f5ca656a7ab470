//! `kubectl holdfast`: what Holdfast enforces, where, and what it denied.
//!
//! It reads with the rights of whoever calls it, and nothing else: what somebody may not read is left out of an answer,
//! and the answer says so. It changes nothing in the cluster.

mod args;
mod bundle;
mod cluster;
mod error;
mod explain;
mod logs;
mod redact;
mod status;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use error::Failure;
use holdfast_crds::command_line::print;

/// The exit code of wrong flags.
const USAGE: u8 = 2;

/// Wrong flags: one line, exit 2. Asking for help is no error.
fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        if !error.use_stderr() {
            print(error.to_string());
            return ExitCode::SUCCESS;
        }
        let text = error.render().to_string();
        // Nothing was asked for: this is how.
        if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            eprint!("{text}");
            return ExitCode::from(USAGE);
        }
        // What is wrong fills the first paragraph; the rest is advice.
        let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        let line = match lines.split_first() {
            Some((first, [])) => (*first).to_owned(),
            Some((first, more)) => format!("{first} {}", more.join(", ")),
            None => "error: wrong flags".to_owned(),
        };
        eprintln!("{line}");
        ExitCode::from(USAGE)
    })
}

fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let common = &cli.common;
    let done = match &cli.command {
        Command::Status(args) => runtime.block_on(status::main(args, common)),
        // Its exit code is the answer, so that having none needs another.
        Command::Explain(args) => {
            return runtime.block_on(explain::main(args, common)).unwrap_or_else(|failure| {
                eprint!("{}", failure.lines());
                ExitCode::from(USAGE)
            });
        }
        Command::Logs(args) => runtime.block_on(logs::main(args, common)),
        Command::SupportBundle(args) => runtime.block_on(bundle::main(args, common)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "kubectl-holdfast", &mut script);
            print(String::from_utf8_lossy(&script));
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", failure.lines());
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { USAGE } else { 1 })
        }
    }
}
