//! The command line. Every flag can also be given by the environment variable that its help names.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

/// Deploys Holdfast's agent, tells the agents who holds which address, and says of each policy where it is in force.
#[derive(Debug, Parser)]
#[command(name = "holdfast-operator", version, disable_help_subcommand = true, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub enum Command {
    /// Run the operator until it is told to stop.
    Run(Box<Run>),
}

/// How a log is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The flags of `run`.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// The namespace of Holdfast: of the agents, their Leases, and the operator's own Lease
    #[arg(long, env = "HOLDFAST_NAMESPACE", default_value = "holdfast-system")]
    pub namespace: String,
    /// The repository of the agent's image, without tag
    #[arg(long, env = "HOLDFAST_AGENT_IMAGE_REPOSITORY")]
    pub agent_image_repository: String,
    /// The tag of the agent's image where a NodeAgent names neither tag nor digest
    #[arg(long, env = "HOLDFAST_AGENT_DEFAULT_TAG", default_value = concat!("v", env!("CARGO_PKG_VERSION")))]
    pub agent_default_tag: String,
    /// The service account of the agent's pods
    #[arg(long, env = "HOLDFAST_AGENT_SERVICE_ACCOUNT", default_value = "holdfast-agent")]
    pub agent_service_account: String,
    /// The port, on each node, of the agent's metrics and readiness
    #[arg(long, env = "HOLDFAST_AGENT_METRICS_PORT", default_value_t = 9465, value_parser = clap::value_parser!(u16).range(1..))]
    pub agent_metrics_port: u16,
    /// Where to serve /metrics, /healthz and /readyz
    #[arg(long, env = "HOLDFAST_METRICS_ADDR", default_value = "0.0.0.0:9466")]
    pub metrics_addr: SocketAddr,
    /// How many AddressSlices may be written in a second, in the whole cluster
    #[arg(long, env = "HOLDFAST_SLICE_WRITES_PER_SECOND", default_value = "20")]
    pub slice_writes_per_second: NonZeroU32,
    /// The Lease whose holder is the only replica that writes
    #[arg(long, env = "HOLDFAST_LEASE_NAME", default_value = "holdfast-operator")]
    pub lease_name: String,
    /// For how long the Lease counts when its holder is not heard of, in seconds
    #[arg(long, env = "HOLDFAST_LEASE_DURATION", default_value = "15", value_parser = seconds)]
    pub lease_duration: Duration,
    /// A range of pods' addresses, beside those that nodes tell; may be given several times
    #[arg(long, env = "HOLDFAST_POD_CIDR", value_delimiter = ',')]
    pub pod_cidr: Vec<IpNet>,
    /// A range of Services' addresses, beside those that the cluster tells; may be given several times
    #[arg(long, env = "HOLDFAST_SERVICE_CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<IpNet>,
    /// How to write the log
    #[arg(long, env = "HOLDFAST_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// The least severe messages to log: error, warn, info, debug, trace, or a filter such as `info,holdfast_operator=debug`
    #[arg(long, env = "HOLDFAST_LOG_LEVEL", default_value = "info")]
    pub log_level: tracing_subscriber::filter::targets::Targets,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u16>() {
        Ok(seconds) if (1..=3600).contains(&seconds) => Ok(Duration::from_secs(seconds.into())),
        _ => Err("not a whole number of seconds from 1 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Run, String> {
        let all = ["holdfast-operator", "run"].iter().chain(arguments);
        match Cli::try_parse_from(all) {
            Ok(Cli { command: Command::Run(run) }) => Ok(*run),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_defaults_need_no_more_than_an_image_repository() {
        let run = parse(&["--agent-image-repository", "registry.test/agent"]).unwrap();
        assert_eq!(run.slice_writes_per_second.get(), 20);
        assert_eq!(run.lease_duration, Duration::from_secs(15));
        assert!(parse(&[]).is_err());
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for wrong in [
            ["--slice-writes-per-second", "0"],
            ["--lease-duration", "0"],
            ["--lease-duration", "soon"],
            ["--metrics-addr", "here"],
            ["--pod-cidr", "10.0.0.0/33"],
            ["--log-level", "loud=very"],
            ["--agent-metrics-port", "0"],
            ["--colour", "red"],
        ] {
            let arguments = [&["--agent-image-repository", "a"], wrong.as_slice()].concat();
            assert!(parse(&arguments).is_err(), "{wrong:?}");
        }
    }
}
