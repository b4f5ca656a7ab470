//! `kubectl holdfast logs`: what was denied or audited.
//!
//! Whoever may read the logs of pods in Holdfast's namespace sees the agents' events, each with process, packet or
//! system call. Everybody else sees the Kubernetes Events that agents leave in the namespaces that they may read: fewer,
//! and with less in them. So it is RBAC that decides, and nothing here.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::ValueEnum;
use holdfast_crds::event::RuleKind;
use k8s_openapi::jiff::Timestamp;

use crate::args::{Common, duration};
use crate::cluster::{Cluster, Scope};
use crate::error::{Failure, Problem};
use filter::Filter;

mod agents;
mod filter;
mod kubernetes;
mod render;
mod stream;

/// What `logs` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only of this policy: NAME or NAMESPACE/NAME, cluster/NAME for a ClusterWorkloadPolicy
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// Only of this workload, by its top owner, such as Deployment/api
    #[arg(long, value_name = "KIND/NAME")]
    workload: Option<String>,
    /// Only of this pod
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// Only what was denied, or only what was audited
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Only of rules of this kind
    #[arg(long, value_enum, value_name = "KIND")]
    rule_kind: Option<RuleKindName>,
    /// Only of this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only what is newer than this, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<Duration>,
    /// Only so many of the newest
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Go on as more comes
    #[arg(short, long)]
    follow: bool,
    /// Output format: json is one event a line
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub(crate) enum Kind {
    Denied,
    Audited,
}

#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
enum RuleKindName {
    Network,
    Syscall,
    Process,
    File,
    Capability,
}

#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

/// How much is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Nothing older.
    pub(crate) since: Option<Timestamp>,
    /// Only so many of the newest.
    pub(crate) tail: Option<usize>,
    /// Go on.
    pub(crate) follow: bool,
}

/// Shows the events until there are no more, or for ever.
///
/// # Errors
/// When they cannot be read.
pub(crate) async fn main(args: &Args, common: &Common) -> Result<(), Failure> {
    let cluster = Cluster::connect(common).await?;
    let filter = args.filter(&cluster);
    let since = args
        .since
        .map(|since| Timestamp::now().checked_sub(since))
        .transpose()
        .map_err(|error| Failure::Usage(format!("--since: {error}")))?;
    let extent = Extent { since, tail: args.tail, follow: args.follow };
    match agents::show(&cluster, &filter, extent, args.output).await {
        Err(Failure::Api(error)) if error.is_forbidden() => {
            if let Problem::Forbidden(said) = &error.problem {
                eprintln!(
                    "note: the agents' logs may not be read ({said}); showing Kubernetes Events instead"
                );
            }
            kubernetes::show(&cluster, &filter, extent, args.output).await
        }
        done => done,
    }
}

impl Args {
    fn filter(&self, cluster: &Cluster) -> Filter {
        let namespaces = match cluster.scope() {
            Scope::All => None,
            Scope::Namespace(name) => Some(BTreeSet::from([name])),
        };
        let policy = self.policy.as_ref().map(|policy| {
            if policy.contains('/') { policy.clone() } else { format!("{}/{policy}", cluster.namespace) }
        });
        Filter {
            namespaces,
            policy,
            workload: self.workload.clone(),
            pod: self.pod.clone(),
            kind: self.kind,
            rule_kind: self.rule_kind.map(|kind| match kind {
                RuleKindName::Network => RuleKind::Network,
                RuleKindName::Syscall => RuleKind::Syscall,
                RuleKindName::Process => RuleKind::Process,
                RuleKindName::File => RuleKind::File,
                RuleKindName::Capability => RuleKind::Capability,
            }),
            node: self.node.clone(),
        }
    }
}
