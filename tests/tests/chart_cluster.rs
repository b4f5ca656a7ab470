//! The chart on a real API server: each scenario is installed, upgraded to, upgraded to once more without a change, and
//! removed. No operator runs here; what it does with what the chart makes is another suite's.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use holdfast_tests::{
    chart::{self, Helm, Key, NAMESPACE, RELEASE, Scenario, Snapshot, key, snapshot, yaml},
    controlplane::{ControlPlane, Options},
    tools,
    wait::until,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// The kinds that are the chart's own, and those that the API server makes of them.
fn is_of_the_crds(key: &Key) -> bool {
    let (kind, namespace, name) = key;
    match kind.as_str() {
        "CustomResourceDefinition.apiextensions.k8s.io" => {
            namespace.is_empty() && name.ends_with(".holdfast.dev")
        }
        "APIService.apiregistration.k8s.io" => name == "v1alpha1.holdfast.dev",
        _ => false,
    }
}

struct Rig {
    cluster: ControlPlane,
    helm: Helm,
}

impl Rig {
    /// A control plane with the kinds of the Prometheus operator, and the namespaces and service accounts that scenarios
    /// take for granted. Holdfast's namespace enforces the Pod Security level `restricted`.
    async fn start() -> Result<Rig> {
        let options = Options { controller_manager: true, ..Options::default() };
        let cluster = ControlPlane::start(options).await?;
        let folder = fs::read_dir(tools::directory().join("monitoring-crds")).context("run `make setup`")?;
        let version =
            folder.filter_map(Result::ok).next().context("no monitoring CRDs: run `make setup`")?.path();
        cluster.kubectl(&["apply", "--server-side", "--filename", &version.display().to_string()])?;
        cluster.kubectl(&["wait", "--for=condition=Established", "crds", "--all", "--timeout=60s"])?;
        for namespace in [NAMESPACE, "monitoring"] {
            cluster.kubectl(&["create", "namespace", namespace])?;
        }
        cluster.kubectl(&[
            "label",
            "namespace",
            NAMESPACE,
            "pod-security.kubernetes.io/enforce=restricted",
        ])?;
        for account in ["operator", "agent"] {
            let name = format!("security-holdfast-{account}");
            cluster.kubectl(&["create", "serviceaccount", "--namespace", NAMESPACE, &name])?;
        }
        let helm = Helm::with_cluster(&cluster.kubeconfig("admin", Some("system:masters"))?)?;
        let rig = Rig { cluster, helm };
        until(PATIENCE, "service accounts are made", async || {
            let found = rig.cluster.kubectl(&["get", "serviceaccounts,configmaps", "-A", "-o", "name"])?;
            let count = |what: &str| found.lines().filter(|line| line.ends_with(what)).count();
            Ok((count("/default") == 6 && count("/kube-root-ca.crt") == 6).then_some(()))
        })
        .await?;
        Ok(rig)
    }

    /// Runs `helm COMMAND holdfast charts/holdfast` with a scenario's values.
    fn apply(&self, command: &str, scenario: &Scenario) -> Result<String> {
        let (chart, values) = (chart::directory().display().to_string(), scenario.path.display().to_string());
        self.helm
            .run(&[command, RELEASE, &chart, "--namespace", NAMESPACE, "--values", &values])
            .with_context(|| format!("{command}: {}", scenario.name))
    }

    fn uninstall(&self) -> Result<()> {
        self.helm.run(&["uninstall", RELEASE, "--namespace", NAMESPACE]).map(drop)
    }

    /// The objects of the release, as they were rendered.
    fn manifest(&self) -> Result<Vec<Value>> {
        let manifest = self.helm.run(&["get", "manifest", RELEASE, "--namespace", NAMESPACE])?;
        yaml("manifest", manifest.as_bytes())
    }

    fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        let mut arguments = vec!["get", kind, name, "--output=json"];
        if !namespace.is_empty() {
            arguments.extend(["--namespace", namespace]);
        }
        Ok(serde_json::from_str(&self.cluster.kubectl(&arguments)?)?)
    }

    /// Waits until all objects of the release are there as rendered and the controllers have taken them up: the pods of
    /// the operator exist, which only admission could refuse.
    async fn settled(&self, scenario: &str) -> Result<Snapshot> {
        let wanted = self.manifest()?;
        until(PATIENCE, &format!("{scenario}: controllers have taken up the release"), async || {
            for object in &wanted {
                let (kind, _, name) = key(object);
                let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
                let live = self.get(&kind, namespace, &name)?;
                let observed = &live["status"]["observedGeneration"];
                let done = match object["kind"].as_str().unwrap_or_default() {
                    "Deployment" => {
                        observed == &live["metadata"]["generation"]
                            && live["status"]["updatedReplicas"] == live["spec"]["replicas"]
                            && live["status"]["replicas"] == live["spec"]["replicas"]
                            && live["status"]["unavailableReplicas"] == live["spec"]["replicas"]
                            && live["status"]["conditions"].as_array().is_some_and(|all| all.len() == 2)
                    }
                    "PodDisruptionBudget" => {
                        observed == &live["metadata"]["generation"]
                            && live["status"]["expectedPods"] == self.replicas(&wanted)
                    }
                    "ValidatingAdmissionPolicy" => observed == &live["metadata"]["generation"],
                    "FlowSchema" => live["status"]["conditions"][0]["status"] == "False",
                    _ => true,
                };
                if !done {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        let all = snapshot(&self.cluster)?;
        let mut ours = Snapshot::new();
        for object in &wanted {
            let key = key(object);
            let version = all.get(&key).with_context(|| format!("{scenario}: {key:?} is not there"))?;
            ours.insert(key, version.clone());
        }
        Ok(ours)
    }

    fn replicas(&self, objects: &[Value]) -> Value {
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment");
        deployment.map(|object| object["spec"]["replicas"].clone()).unwrap_or_default()
    }

    /// Waits until the API server holds what it held `before`, and Holdfast's CRDs.
    async fn only_crds_are_left(&self, scenario: &str, before: &Snapshot) -> Result<()> {
        let mut left = Vec::new();
        let outcome = until(PATIENCE, "only the CRDs are left", async || {
            let now = snapshot(&self.cluster)?;
            left = now
                .keys()
                .filter(|key| !before.contains_key(*key) && !is_of_the_crds(key))
                .cloned()
                .collect();
            Ok(left.is_empty().then_some(now))
        })
        .await;
        let now = outcome.with_context(|| format!("{scenario}: left behind: {left:?}"))?;
        let missing: Vec<_> = before.keys().filter(|key| !now.contains_key(*key)).collect();
        assert!(missing.is_empty(), "{scenario}: taken away too: {missing:?}");
        let crds = now.keys().filter(|key| is_of_the_crds(key)).count();
        assert_eq!(crds, 7, "{scenario}: six CRDs and what serves them");
        Ok(())
    }
}

#[tokio::test]
async fn each_scenario_is_installed_and_removed_without_a_trace_but_the_crds() -> Result<()> {
    let rig = Rig::start().await?;
    let before = snapshot(&rig.cluster)?;
    for scenario in chart::scenarios()? {
        let notes = rig.apply("install", &scenario)?;
        assert!(
            notes.contains("ATTENTION: this namespace enforces the Pod Security level \"restricted\""),
            "{notes}"
        );
        rig.settled(&scenario.name).await?;
        // The pod of `helm test` is made by Helm only when asked; it must be as acceptable as the operator's.
        let hooks = rig.helm.run(&["get", "hooks", RELEASE, "--namespace", NAMESPACE])?;
        let made = rig.cluster.kubectl_output(
            &["create", "--dry-run=server", "--filename", "-", "--namespace", NAMESPACE],
            &hooks,
        )?;
        assert!(made.status.success(), "{}: {}", scenario.name, String::from_utf8_lossy(&made.stderr));
        rig.uninstall()?;
        rig.only_crds_are_left(&scenario.name, &before).await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_scenario_is_upgraded_to_from_the_one_before_and_again_without_a_change() -> Result<()> {
    let rig = Rig::start().await?;
    let before = snapshot(&rig.cluster)?;
    for (position, scenario) in chart::scenarios()?.iter().enumerate() {
        rig.apply(if position == 0 { "install" } else { "upgrade" }, scenario)?;
        let first = rig.settled(&scenario.name).await?;
        // What the scenario before had, and this one has not, is gone.
        until(PATIENCE, "what is no longer part of the release is gone", async || {
            let all = snapshot(&rig.cluster)?;
            let strangers = all.keys().filter(|key| {
                let (kind, ..) = *key;
                let made_by_controllers =
                    ["Pod", "ReplicaSet.apps", "EndpointSlice.discovery.k8s.io", "Endpoints"];
                !before.contains_key(*key)
                    && !first.contains_key(*key)
                    && !is_of_the_crds(key)
                    && !made_by_controllers.contains(&kind.as_str())
                    && !(kind == "Secret" && key.2.starts_with("sh.helm.release.v1."))
            });
            Ok((strangers.count() == 0).then_some(()))
        })
        .await
        .with_context(|| scenario.name.clone())?;

        rig.apply("upgrade", scenario)?;
        let second = rig.settled(&scenario.name).await?;
        let changed: Vec<_> =
            first.iter().filter(|(key, version)| second.get(*key) != Some(*version)).collect();
        assert!(changed.is_empty(), "{}: changed by an upgrade without a change: {changed:?}", scenario.name);
        assert_eq!(first.len(), second.len(), "{}", scenario.name);
    }
    rig.uninstall()?;
    rig.only_crds_are_left("all", &before).await
}

#[tokio::test]
async fn the_documented_command_installs_a_checkout_into_a_namespace_that_helm_makes() -> Result<()> {
    let options = Options { controller_manager: true, ..Options::default() };
    let cluster = ControlPlane::start(options).await?;
    let helm = Helm::with_cluster(&cluster.kubeconfig("admin", Some("system:masters"))?)?;
    let chart = chart::directory().display().to_string();
    // The kinds of the Prometheus operator are not there, and are not needed.
    let notes = helm.run(&["install", RELEASE, &chart, "--namespace", NAMESPACE, "--create-namespace"])?;
    for line in [
        "Holdfast 0.1.0 is installed in namespace holdfast-system.",
        "kubectl label namespace holdfast-system pod-security.kubernetes.io/enforce=privileged",
        "kubectl wait nodeagent/default --for=condition=Available",
        "helm test holdfast -n holdfast-system",
        "--set metrics.serviceMonitor.enabled=true",
    ] {
        assert!(notes.contains(line), "{line:?} is not in: {notes}");
    }
    assert!(!notes.contains("ATTENTION"), "{notes}");
    let agent: Value =
        serde_json::from_str(&cluster.kubectl(&["get", "nodeagent", "default", "-o", "json"])?)?;
    assert_eq!(agent["spec"]["logLevel"], "Info");

    // Without a name for what the values ask for, the notes ask for it.
    let values =
        json!({"nodeAgent": {"create": false}, "crds": {"manage": false}, "rbac": {"create": false}});
    let values: PathBuf = helm.values_file(&values)?;
    let values = values.display().to_string();
    let notes = helm.run(&["upgrade", RELEASE, &chart, "--namespace", NAMESPACE, "--values", &values])?;
    for line in
        ["is upgraded in", "nodeAgent.create is false", "crds.manage is false", "rbac.create is false"]
    {
        assert!(notes.contains(line), "{line:?} is not in: {notes}");
    }
    let gone = cluster.kubectl(&["get", "nodeagents,clusterroles", "-o", "name"])?;
    let ours: BTreeMap<_, _> =
        gone.lines().filter_map(|line| line.split_once('/')).map(|(a, b)| (b, a)).collect();
    assert!(!ours.contains_key("default") && !ours.contains_key("holdfast-operator"), "{gone}");
    Ok(())
}
