//! The command line. The flags that every command has are kubectl's.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::{bundle, explain, logs, status};

/// `kubectl holdfast`.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-holdfast",
    bin_name = "kubectl holdfast",
    version,
    about = "What Holdfast enforces, where, and what it denied",
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Where the cluster is, and who asks.
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the nodes and what the policies have come to; with POLICY, all about that one
    Status(status::Args),
    /// Say whether A may reach B, or make a system call: by which rule, on which nodes, by which mechanism
    ///
    /// Asks the cluster, or files with -f. Exit code 0: allowed, 1: denied, 2: there is no answer.
    Explain(explain::Args),
    /// Show what was denied or audited, from the agents' logs; from Kubernetes Events where those may not be read
    Logs(logs::Args),
    /// Collect what is needed to find a fault into one archive, without secrets
    SupportBundle(bundle::Args),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Flags of every command that asks a cluster.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// The kubeconfig file; $KUBECONFIG or ~/.kube/config when absent
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; its current one when absent
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The namespace to look in; the context's when absent
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Look in all namespaces
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    /// How long one request may take, such as 30s or 2m; 0 is for ever
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) request_timeout: Duration,
    /// The namespace that Holdfast runs in
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "HOLDFAST_NAMESPACE",
        default_value = "holdfast-system"
    )]
    pub(crate) holdfast_namespace: String,
}

/// A duration as kubectl writes them: `90`, `30s`, `5m`, `1h30m`, `2d`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as 30s, 10m or 1h30m".to_owned();
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().ok().ok_or_else(wrong)?;
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let part = match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3600).map(Duration::from_secs),
            "d" => number.checked_mul(86400).map(Duration::from_secs),
            _ => None,
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = tail;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_read_as_kubectl_reads_them() {
        for (text, seconds) in
            [("0", 0), ("90", 90), ("30s", 30), ("10m", 600), ("1h30m", 5400), ("2d", 172_800)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        for bad in ["", "s", "10x", "-1s", "1.5h", "10 m", "99999999999999999999s", "999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
