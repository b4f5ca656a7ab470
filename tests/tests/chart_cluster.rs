//! The chart on a real API server: each scenario is installed, upgraded to, upgraded to once more without a change, and
//! removed. No operator runs here; what it does with what the chart makes is another suite's.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use holdfast_tests::{
    chart::{self, Helm, Key, NAMESPACE, Objects, RELEASE, Scenario, key, objects, written, yaml},
    controlplane::{ControlPlane, Options},
    tools,
    wait::until,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

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

/// What Helm keeps of a release, and what controllers make of its objects.
fn comes_with_a_release((kind, _, name): &Key) -> bool {
    match kind.as_str() {
        "Secret" => name.starts_with("sh.helm.release.v1."),
        "Pod"
        | "ReplicaSet.apps"
        | "Endpoints"
        | "EndpointSlice.discovery.k8s.io"
        | "IPAddress.networking.k8s.io" => true,
        _ => false,
    }
}

/// Whether the controllers have done all that they do with an object.
fn is_settled(live: &Value) -> bool {
    let (spec, status) = (&live["spec"], &live["status"]);
    let observed = status["observedGeneration"] == live["metadata"]["generation"];
    match live["kind"].as_str().unwrap_or_default() {
        "Deployment" => {
            let counts = ["replicas", "updatedReplicas", "readyReplicas"];
            observed && counts.iter().all(|count| status[*count] == spec["replicas"])
        }
        "PodDisruptionBudget" | "ValidatingAdmissionPolicy" => observed,
        _ => true,
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
        let mut folder =
            fs::read_dir(tools::directory().join("monitoring-crds")).context("run `make setup`")?;
        let version = folder.find_map(Result::ok).context("no monitoring CRDs: run `make setup`")?.path();
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

    /// Says of all pods of Holdfast's namespace that they run, as no kubelet does it: roll-outs go on then.
    async fn say_that_pods_run(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, NAMESPACE);
        let running =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        for pod in pods.list(&ListParams::default()).await? {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let name = pod.metadata.name.unwrap_or_default();
            if phase == Some("Pending") {
                let patched =
                    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&running)).await;
                match patched {
                    // Replaced in the meantime.
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    other => drop(other?),
                }
            }
        }
        Ok(())
    }

    /// Waits until all objects of the release are there and the controllers have done their part: the pods of the
    /// operator exist, which admission could refuse. Returns what was written to them.
    async fn settled(&self, scenario: &str) -> Result<Objects> {
        let wanted = self.manifest()?;
        let mut pending = None;
        let outcome = until(PATIENCE, "controllers have taken up the release", async || {
            self.say_that_pods_run().await?;
            let all = objects(&self.cluster).await?;
            let mut ours = Objects::new();
            for object in &wanted {
                let key = key(object);
                // An object of a namespaced kind that names no namespace is put into the release's.
                let inside = (key.0.clone(), NAMESPACE.to_owned(), key.2.clone());
                let (key, live) = all
                    .get_key_value(&key)
                    .or_else(|| all.get_key_value(&inside))
                    .with_context(|| format!("{key:?} is not there"))?;
                if !is_settled(live) {
                    pending = Some((key.clone(), live["status"].clone()));
                    return Ok(None);
                }
                ours.insert(key.clone(), written(live));
            }
            Ok(Some(ours))
        });
        let outcome = outcome.await;
        outcome.with_context(|| {
            let events = self.cluster.kubectl(&["get", "events,replicasets,pods", "--all-namespaces"]);
            format!("{scenario}: {pending:?}\n{}", events.unwrap_or_default())
        })
    }

    /// Waits until the API server holds what it held `before`, and Holdfast's CRDs.
    async fn only_crds_are_left(&self, scenario: &str, before: &Objects) -> Result<()> {
        let mut left = Vec::new();
        let outcome = until(PATIENCE, "only the CRDs are left", async || {
            let now = objects(&self.cluster).await?;
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
    let before = objects(&rig.cluster).await?;
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
    let before = objects(&rig.cluster).await?;
    for (position, scenario) in chart::scenarios()?.iter().enumerate() {
        rig.apply(if position == 0 { "install" } else { "upgrade" }, scenario)?;
        let first = rig.settled(&scenario.name).await?;
        // What the scenario before had, and this one has not, is gone.
        let mut strangers = Vec::new();
        let outcome = until(PATIENCE, "what is no longer part of the release is gone", async || {
            let all = objects(&rig.cluster).await?;
            let stays = |key: &Key| {
                before.contains_key(key)
                    || first.contains_key(key)
                    || is_of_the_crds(key)
                    || comes_with_a_release(key)
            };
            strangers = all.into_keys().filter(|key| !stays(key)).collect();
            Ok(strangers.is_empty().then_some(()))
        });
        let outcome = outcome.await;
        outcome.with_context(|| format!("{}: {strangers:?}", scenario.name))?;

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

    // The agents' requests are counted by themselves.
    let schema: Value =
        serde_json::from_str(&cluster.kubectl(&["get", "flowschema", "holdfast-agent", "-o", "json"])?)?;
    let uid = schema["metadata"]["uid"].as_str().context("no UID")?;
    let user = format!("--as=system:serviceaccount:{NAMESPACE}:holdfast-agent");
    until(PATIENCE, "an agent's request is of the agents' priority level", async || {
        let answer = cluster.kubectl_output(&["get", "--raw", "/api/v1/pods", &user, "-v=8"], "")?;
        let headers = String::from_utf8_lossy(&answer.stderr);
        let header =
            headers.lines().find(|line| line.to_lowercase().contains("x-kubernetes-pf-flowschema-uid"));
        Ok(header.is_some_and(|line| line.contains(uid)).then_some(()))
    })
    .await?;

    // What the values leave to others, the notes tell.
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
