//! The operator's command line.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use clap::error::ErrorKind;
use holdfast_operator::args::{Cli, Command, LogFormat, Run};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let Command::Run(arguments) = cli.command;
    start_log(&arguments);
    match run(*arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Help and version as they are asked for; one line for wrong flags.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprintln!("error: no command is given; see holdfast-operator --help");
        return ExitCode::from(2);
    }
    if error.use_stderr() {
        let text = error.to_string();
        let line: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        eprintln!("{}", line.join(" "));
        return ExitCode::from(2);
    }
    // Nothing better can be done when the reader of the help is gone.
    let _ = error.print();
    ExitCode::SUCCESS
}

fn start_log(arguments: &Run) {
    let registry = tracing_subscriber::registry().with(arguments.log_level.clone());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Json => registry.with(layer.json()).init(),
        LogFormat::Text => registry.with(layer).init(),
    }
}

fn run(arguments: Run) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(holdfast_operator::run::run(arguments))?;
    Ok(())
}
