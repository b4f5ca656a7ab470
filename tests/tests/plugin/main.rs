//! `kubectl holdfast` against the real control plane, as users with different permissions, with a real operator that says
//! what became of policies, and a node whose report and whose agent's log are the test's.

mod bundle;
mod logs;
mod stage;

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use stage::stage;

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_each_user_may_read_and_what_is_left_out() -> Result<()> {
    let stage = stage().await?;
    // A platform admin sees all of it.
    let text = stage.told("admin", &["status", "-A"])?;
    println!("$ kubectl holdfast status -A\n{text}");
    for expected in [
        "operator   ",
        " leads, heard of ",
        "agents     NodeAgent nowhere: 0 wanted, 0 ready, 0 updated",
        "nodes      1: 1 alive\n",
        &format!("versions   {} on 1 node\n", env!("CARGO_PKG_VERSION")),
        "mechanisms fmod_ret on 0 of 1 nodes, lsm on 0, sys_enter on 1\n",
        "\nnode-1   alive ",
        "\nshop/api ",
        "degraded",
        "\nshop/web ",
        "Audit     in force",
        "\ncluster/bank ",
        "no workloads",
        "shop/api   syscalls.rules[0]   Deny    KillAfterEffect   NoLsmAndNoFmodRet   node-1\n",
    ] {
        ensure!(text.contains(expected), "{expected} is not in\n{text}");
    }
    ensure!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    ensure!(!text.contains("Left out"), "{text}");

    // Who may look into one namespace sees its policies, and is told what is missing.
    let text = stage.told("dev", &["status", "-n", "shop"])?;
    println!("$ kubectl holdfast status -n shop   # as a user of one namespace\n{text}");
    ensure!(
        text.starts_with("POLICY ") && text.contains("\nshop/api ") && text.contains("\nshop/web "),
        "{text}"
    );
    for expected in [
        "what each node reports (workloadnodes: you may not list them)",
        "policies of the whole cluster (clusterworkloadpolicies: you may not list them)",
        "which agents live, and who leads (leases: you may not list them)",
    ] {
        ensure!(text.contains(expected), "{expected} is not in\n{text}");
    }
    ensure!(!text.contains("cluster/bank") && !text.contains("node-1 "), "{text}");
    let refused = stage.holdfast("dev", &["status", "-A"])?;
    ensure!(refused.code == 2 && refused.err.contains("name a namespace with -n"), "{refused:?}");
    let refused = stage.holdfast("dev", &["status", "-n", "bank"])?;
    ensure!(refused.code == 1 && refused.err.lines().count() == 1, "{refused:?}");
    ensure!(refused.err.starts_with("error: workloadpolicies in namespace bank: forbidden: "), "{refused:?}");

    // JSON says the same.
    let json: Value = serde_json::from_str(&stage.told("admin", &["status", "-A", "-o", "json"])?)?;
    assert_eq!(json["fleet"]["nodes"][0]["state"], "Alive");
    assert_eq!(json["fleet"]["nodes"][0]["weaker"], 1);
    let states: Vec<&Value> =
        json["policies"].as_array().context("policies")?.iter().map(|policy| &policy["state"]).collect();
    assert_eq!(states, ["Degraded", "NoWorkloads", "NoWorkloads", "InForce"]);
    ensure!(json["policies"][0]["proven"].is_string() && json["policies"][0]["neverProven"] == 0, "{json}");

    // One policy, with and without the nodes' reports.
    let text = stage.told("admin", &["status", "shop/api"])?;
    println!("$ kubectl holdfast status shop/api\n{text}");
    for expected in [
        "WorkloadPolicy shop/api, Enforce, generation 1: in force on 1 of 1 node, 1 workload\n",
        "syscalls.rules[0]          Deny    KillAfterEffect by sys_enter   node-1   mount: NoLsmAndNoFmodRet\n",
        "network.ingress.allow[0]   Allow   as asked                       1 node\n",
        "NODE     STATE        GENERATION   WORKLOADS   PROVEN   MESSAGE\nnode-1   Programmed   1            1           ",
    ] {
        ensure!(text.contains(expected), "{expected} is not in\n{text}");
    }
    let text = stage.told("dev", &["status", "api", "-n", "shop"])?;
    ensure!(text.contains("KillAfterEffect") && text.contains("Left out: what each node reports"), "{text}");
    let text = stage.told("admin", &["status", "cluster/bank"])?;
    ensure!(text.starts_with("ClusterWorkloadPolicy cluster/bank, Enforce"), "{text}");
    let missing = stage.holdfast("admin", &["status", "nobody", "-n", "shop"])?;
    ensure!(missing.code == 1, "{missing:?}");
    assert_eq!(
        missing.err,
        "error: there is no WorkloadPolicy nobody in namespace shop; a ClusterWorkloadPolicy is cluster/nobody\n"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_of_the_cluster_gives_the_answer_that_its_objects_in_files_give() -> Result<()> {
    let stage = stage().await?;
    let dump = stage.cluster.folder().join("dump.yaml");
    let kinds = "pods,services,deployments,replicasets,namespaces,nodes,wlp,cwlp,nag,ewl,wln,adsl";
    fs::write(&dump, stage.kubectl(&format!("get {kinds} -A -o yaml"))?)?;
    let dump = dump.to_str().context("no UTF-8")?;
    let address = stage.kubectl("get pod api -n shop -o jsonpath={.status.podIP}")?;
    let to_address = format!("--from shop/deployment/web --to {address} --port 8080");
    for (question, code, expected) in [
        (
            "--from shop/deployment/web --to shop/pod/api --port 8080",
            0,
            "by shop/api network.ingress.allow[0]\n    on node-1: in force by cgroup_skb\n",
        ),
        (
            "--from shop/deployment/web --to shop/pod/api --port 8080",
            0,
            "audit: shop/web network.egress would refuse it",
        ),
        (
            "--from bank/client --to shop/pod/api --port 8080",
            1,
            "denied, as shop/api isolates it and no rule allows this",
        ),
        (
            "--from shop/deployment/web --to shop/service/api --port 80",
            0,
            "ingress of shop/api (Pod), TCP 8080: allowed",
        ),
        (to_address.as_str(), 0, "by shop/api network.ingress.allow[0]"),
        (
            "--from shop/pod/api --syscall mount",
            1,
            "Deny by shop/api syscalls.rules[0]\n    on node-1: given KillAfterEffect by sys_enter (NoLsmAndNoFmodRet)\n",
        ),
        ("--from shop/pod/api --syscall read", 0, "Allow as no rule says otherwise"),
        (
            "--from 192.0.2.7 --to 10.20.30.41 --port 5432",
            1,
            "ingress of bank/ledger (ExternalWorkload), TCP 5432: denied",
        ),
    ] {
        let words: Vec<&str> = ["explain"].into_iter().chain(question.split(' ')).collect();
        let live = stage.holdfast("admin", &words)?;
        println!("$ kubectl holdfast explain {question}; echo $?\n{}{}", live.out, live.code);
        ensure!(
            live.code == code && live.out.contains(expected),
            "{question}: {expected} is not in {live:?}"
        );
        ensure!(live.err.is_empty(), "{live:?}");
        let offline = stage.holdfast("nobody", &[&words[..], &["-f", dump]].concat())?;
        assert_eq!((live.code, &live.out), (offline.code, &offline.out), "{question}: {}", offline.err);
        let agent = stage.node.agent(&[&words[..1], &[dump], &words[1..]].concat());
        // The agent's command fails where the answer is no.
        if code == 0 {
            assert_eq!(agent?, live.out, "{question}");
        }
    }
    // A user of one namespace gets an answer, and is told what it lacks.
    let question = "explain -n shop --from deployment/web --to pod/api --port 8080";
    let said = stage.holdfast("dev", &question.split(' ').collect::<Vec<_>>())?;
    println!("$ kubectl holdfast {question}   # as a user of one namespace\n{}", said.out);
    ensure!(said.code == 0, "{said:?}");
    for expected in [
        "by shop/api network.ingress.allow[0]\n    the policy is in force on 1 of its 1 nodes\n",
        "note: you may not read clusterworkloadpolicies: one of them may refuse or allow what is said here\n",
        "note: you may not read workloadnodes: on which nodes and by which mechanism is not known\n",
        "note: you may not read addressslices: addresses outside the namespaces asked about count as World\n",
    ] {
        ensure!(said.out.contains(expected), "{expected} is not in\n{}", said.out);
    }
    let said = stage
        .holdfast("dev", &["explain", "--from", "bank/client", "--to", "shop/pod/api", "--port", "80"])?;
    ensure!(
        said.code == 2 && said.err.contains("there is no workload and no Service bank/client"),
        "{said:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_flags_and_unusable_kubeconfigs_are_one_line() -> Result<()> {
    let stage = stage().await?;
    for (words, code, expected) in [
        ("stats", 2, "error: unrecognized subcommand 'stats'"),
        ("status --output yaml", 2, "error: invalid value 'yaml' for '--output <OUTPUT>'"),
        (
            "status -A -n x",
            2,
            "error: the argument '--all-namespaces' cannot be used with '--namespace <NAME>'",
        ),
        ("status api -A", 2, "error: a policy is of one namespace: -A goes with no POLICY"),
        (
            "status --request-timeout soon",
            2,
            "error: invalid value 'soon' for '--request-timeout <DURATION>'",
        ),
        ("status --context nowhere", 1, "error: the kubeconfig cannot be used: "),
        ("status --kubeconfig /nowhere", 1, "error: the kubeconfig cannot be used: "),
        ("logs --since yesterday", 2, "error: invalid value 'yesterday' for '--since <DURATION>'"),
        ("explain --from shop/api", 2, "error: the following required arguments were not provided"),
        (
            "explain --from shop/none --syscall read",
            2,
            "error: there is no workload and no Service shop/none",
        ),
        ("explain -f /nowhere --from shop/api --syscall read", 2, "/nowhere: cannot be read: "),
    ] {
        let said =
            stage.holdfast("admin", &words.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>())?;
        ensure!(said.code == code && said.err.starts_with(expected), "{words}: {said:?}");
        ensure!(said.err.lines().count() == 1 && said.out.is_empty(), "{words}: {said:?}");
    }
    let said = stage.holdfast("admin", &[])?;
    ensure!(said.code == 2 && said.err.contains("support-bundle"), "{said:?}");
    let said = stage.holdfast("admin", &["--version"])?;
    assert_eq!(said.out, format!("kubectl-holdfast {}\n", env!("CARGO_PKG_VERSION")));
    let help = stage.told("admin", &["status", "--help"])?;
    ensure!(help.contains("Usage: kubectl holdfast status"), "{help}");
    let completion = stage.told("admin", &["completion", "bash"])?;
    ensure!(completion.contains("support-bundle"), "{completion}");
    Ok(())
}
