//! `holdfast-agent`: the node agent's commands.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand, ValueEnum};
use holdfast_agent::events::file::Destination;
use holdfast_agent::run::{self, Settings};
use holdfast_agent::source::SourceKind;
use holdfast_agent::{abi, break_glass, check, explain, loader, probe, proof, status};
use holdfast_crds::command_line;

#[derive(Parser)]
#[command(version, about = "Enforces Holdfast policies on this node")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Enforce policies until stopped; what is in the kernel stays in force afterwards
    Run(Box<RunArgs>),
    /// Show what this kernel can refuse, and how
    Probe {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        kernel: KernelArgs,
    },
    /// Show what is in force on this node, from the pinned maps; needs no running agent
    Status {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        kernel: KernelArgs,
        /// Where the agent keeps its state
        #[arg(long, env = "HOLDFAST_STATE_DIR", default_value = "/var/lib/holdfast")]
        state_dir: PathBuf,
    },
    /// Check policy files without a cluster: exit 1 and name file, document and field when something is wrong
    Check(check::Args),
    /// Say whether one workload may reach another, and by which rule; without a cluster
    Explain(explain::Args),
    /// Let this node refuse nothing for a while: what would be refused is counted as audits. Ends by itself
    BreakGlass {
        /// For how long, such as 90s, 30m or 2h; at most 24h
        #[arg(long = "for", value_name = "TIME", value_parser = break_glass::parse_duration)]
        #[arg(required_unless_present = "end", conflicts_with = "end")]
        duration: Option<Duration>,
        /// Why, for whoever reads the node's status
        #[arg(long, conflicts_with = "end", value_parser = NonEmptyStringValueParser::new())]
        reason: Option<String>,
        /// End it now
        #[arg(long)]
        end: bool,
        #[command(flatten)]
        kernel: KernelArgs,
        /// Where the agent keeps its state
        #[arg(long, env = "HOLDFAST_STATE_DIR", default_value = "/var/lib/holdfast")]
        state_dir: PathBuf,
    },
    /// Try what has to be refused: run by the agent itself, in a cgroup of its own
    #[command(hide = true)]
    Canary {
        /// What to try
        attempts: Vec<String>,
    },
    /// Detach everything from this node's kernel and forget it
    Uninstall {
        #[command(flatten)]
        kernel: KernelArgs,
    },
}

#[derive(clap::Args)]
struct KernelArgs {
    /// The BPF file system
    #[arg(long, env = "HOLDFAST_BPFFS", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
}

#[derive(clap::Args)]
struct Output {
    /// Output format
    #[arg(short, long = "output", value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

#[derive(clap::Args)]
struct RunArgs {
    /// Where policies come from: `api`, or `dir:PATH` for a directory of YAML files
    #[arg(long, env = "HOLDFAST_SOURCE", default_value = "api", value_parser = parse_source)]
    source: Source,
    /// This node's name; the machine's host name when absent
    #[arg(long, env = "HOLDFAST_NODE_NAME", value_parser = parse_node_name)]
    node_name: Option<String>,
    /// The namespace that Holdfast runs in
    #[arg(long, env = "HOLDFAST_NAMESPACE", default_value = "holdfast-system", value_parser = parse_namespace)]
    namespace: String,
    /// The NodeAgent that this agent belongs to, and that owns what it writes to the API server
    #[arg(long, env = "HOLDFAST_NODE_AGENT", value_parser = parse_node_name, requires = "node_agent_uid")]
    node_agent: Option<String>,
    /// The UID of that NodeAgent
    #[arg(long, env = "HOLDFAST_NODE_AGENT_UID", value_parser = NonEmptyStringValueParser::new(), requires = "node_agent")]
    node_agent_uid: Option<String>,
    /// Where the last good state is kept
    #[arg(long, env = "HOLDFAST_STATE_DIR", default_value = "/var/lib/holdfast")]
    state_dir: PathBuf,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, env = "HOLDFAST_METRICS_ADDR", default_value = "127.0.0.1:9465")]
    metrics_addr: SocketAddr,
    /// A file that is the host's network namespace
    #[arg(long, env = "HOLDFAST_HOST_NETNS", default_value = "/proc/1/ns/net")]
    host_netns: PathBuf,
    /// Where denials and audits are written, one JSON object a line: a path, or `-` for the standard output; nowhere when absent
    #[arg(long, env = "HOLDFAST_EVENTS_FILE", value_parser = NonEmptyStringValueParser::new())]
    events_file: Option<String>,
    /// Rotate the events' file before it grows beyond this, in bytes
    #[arg(
        long,
        env = "HOLDFAST_EVENTS_FILE_MAX_BYTES",
        default_value_t = 64 << 20,
        value_parser = clap::value_parser!(u64).range(1024..)
    )]
    events_file_max_bytes: u64,
    /// How many of the events' files are kept, the current one included
    #[arg(long, env = "HOLDFAST_EVENTS_FILES", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    events_files: u32,
    /// Least severe level to log, or a filter such as `info,holdfast_agent=debug`
    #[arg(long, env = "HOLDFAST_LOG_LEVEL", default_value = "info", value_parser = parse_filter)]
    log_level: String,
    /// Log format
    #[arg(long, env = "HOLDFAST_LOG_FORMAT", value_enum, default_value_t = Format::Text)]
    log_format: Format,
    #[command(flatten)]
    kernel: KernelArgs,
}

#[derive(Clone)]
enum Source {
    Api,
    Dir(PathBuf),
}

fn parse_source(text: &str) -> Result<Source, String> {
    match text.split_once(':') {
        None if text == "api" => Ok(Source::Api),
        Some(("dir", path)) if !path.is_empty() => Ok(Source::Dir(path.into())),
        _ => Err("expected `api` or `dir:PATH`".to_owned()),
    }
}

fn parse_filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// The name of a node: lower-case letters, digits, inner hyphens and dots.
fn parse_node_name(text: &str) -> Result<String, String> {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let ends = |part: &str| part.is_empty() || part.starts_with('-') || part.ends_with('-');
    if text.len() > 253 || !text.bytes().all(known) || text.split('.').any(ends) {
        return Err("not lower-case letters, digits, inner hyphens and dots, at most 253".to_owned());
    }
    Ok(text.to_owned())
}

/// The name of a namespace.
fn parse_namespace(text: &str) -> Result<String, String> {
    match parse_node_name(text) {
        Ok(name) if name.len() <= 63 && !name.contains('.') => Ok(name),
        _ => Err("not lower-case letters, digits and inner hyphens, at most 63".to_owned()),
    }
}

fn main() -> ExitCode {
    let args: Args = match command_line::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    match act(args.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run_agent(*args)?,
        Command::Probe { output, kernel } => {
            let report = probe::probe(&run::places(&kernel.bpffs)?)?;
            if output.output == Format::Json {
                command_line::print(serde_json::to_string_pretty(&report)? + "\n");
            } else {
                command_line::print(report);
            }
        }
        Command::Status { output, kernel, state_dir } => {
            let status = status::read(&run::places(&kernel.bpffs)?, &state_dir)
                .context("nothing is in force here, or it cannot be read")?;
            if output.output == Format::Json {
                command_line::print(serde_json::to_string_pretty(&status)? + "\n");
            } else {
                command_line::print(status);
            }
        }
        Command::Check(args) => return Ok(check::main(&args)),
        Command::Explain(args) => return Ok(explain::main(&args)),
        Command::BreakGlass { duration, reason, end: _, kernel, state_dir } => {
            let places = run::places(&kernel.bpffs)?;
            let said = match duration {
                Some(duration) => break_glass::begin(&places, &state_dir, duration, reason)?.message(),
                None if break_glass::end(&places, &state_dir)? => {
                    "break-glass is over: this node refuses again what its policies say".to_owned()
                }
                None => "there is no break-glass on this node".to_owned(),
            };
            command_line::print(said + "\n");
        }
        Command::Canary { attempts } => proof::canary::act::run(&attempts)?,
        Command::Uninstall { kernel } => {
            let count = loader::uninstall(&run::places(&kernel.bpffs)?)?;
            command_line::print(format_args!(
                "{count} pins removed; nothing of Holdfast's is in this kernel any more\n"
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_agent(args: RunArgs) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log_level)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if args.log_format == Format::Json {
        log.json().init();
    } else {
        log.with_target(false).init();
    }
    let node_name = match args.node_name {
        Some(name) => name,
        None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    let settings = Settings {
        source: match args.source {
            Source::Api => SourceKind::Api { namespace: args.namespace },
            Source::Dir(path) => SourceKind::Dir(path),
        },
        node_name,
        state_dir: args.state_dir,
        owner: args.node_agent.zip(args.node_agent_uid),
        metrics_addr: args.metrics_addr,
        bpffs: args.kernel.bpffs,
        host_netns: args.host_netns,
        events: args.events_file.map(|path| match path.as_str() {
            "-" => Destination::Stdout,
            _ => Destination::File {
                path: path.into(),
                max_bytes: args.events_file_max_bytes,
                files: args.events_files,
            },
        }),
    };
    abi::sys::spare_memory();
    tokio::runtime::Builder::new_multi_thread()
        // Two threads are enough for a loop that waits, and keep the memory small on large nodes.
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run::run(settings))
}
