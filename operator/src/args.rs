//! The command line. Every flag can also be given by the environment variable that its help names.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
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
    /// Look whether the installation works, print a line for each check, and exit with 1 if one fails.
    Test(Test),
}

/// When the kubelet fetches the agent's image.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never: the node has it, or the agent does not start.
    Never,
}

impl PullPolicy {
    /// As a pod's spec has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// The flags of `test`.
#[derive(Args, Clone, Debug)]
pub struct Test {
    /// The namespace of Holdfast
    #[arg(long, env = "HOLDFAST_NAMESPACE", default_value = "holdfast-system", value_parser = dns_label)]
    pub namespace: String,
    /// The Lease whose holder leads
    #[arg(long, env = "HOLDFAST_LEASE_NAME", default_value = "holdfast-operator", value_parser = dns_name)]
    pub lease_name: String,
    /// For how long to look again while a check fails, in seconds
    #[arg(long, env = "HOLDFAST_TEST_TIMEOUT", default_value = "120", value_parser = seconds)]
    pub timeout: Duration,
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
    #[arg(long, env = "HOLDFAST_NAMESPACE", default_value = "holdfast-system", value_parser = dns_label)]
    pub namespace: String,
    /// The ClusterRole that owns what must go with this installation, the AddressSlices; without it they stay
    #[arg(long, value_name = "NAME", env = "HOLDFAST_INSTALLATION", value_parser = object_name)]
    pub installation: Option<String>,
    /// Whether the leader brings Holdfast's CRDs up to date, unless a newer version has written them
    #[arg(
        long,
        value_name = "BOOL",
        env = "HOLDFAST_MANAGE_CRDS",
        action = ArgAction::Set,
        num_args = 0..=1,
        default_value_t = true,
        default_missing_value = "true"
    )]
    pub manage_crds: bool,
    /// The repository of the agent's image, without tag
    #[arg(long, env = "HOLDFAST_AGENT_IMAGE_REPOSITORY", value_parser = repository)]
    pub agent_image_repository: String,
    /// The tag of the agent's image where a NodeAgent names neither tag nor digest
    #[arg(
        long,
        env = "HOLDFAST_AGENT_DEFAULT_TAG",
        default_value = concat!("v", env!("CARGO_PKG_VERSION")),
        value_parser = tag
    )]
    pub agent_default_tag: String,
    /// A Secret with which the kubelet fetches the agent's image; may be given several times
    #[arg(
        long,
        value_name = "NAME",
        env = "HOLDFAST_AGENT_IMAGE_PULL_SECRETS",
        value_delimiter = ',',
        value_parser = dns_name
    )]
    pub agent_image_pull_secret: Vec<String>,
    /// When the kubelet fetches the agent's image
    #[arg(
        long,
        value_name = "POLICY",
        env = "HOLDFAST_AGENT_IMAGE_PULL_POLICY",
        value_enum,
        default_value = "IfNotPresent"
    )]
    pub agent_image_pull_policy: PullPolicy,
    /// The service account of the agent's pods
    #[arg(long, env = "HOLDFAST_AGENT_SERVICE_ACCOUNT", default_value = "holdfast-agent", value_parser = dns_name)]
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
    #[arg(long, env = "HOLDFAST_LEASE_NAME", default_value = "holdfast-operator", value_parser = dns_name)]
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

/// Whether `text` is lower-case letters, digits and inner hyphens.
fn is_label(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !text.is_empty()
        && text.bytes().all(|byte| letter(byte) || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The name of a namespace.
fn dns_label(text: &str) -> Result<String, String> {
    if text.len() <= 63 && is_label(text) {
        return Ok(text.to_owned());
    }
    Err("not lower-case letters, digits and inner hyphens, at most 63".to_owned())
}

/// The name of most objects.
fn dns_name(text: &str) -> Result<String, String> {
    if text.len() <= 253 && text.split('.').all(is_label) {
        return Ok(text.to_owned());
    }
    Err("not lower-case letters, digits, inner hyphens and dots, at most 253".to_owned())
}

/// The name of an object of RBAC, which can be almost anything.
fn object_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text == "." || text == ".." || text.contains(['/', '%']) {
        return Err("not the name of a ClusterRole".to_owned());
    }
    Ok(text.to_owned())
}

/// A repository: host and path, perhaps with a port, without tag or digest.
fn repository(text: &str) -> Result<String, String> {
    let (host, path) = text.split_once('/').unwrap_or(("", text));
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
    let good = !path.is_empty()
        && path.bytes().all(known)
        && path.split('/').all(|part| !part.is_empty())
        && host.bytes().all(|byte| known(byte) || b":[]".contains(&byte));
    if good { Ok(text.to_owned()) } else { Err("not an image's repository without tag or digest".to_owned()) }
}

/// A tag.
fn tag(text: &str) -> Result<String, String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if (1..=128).contains(&text.len()) && text.bytes().all(known) && !text.starts_with(['-', '.']) {
        return Ok(text.to_owned());
    }
    Err("not an image's tag".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Run, String> {
        let all = ["holdfast-operator", "run"].iter().chain(arguments);
        match Cli::try_parse_from(all) {
            Ok(Cli { command: Command::Run(run) }) => Ok(*run),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn crds_are_managed_unless_that_is_switched_off() {
        let manages = |more: &[&str]| {
            parse(&[&["--agent-image-repository", "a"], more].concat()).map(|run| run.manage_crds)
        };
        assert_eq!(manages(&[]), Ok(true));
        assert_eq!(manages(&["--manage-crds"]), Ok(true));
        assert_eq!(manages(&["--manage-crds=false"]), Ok(false));
        assert!(manages(&["--manage-crds=perhaps"]).is_err());
    }

    #[test]
    fn pull_secrets_may_be_given_several_times() {
        let run = parse(&[
            "--agent-image-repository",
            "registry.test:5000/a/agent",
            "--agent-image-pull-secret=one,two",
            "--agent-image-pull-secret=three",
            "--agent-image-pull-policy=Always",
        ])
        .unwrap();
        assert_eq!(run.agent_image_pull_secret, ["one", "two", "three"]);
        assert_eq!(run.agent_image_pull_policy.as_str(), "Always");
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
            ["--namespace", ""],
            ["--namespace", "Holdfast"],
            ["--lease-name", "a/b"],
            ["--installation", ""],
            ["--agent-image-repository", "agent:v1"],
            ["--agent-image-repository", "registry.test/agent@sha256:ab"],
            ["--agent-image-repository", "registry.test//agent"],
            ["--agent-default-tag", "v1 "],
            ["--agent-image-pull-secret", "one,,two"],
            ["--agent-image-pull-policy", "Sometimes"],
        ] {
            let arguments = [&["--agent-image-repository", "a"], wrong.as_slice()].concat();
            assert!(parse(&arguments).is_err(), "{wrong:?}");
        }
    }
}
