use std::path::PathBuf;

use clap::Parser;
use serde_json::Value;

use super::*;

mod nodes;

use nodes::{NODES, on_nodes};

#[derive(Parser)]
struct Cli {
    files: Vec<PathBuf>,
    #[command(flatten)]
    question: QuestionArgs,
    #[arg(short)]
    output: Option<String>,
}

fn explain(cli: &Cli, stdin: &[u8]) -> Result<(String, bool), String> {
    let scene = Scene::read(&cli.files, stdin, "holdfast-system").map_err(|errors| {
        errors.iter().fold(String::new(), |text, error| text + &error.to_string() + "\n")
    })?;
    let answer = scene.answer(&cli.question.question(), None).map_err(|error| error.to_string())?;
    let text = match cli.output {
        None => answer.text(),
        Some(_) => serde_json::to_string_pretty(&answer).unwrap(),
    };
    Ok((text, answer.allowed))
}

/// The files of a small shop, as kubectl prints them.
const SHOP: &str = "
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: shop, labels: {team: shop}, creationTimestamp: null}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: web, namespace: shop}
  spec:
    selector: {matchLabels: {app: web}}
    template:
      metadata: {labels: {app: web}}
      spec: {containers: [{name: main, image: web}]}
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: shop}
  spec: {clusterIP: 10.96.0.9, selector: {app: web}, ports: [{port: 80}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: api-1, namespace: shop, labels: {app: api}}
  spec:
    serviceAccountName: api
    containers:
    - {name: main, image: api, ports: [{name: http, containerPort: 8080}]}
    - {name: helper, image: helper}
  status: {phase: Running, podIP: 10.1.0.5, podIPs: [{ip: 10.1.0.5}], conditions: [{type: Ready, status: 'True'}]}
- apiVersion: v1
  kind: Service
  metadata: {name: api, namespace: shop}
  spec: {clusterIP: 10.96.0.10, selector: {app: api}, ports: [{port: 80, targetPort: http}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: api-old, namespace: shop, labels: {app: api}}
  spec: {containers: [{name: main, image: api}]}
  status: {phase: Succeeded, podIP: 10.1.0.9}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: backup, namespace: ops}
spec:
  schedule: '@daily'
  jobTemplate:
    spec:
      template:
        metadata: {labels: {app: backup}}
        spec: {containers: [{name: main, image: backup}], hostNetwork: true}
---
apiVersion: holdfast.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: ledger, namespace: bank, labels: {app: ledger}}
spec: {node: vm-17, addresses: [10.20.0.17], cgroups: [/system.slice/ledger.service]}
---
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  network:
    ingress:
      allow:
      - {from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}
      deny:
      - {from: [{ipBlock: {cidr: 10.20.0.0/16}}]}
    onDeny: Reject
---
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: api-calls, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  containers: [main]
  syscalls:
    rules:
    - {names: ['@mount'], action: Deny}
    - {names: [socket], args: [{index: 0, op: Equal, value: 17}], action: Kill}
---
apiVersion: holdfast.dev/v1alpha1
kind: ClusterWorkloadPolicy
metadata: {name: watch}
spec:
  namespaceSelector: {}
  selector: {matchLabels: {app: web}}
  mode: Audit
  network: {egress: {}}
";

/// The answer to a command line, with the shop on the standard input and further documents in a file.
fn ask(further: &str, line: &str) -> Result<(String, bool), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("more.yaml");
    std::fs::write(&path, if further.is_empty() { "# nothing\n" } else { further }).unwrap();
    let words = ["explain", "-", path.to_str().unwrap()].into_iter().chain(line.split_whitespace());
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    explain(&cli, SHOP.as_bytes())
}

fn said(line: &str) -> String {
    ask("", line).unwrap().0
}

#[test]
fn an_allowed_flow_is_told_with_the_rule_at_each_end() {
    let (text, allowed) = ask("", "--from shop/Deployment/web --to shop/api-1 --port 8080").unwrap();
    assert!(allowed);
    assert_eq!(
        text,
        "shop/web (Deployment) to shop/api-1 (Pod), TCP port 8080: allowed\n  \
           egress of shop/web (Deployment), TCP 8080: allowed, as no policy isolates it\n    \
             audit: cluster/watch network.egress would refuse it\n  \
           ingress of shop/api-1 (Pod), TCP 8080: allowed, by shop/api network.ingress.allow[0]\n\
         note: shop/web (Deployment) has no known address: only an ipBlock of 0.0.0.0/0 is taken to match it\n"
    );
}

#[test]
fn a_denied_flow_is_told_with_what_the_sender_sees() {
    for (line, expected) in [
        (
            "--from shop/deployment/web --to shop/api-1 --port 9090",
            "denied, as shop/api isolates it and no rule allows this (Reject: EPERM at connect)",
        ),
        (
            "--from shop/deployment/web --to shop/api-1 --port 8080 --protocol udp",
            "denied, as shop/api isolates it and no rule allows this",
        ),
        (
            "--from shop/deployment/web --to shop/api-1 --port 8080 --protocol sctp",
            "denied, as shop/api isolates it and no rule allows this (Drop: silence)",
        ),
        ("--from bank/ledger --to shop/api-1 --port 8080", "denied, by shop/api network.ingress.deny[0]"),
        ("--from 192.0.2.7 --to 10.1.0.5 --port 8080", "denied, as shop/api isolates it"),
    ] {
        let (text, allowed) = ask("", line).unwrap();
        assert!(!allowed && text.contains(expected), "{line}: {text}");
    }
}

#[test]
fn a_service_is_asked_for_by_name_or_address_and_followed_to_its_pods() {
    for to in ["shop/api", "shop/service/api", "10.96.0.10"] {
        let (text, allowed) = ask("", &format!("--from shop/deployment/web --to {to} --port 80")).unwrap();
        assert!(allowed, "{text}");
        assert!(text.contains("egress of shop/web (Deployment), TCP 80: allowed"), "{text}");
        assert!(
            text.contains(
                "ingress of shop/api-1 (Pod), TCP 8080: allowed, by shop/api network.ingress.allow[0]"
            ),
            "{text}"
        );
        assert!(!text.contains("api-old"), "a finished pod is behind no Service: {text}");
    }
    let problem = ask("", "--from shop/deployment/web --to shop/api --port 81").unwrap_err();
    assert_eq!(problem, "shop/api (Service) has no TCP port 81");
}

#[test]
fn an_isolated_workload_reaches_a_service_only_if_each_backend_is_allowed() {
    let policy = |allow: &str| {
        format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {{name: web, namespace: shop}}\n\
             spec:\n  selector: {{matchLabels: {{app: web}}}}\n  network: {{egress: {{allow: [{allow}]}}}}\n"
        )
    };
    let line = "--from shop/deployment/web --to shop/api --port 80";
    let (text, allowed) =
        ask(&policy("{to: [{serviceAccount: {name: api}}], ports: [{port: http}]}"), line).unwrap();
    assert!(
        allowed && text.contains("as each backend of the Service is, by shop/web network.egress.allow[0]"),
        "{text}"
    );
    let (text, allowed) = ask(&policy("{to: [{ipBlock: {cidr: 10.96.0.10/32}}]}"), line).unwrap();
    assert!(!allowed, "{text}");
    assert!(
        text.contains("; the Service's backend shop/api-1 (Pod) port 8080 is refused (Drop: silence)"),
        "{text}"
    );
}

#[test]
fn a_pod_may_reach_itself() {
    let (text, allowed) = ask("", "--from shop/api-1 --to shop/api-1 --port 9999").unwrap();
    assert!(allowed && text.contains("as a workload may reach itself"), "{text}");
}

#[test]
fn a_host_network_workload_is_the_host_to_others() {
    let allow = "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {name: host, namespace: shop}\n\
                 spec:\n  selector: {matchLabels: {app: api}}\n  network: {ingress: {allow: [{from: [{entity: Host}]}]}}\n";
    let line = "--from ops/backup --to shop/api-1 --port 5";
    let (text, allowed) = ask(allow, line).unwrap();
    assert!(allowed && text.contains("by shop/host network.ingress.allow[0]"), "{text}");
    assert!(text.contains("note: from a part of the pod's own node"), "{text}");
    assert!(!ask("", line).unwrap().1);
}

#[test]
fn executables_files_and_capabilities_are_asked_for_each_container() {
    let policy = "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {name: access, namespace: shop}\n\
                  spec:\n  selector: {matchLabels: {app: api}}\n  containers: [main]\n  \
                    processes: {default: Deny, rules: [{notInImage: true, action: Kill}, {paths: [\"/app/**\"], action: Allow}]}\n  \
                    files: {rules: [{paths: [\"/etc/*\"], operations: [Read], action: Deny, unless: {executables: [/app/api]}}]}\n  \
                    capabilities: {deny: [NET_RAW]}\n";
    let (text, allowed) = ask(policy, "--from shop/api-1 --exec /bin/sh").unwrap();
    assert!(!allowed);
    assert!(
        text.starts_with(
            "shop/api-1 (Pod), start of /bin/sh: denied\n  \
               start of /bin/sh of shop/api-1 (Pod), container main: Deny by shop/access processes.default\n  \
               start of /bin/sh of shop/api-1 (Pod), container helper: Allow as no rule says otherwise\n"
        ),
        "{text}"
    );
    for (line, expected) in [
        ("--exec /app/api", "Allow as no rule says otherwise"),
        ("--exec /app/x --not-in-image", "Kill by shop/access processes.rules[0]"),
        ("--file /etc/shadow --operation Read", "Deny by shop/access files.rules[0]"),
        ("--file /etc/shadow --operation read --running /app/api", "Allow as no rule says otherwise"),
        ("--file /etc/shadow --operation Write", "Allow as no rule says otherwise"),
        ("--capability NET_RAW", "Deny by shop/access capabilities.deny[NET_RAW]"),
        ("--capability CHOWN", "Allow as no rule says otherwise"),
    ] {
        let (text, allowed) = ask(policy, &format!("--from shop/api-1 --container main {line}")).unwrap();
        assert!(text.contains(expected), "{line}: {text}");
        assert_eq!(allowed, expected.starts_with("Allow"), "{line}");
    }
    for (line, problem) in [
        ("--exec sh", "is no absolute path"),
        ("--file /etc/../x --operation Read", "is no absolute path"),
        ("--capability CAP_CHOWN", "is no known capability"),
        ("--exec /bin/sh --container other", "has no container other"),
    ] {
        let said = ask(policy, &format!("--from shop/api-1 {line}")).unwrap_err();
        assert!(said.contains(problem), "{line}: {said}");
    }
}

#[test]
fn system_calls_are_asked_for_each_container() {
    let (text, allowed) = ask("", "--from shop/api-1 --syscall mount").unwrap();
    assert!(!allowed);
    assert_eq!(
        text,
        "shop/api-1 (Pod), mount: denied\n  \
           mount of shop/api-1 (Pod), container main: Deny by shop/api-calls syscalls.rules[0]\n  \
           mount of shop/api-1 (Pod), container helper: Allow as no rule says otherwise\n"
    );
    assert!(ask("", "--from shop/api-1 --syscall mount --container helper").unwrap().1);
    assert!(ask("", "--from shop/api-1 --syscall socket --arg 0=2").unwrap().1);
    let text = said("--from shop/api-1 --syscall socket --arg 0=0x11 --container main");
    assert!(text.contains("Kill by shop/api-calls syscalls.rules[1]"), "{text}");
}

#[test]
fn a_flow_and_a_call_can_be_asked_together() {
    let line = "--from shop/api-1 --to shop/deployment/web --port 80 --syscall read";
    let (text, allowed) = ask("", line).unwrap();
    assert!(allowed && text.contains("egress") && text.contains("read of"), "{text}");
    assert!(!ask("", &line.replace("read", "mount")).unwrap().1);
}

#[test]
fn json_says_the_same() {
    let (text, allowed) =
        ask("", "--from bank/ledger --to shop/api-1 --port 8080 --syscall read -o json").unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((answer["allowed"].as_bool(), allowed), (Some(false), false));
    let flow = &answer["flows"][1];
    assert_eq!(flow["policy"], "shop/api");
    assert_eq!(flow["rule"], "network.ingress.deny[0]");
    assert_eq!(flow["peer"], "10.20.0.17");
    assert_eq!(answer["calls"][0]["action"], "Allow");
    let (text, _) = ask("", "--from shop/deployment/web --to shop/api-1 --port 8080 -o json").unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["flows"][1]["peer"], Value::Null, "an address that was made up is not told");
}

#[test]
fn questions_that_cannot_be_answered_say_why() {
    for (line, expected) in [
        ("--from shop/nobody --to shop/api-1 --port 1", "no workload and no Service shop/nobody"),
        ("--from api-1 --to shop/api-1 --port 1", "neither NAMESPACE/NAME nor an address"),
        (
            "--from shop/web --to shop/api-1 --port 1",
            "shop/web can be shop/web (Deployment) or shop/web (Service)",
        ),
        ("--from shop/api --to shop/api-1 --port 1", "opens no connections"),
        ("--from 192.0.2.1 --to 192.0.2.2 --port 1", "no policy has a say"),
        ("--from shop/api-1 --syscall no_such_call", "no known system call"),
        ("--from shop/api-1 --syscall umount", "no system call of"),
        ("--from shop/api-1 --syscall read --container x", "has no container x"),
        ("--from shop/api-1", "required"),
        ("--from shop/api-1 --to shop/api-1", "--port"),
        ("--from shop/api-1 --to shop/api-1 --port 0", "0 is not in 1..=65535"),
        ("--from shop/api-1 --to shop/api-1 --port 65536", "65536 is not in"),
        ("--from shop/api-1 --syscall read --arg 6=1", "from 0 to 5"),
        ("--from shop/api-1 --syscall read --arg 1=x", "invalid digit"),
    ] {
        let problem = ask("", line).unwrap_err();
        assert!(problem.contains(expected), "{line}: {problem}");
    }
}

#[test]
fn files_that_are_no_good_are_told_with_document_and_field() {
    let line = "--from shop/api-1 --syscall read";
    for (further, expected) in [
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n",
            "document 1, Secret s: kind: \"v1\" \"Secret\" is none of",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: 3}\n",
            "Pod p: spec.containers: ",
        ),
        ("apiVersion: v1\nkind: Pod\nspec: {containers: []}\n", "metadata.name: is missing"),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
            "metadata.name: is the name of document 1 of - already",
        ),
        ("a: [\n", "document 1: "),
        (
            "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {name: p}\nspec: {selecter: {}}\n",
            "WorkloadPolicy p: spec.selecter: ",
        ),
    ] {
        let problem = ask(further, line).unwrap_err();
        assert!(problem.contains("more.yaml") && problem.contains(expected), "{further}: {problem}");
    }
    let cli = Cli::try_parse_from(["explain", "/nowhere", "--from", "a/b", "--syscall", "read"]).unwrap();
    assert!(explain(&cli, &[]).unwrap_err().starts_with("/nowhere: cannot be read: "));
}

/// Slices as an operator publishes them, of which one is late.
const SLICES: &str = "
apiVersion: holdfast.dev/v1alpha1
kind: AddressSlice
metadata: {name: a}
namespaces: [{name: shop, labels: {team: shop}}, {name: far, labels: {team: far}}]
identities:
- {id: 256, namespace: shop, serviceAccount: api, labels: {app: api}, ports: [{name: http, port: 8080}]}
- {id: 257, namespace: far, serviceAccount: default, labels: {app: web}}
addresses:
- {address: 10.1.0.5, identity: 257, entities: [Cluster]}
- {address: 10.1.9.9, identity: 257, entities: [Cluster]}
- {address: 10.1.9.1, entities: [KubeApiserver]}
";

#[test]
fn slices_know_the_addresses_that_no_object_here_has() {
    let policy = "---\napiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {name: far, namespace: shop}\n\
                  spec: {selector: {matchLabels: {app: api}}, network: {ingress: {allow: [{from: [{namespaceSelector: \
                  {matchLabels: {team: far}}}]}]}, egress: {allow: [{to: [{entity: KubeApiserver}]}]}}}\n";
    let further = format!("{SLICES}{policy}");
    let (text, allowed) = ask(&further, "--from 10.1.9.9 --to shop/api-1 --port 9").unwrap();
    assert!(allowed && text.contains("by shop/far network.ingress.allow[0]"), "{text}");
    assert!(!ask(&further, "--from 10.1.9.8 --to shop/api-1 --port 9").unwrap().1);
    assert!(ask(&further, "--from shop/api-1 --to 10.1.9.1 --port 6443").unwrap().1);
    // The pod itself is what its object says, and it is said that nodes see it otherwise.
    assert!(
        text.contains(
            "note: nodes take 10.1.0.5 of shop/api-1 for another workload's, as the AddressSlices say"
        ),
        "{text}"
    );
    let agreed = further.replace("{address: 10.1.0.5, identity: 257", "{address: 10.1.0.5, identity: 256");
    let (text, _) = ask(&agreed, "--from 10.1.9.9 --to shop/api-1 --port 9").unwrap();
    assert!(!text.contains("note: nodes take 10.1.0.5"), "{text}");
}

#[test]
fn objects_of_a_cluster_give_the_answer_that_files_give() {
    let (documents, errors) = crate::document::read("shop", format!("{SHOP}---{NODES}").as_bytes());
    assert_eq!(errors, []);
    let values = documents.iter().flat_map(|raw| match raw.items() {
        Some(items) => items.into_iter().map(|item| item.value).collect(),
        None => vec![raw.value.clone()],
    });
    let mut values: Vec<Value> = values.collect();
    let cli =
        Cli::try_parse_from(["x", "--from", "deployment/web", "--to", "api-2", "--port", "8080"]).unwrap();
    let question = Question { from: "shop/deployment/web".to_owned(), ..cli.question.question() };
    let answer = Scene::of(values.clone(), "holdfast-system").answer(&question, Some("shop")).unwrap();
    assert_eq!(answer.text(), on_nodes("--from shop/deployment/web --to shop/api-2 --port 8080"));

    // In a namespace, names are as short as kubectl's.
    for (from, to) in
        [("deployment/web", "pod/api-2"), ("deploy/web", "api-2"), ("shop/deploy/web", "po/api-2")]
    {
        let flow = question.flow.clone().map(|flow| FlowAsked { to: to.to_owned(), ..flow });
        let short = Question { from: from.to_owned(), flow, ..question.clone() };
        let scene = Scene::of(values.clone(), "holdfast-system");
        assert_eq!(scene.answer(&short, Some("shop")).unwrap().text(), answer.text(), "{from} {to}");
        assert!(scene.answer(&short, None).is_err());
    }
    assert_eq!(namespace_of("deploy/web", "shop"), Some("shop"));
    assert_eq!(namespace_of("bank/web", "shop"), Some("bank"));
    assert_eq!(namespace_of("10.0.0.1", "shop"), None);

    // One that this version cannot read does not stand in the way.
    values.push(serde_json::json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy",
        "metadata": {"name": "new", "namespace": "shop"}, "spec": {"selector": {}, "novelty": 1},
    }));
    let answer = Scene::of(values, "holdfast-system").answer(&question, Some("shop")).unwrap();
    assert!(answer.allowed);
    assert!(
        answer
            .notes
            .iter()
            .any(|note| note.starts_with("WorkloadPolicy shop/new is left out, as this version")),
        "{:?}",
        answer.notes
    );
}
