//! The operator's command line.

use std::process::ExitCode;

use anyhow::Context;
use holdfast_crds::command_line;
use holdfast_operator::args::{Cli, Command, LogFormat, Run};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    let cli: Cli = match command_line::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let outcome = match cli.command {
        Command::Run(arguments) => {
            start_log(&arguments);
            run(holdfast_operator::run::run(*arguments)).and_then(|done| Ok(done?)).map(|()| true)
        }
        Command::Test(arguments) => run(holdfast_operator::check::run(arguments)).and_then(|done| Ok(done?)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            if tracing::dispatcher::has_been_set() {
                tracing::error!("{error:#}");
            } else {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start_log(arguments: &Run) {
    let registry = tracing_subscriber::registry().with(arguments.log_level.clone());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Json => registry.with(layer.json()).init(),
        LogFormat::Text => registry.with(layer).init(),
    }
}

fn run<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    Ok(runtime.block_on(work))
}
