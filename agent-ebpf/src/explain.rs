//! `holdfast-agent explain FILE...`: whether one workload may reach another, or make a system call, and by which rule.
//!
//! Offline: the files hold the policies and what they are about, and the answer is the reference verdict's. Exit code 0
//! for allowed, 1 for denied, 2 where the question or the files are at fault.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use holdfast_policy::model;
use holdfast_policy::syscalls::Abi;

use answer::{Answer, CallAsked};
use scene::Scene;

mod answer;
mod scene;

/// What `explain` is told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// YAML or JSON files of policies, workloads, Services and namespaces, as kubectl prints them; - is the standard
    /// input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Who opens the connection or makes the call
    #[arg(long, value_name = "NS/NAME|ADDRESS")]
    from: String,
    /// Who is reached; a Service too. NS/KIND/NAME where several kinds have the name
    #[arg(long, value_name = "NS/NAME|ADDRESS", requires = "port", required_unless_present = "syscall")]
    to: Option<String>,
    /// The port that is reached
    #[arg(long, requires = "to", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The protocol
    #[arg(long, value_enum, ignore_case = true, default_value_t = Protocol::Tcp)]
    protocol: Protocol,
    /// A system call by name
    #[arg(long, value_name = "NAME")]
    syscall: Option<String>,
    /// An argument of the system call by its index from 0, in decimal or with 0x; those not given are 0
    #[arg(long = "arg", value_name = "INDEX=VALUE", requires = "syscall", value_parser = parse_argument)]
    arguments: Vec<Argument>,
    /// The container that makes the call; each of the pod's when absent
    #[arg(long, requires = "syscall")]
    container: Option<String>,
    /// The way into the kernel; that of this machine's 64-bit programs when absent
    #[arg(long, value_enum, requires = "syscall")]
    abi: Option<AbiName>,
    /// The namespace that Holdfast runs in, which cluster policies leave alone
    #[arg(long, env = "HOLDFAST_NAMESPACE", default_value = "holdfast-system")]
    namespace: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Protocol {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AbiName {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "i386")]
    I386,
    #[value(name = "aarch64")]
    Aarch64,
}

#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Argument {
    index: usize,
    value: u64,
}

fn parse_argument(text: &str) -> Result<Argument, String> {
    let (index, value) = text.split_once('=').ok_or("expected INDEX=VALUE")?;
    let index = index.parse().ok().filter(|index| *index < 6).ok_or("the index is from 0 to 5")?;
    let (negative, digits) = value.strip_prefix('-').map_or((false, value), |digits| (true, digits));
    let number = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    let number = number.map_err(|error| format!("{value:?}: {error}"))?;
    Ok(Argument { index, value: if negative { number.wrapping_neg() } else { number } })
}

/// Answers the question on the standard output.
#[must_use]
pub fn main(args: &Args) -> ExitCode {
    match explain(args, io::stdin().lock()) {
        Ok((text, allowed)) => {
            // Nobody reads it: the exit code still says it.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::from(u8::from(!allowed))
        }
        Err(problem) => {
            let _ = io::stderr().write_all(problem.as_bytes());
            ExitCode::from(2)
        }
    }
}

/// The answer, and whether everything is allowed; or what is wrong, in lines.
fn explain(args: &Args, stdin: impl Read) -> Result<(String, bool), String> {
    let scene = Scene::read(&args.files, stdin, &args.namespace).map_err(|errors| {
        errors.iter().fold(String::new(), |text, error| text + &error.to_string() + "\n")
    })?;
    let line = |problem: String| format!("error: {problem}\n");
    let mut answer = Answer::default();
    let from = answer::find(&scene, &args.from).map_err(line)?;
    if let (Some(to), Some(port)) = (&args.to, args.port) {
        let to = answer::find(&scene, to).map_err(line)?;
        let protocol = match args.protocol {
            Protocol::Tcp => model::Protocol::Tcp,
            Protocol::Udp => model::Protocol::Udp,
        };
        answer.ask_flow(&scene, from, to, protocol, port).map_err(line)?;
    }
    if let Some(name) = &args.syscall {
        let mut values = [0; 6];
        for argument in &args.arguments {
            if let Some(value) = values.get_mut(argument.index) {
                *value = argument.value;
            }
        }
        let asked = CallAsked {
            name: name.clone(),
            args: values,
            abi: match args.abi {
                Some(AbiName::I386) => Abi::I386,
                Some(AbiName::Aarch64) => Abi::Aarch64,
                None if cfg!(target_arch = "aarch64") => Abi::Aarch64,
                Some(AbiName::X86_64) | None => Abi::X86_64,
            },
            container: args.container.clone(),
        };
        answer.ask_call(&scene, from, &asked).map_err(line)?;
    }
    answer.conclude();
    let text = match args.output {
        Format::Text => answer.text(),
        Format::Json => {
            serde_json::to_string_pretty(&answer).map_err(|error| line(error.to_string()))? + "\n"
        }
    };
    Ok((text, answer.allowed))
}

#[cfg(test)]
mod tests;
