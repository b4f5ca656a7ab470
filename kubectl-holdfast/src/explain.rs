//! `kubectl holdfast explain`: asks the reference verdict about the cluster as it is, or about files.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use holdfast_crds::explain::{QuestionArgs, Scene, namespace_of};
use serde_json::Value;

use crate::args::Common;
use crate::cluster::{self, Cluster, Kind, Scope, encode};
use crate::error::{ApiError, Failure};
use crate::print;

/// What `explain` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    question: QuestionArgs,
    /// Ask about YAML or JSON files, as kubectl prints them, and not the cluster; - is the standard input
    #[arg(short, long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

/// What runs or makes pods, and what leads to them.
const OF_A_NAMESPACE: [Kind; 11] = [
    cluster::WORKLOAD_POLICIES,
    cluster::EXTERNAL_WORKLOADS,
    cluster::PODS,
    cluster::SERVICES,
    cluster::DEPLOYMENTS,
    cluster::REPLICA_SETS,
    cluster::STATEFUL_SETS,
    cluster::DAEMON_SETS,
    cluster::REPLICATION_CONTROLLERS,
    cluster::JOBS,
    cluster::CRON_JOBS,
];

/// Answers, and gives the exit code that says it: 0 for allowed, 1 for denied.
///
/// # Errors
/// When there is no answer.
pub(crate) async fn main(args: &Args, common: &Common) -> Result<ExitCode, Failure> {
    let (scene, namespace) = if args.files.is_empty() {
        let cluster = Cluster::connect(common).await?;
        let scene = live(&cluster, &args.question).await?;
        (scene, Some(cluster.namespace))
    } else {
        let scene = Scene::read(&args.files, io::stdin().lock(), &common.holdfast_namespace)
            .map_err(Failure::Documents)?;
        (scene, common.namespace.clone())
    };
    let answer = scene.answer(&args.question.question(), namespace.as_deref())?;
    match args.output {
        Format::Text => print(answer.text()),
        Format::Json => print(serde_json::to_string_pretty(&answer)? + "\n"),
    }
    Ok(ExitCode::from(u8::from(!answer.allowed)))
}

/// The namespaces that a question names, and the addresses.
fn named<'a>(ends: impl Iterator<Item = &'a str>, default: &'a str) -> (BTreeSet<String>, BTreeSet<IpAddr>) {
    let (mut namespaces, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for end in ends {
        if let Ok(address) = end.parse::<IpAddr>() {
            addresses.insert(address.to_canonical());
        }
        namespaces.extend(namespace_of(end, default).map(str::to_owned));
    }
    (namespaces, addresses)
}

/// Reads what a question needs; what may not be read becomes a note.
async fn live(cluster: &Cluster, question: &QuestionArgs) -> Result<Scene, Failure> {
    let mut reader = Reader { cluster, values: Vec::new(), notes: Vec::new() };
    let (mut namespaces, addresses) = named(question.ends(), &cluster.namespace);
    for address in &addresses {
        reader.holders(*address, &mut namespaces).await?;
    }
    for namespace in &namespaces {
        let scope = Scope::Namespace(namespace.clone());
        for kind in OF_A_NAMESPACE {
            let what = format!("{} in namespace {namespace}", kind.plural);
            let matters = match kind {
                cluster::WORKLOAD_POLICIES => "its policies have no part in the answer",
                cluster::PODS => "what runs there is not known",
                _ => "",
            };
            let read = cluster.list(kind, &scope, "").await;
            reader.take(read, &what, matters)?;
        }
        // Whoever may not list namespaces may often read their own.
        let read = cluster.object(cluster::NAMESPACES, &Scope::All, namespace).await;
        let read = read.map(|mut namespace| {
            if let Some(fields) = namespace.as_object_mut() {
                fields.insert("apiVersion".to_owned(), "v1".into());
                fields.insert("kind".to_owned(), "Namespace".into());
            }
            vec![namespace]
        });
        reader.take(read, &format!("namespace {namespace}"), "its labels are not known")?;
    }
    for (kind, matters) in [
        (cluster::CLUSTER_POLICIES, "one of them may refuse or allow what is said here"),
        (cluster::ADDRESS_SLICES, "addresses outside the namespaces asked about count as World"),
        (cluster::WORKLOAD_NODES, "on which nodes and by which mechanism is not known"),
    ] {
        let read = cluster.list(kind, &Scope::All, "").await;
        reader.take(read, kind.plural, matters)?;
    }
    let mut scene = Scene::of(reader.values, &cluster.holdfast);
    for note in reader.notes {
        scene.note(note);
    }
    Ok(scene)
}

struct Reader<'a> {
    cluster: &'a Cluster,
    values: Vec<Value>,
    notes: Vec<String>,
}

impl Reader<'_> {
    /// Keeps what was read; what is forbidden, and matters, is noted.
    fn take(&mut self, read: Result<Vec<Value>, ApiError>, what: &str, matters: &str) -> Result<(), Failure> {
        match read {
            Ok(values) => self.values.extend(values),
            Err(error) if error.is_forbidden() || error.is_not_found() => {
                let why = if error.is_forbidden() { "you may not read" } else { "the API server has no" };
                if !matters.is_empty() {
                    self.notes.push(format!("{why} {what}: {matters}"));
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Adds the namespaces of who holds an address.
    async fn holders(&mut self, address: IpAddr, namespaces: &mut BTreeSet<String>) -> Result<(), Failure> {
        let query = format!("fieldSelector={}", encode(&format!("status.podIP={address}")));
        let mut found = match self.cluster.list(cluster::PODS, &Scope::All, &query).await {
            Err(error) if error.is_forbidden() => {
                self.notes.push(format!(
                    "you may not read pods of all namespaces: who holds {address} is not known"
                ));
                return Ok(());
            }
            pods => pods?,
        };
        if found.is_empty() {
            let text = address.to_string();
            let services = match self.cluster.list(cluster::SERVICES, &Scope::All, "").await {
                Err(error) if error.is_forbidden() => Vec::new(),
                services => services?,
            };
            let holds = |service: &Value| {
                let all = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
                all.is_some_and(|all| all.iter().any(|one| one.as_str() == Some(&text)))
            };
            found = services.into_iter().filter(holds).collect();
        }
        if found.is_empty() {
            let externals = match self.cluster.list(cluster::EXTERNAL_WORKLOADS, &Scope::All, "").await {
                Err(error) if error.is_forbidden() || error.is_not_found() => Vec::new(),
                externals => externals?,
            };
            let holds = |external: &Value| {
                let all = external.pointer("/spec/addresses").and_then(Value::as_array);
                let mut all =
                    all.into_iter().flatten().filter_map(|one| one.as_str()?.parse::<IpAddr>().ok());
                all.any(|one| one.to_canonical() == address)
            };
            found = externals.into_iter().filter(holds).collect();
        }
        let namespace = |object: &Value| Some(object.pointer("/metadata/namespace")?.as_str()?.to_owned());
        namespaces.extend(found.iter().filter_map(namespace));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespaces_of_a_question_are_those_that_it_names() {
        let (namespaces, addresses) = named(
            ["deploy/web", "bank/pod/x", "10.0.0.1", "::ffff:10.0.0.2", "shop/web"].into_iter(),
            "shop",
        );
        assert_eq!(namespaces, BTreeSet::from(["bank".to_owned(), "shop".to_owned()]));
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.1", "10.0.0.2"]);
    }
}
