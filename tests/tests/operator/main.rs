//! The operator against a real API server.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result};
use holdfast_crds::{
    AddressSlice, ExternalWorkload, WorkloadPolicy, network::Entity, policy_status::PolicyStatus,
};
use holdfast_tests::{
    controlplane::{ControlPlane, Options},
    operator::{self, Operator},
    wait::until,
};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

mod policies;

const PATIENCE: Duration = Duration::from_secs(30);

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("the test's own object parses")
}

/// A control plane with the CRDs, one operator, and a client that may do everything.
async fn rig(flags: &[&str]) -> Result<(ControlPlane, Operator, Client)> {
    let cluster = ControlPlane::start(Options::default()).await?;
    operator::prepare(&cluster)?;
    let client = cluster.client().await?;
    let mut operator = Operator::start(&cluster, "operator", flags)?;
    operator.wait_ready().await?;
    Ok((cluster, operator, client))
}

async fn namespace(client: &Client, name: &str, labels: Value) -> Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    api.create(&PostParams::default(), &object(json!({"metadata": {"name": name, "labels": labels}})))
        .await?;
    Ok(())
}

/// A node with a range of pods, and a boot id as its kubelet would report it.
async fn node(client: &Client, name: &str, cidr: &str, address: &str) -> Result<Node> {
    let api: Api<Node> = Api::all(client.clone());
    let spec = json!({"podCIDR": cidr, "podCIDRs": [cidr]});
    api.create(
        &PostParams::default(),
        &object(json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}, "spec": spec})),
    )
    .await?;
    boot(client, name, address, "boot-1").await
}

async fn boot(client: &Client, name: &str, address: &str, id: &str) -> Result<Node> {
    let api: Api<Node> = Api::all(client.clone());
    let info = json!({"bootID": id, "machineID": "", "systemUUID": "", "kernelVersion": "", "osImage": "",
        "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "linux",
        "architecture": "amd64"});
    let status =
        json!({"status": {"nodeInfo": info, "addresses": [{"type": "InternalIP", "address": address}]}});
    Ok(api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?)
}

/// A pod of one container, bound to a node, without an address.
fn pod(name: &str, node: &str, labels: &Value) -> Pod {
    object(json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [
            {"name": "main", "image": "registry.test/none", "ports": [{"name": "http", "containerPort": 8080}]}]}
    }))
}

async fn run_pod(client: &Client, namespace: &str, pod: &Pod, address: &str) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), pod).await?;
    set_phase(client, namespace, &pod.name_any(), "Running", address).await
}

async fn set_phase(client: &Client, namespace: &str, name: &str, phase: &str, address: &str) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let status = json!({"status": {"phase": phase, "podIP": address, "podIPs": [{"ip": address}]}});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

/// What an address is published as.
#[derive(Clone, Debug, PartialEq)]
struct Published {
    entities: Vec<Entity>,
    node: Option<String>,
    id: Option<u32>,
    /// Namespace, service account and labels.
    identity: Option<(String, Option<String>, BTreeMap<String, String>)>,
}

/// Everything that is published. An address that stands twice is an error.
async fn published(client: &Client) -> Result<BTreeMap<String, Published>> {
    let api: Api<AddressSlice> = Api::all(client.clone());
    let mut all = BTreeMap::new();
    for slice in api.list(&ListParams::default()).await? {
        let spec = &slice.spec;
        assert!(
            spec.addresses.len() <= 100 && spec.identities.len() <= 100,
            "{} is too long",
            slice.name_any()
        );
        assert!(serde_json::to_vec(&slice)?.len() <= 64 * 1024, "{} is too large", slice.name_any());
        for entry in &spec.addresses {
            let listed = spec.identities.iter().find(|identity| Some(identity.id) == entry.identity);
            assert_eq!(
                listed.is_some(),
                entry.identity.is_some(),
                "{}: its identity is not listed",
                entry.address
            );
            let identity = listed.map(|identity| {
                (identity.namespace.clone(), identity.service_account.clone(), identity.labels.clone())
            });
            let published = Published {
                entities: entry.entities.clone(),
                node: entry.node.clone(),
                id: entry.identity,
                identity,
            };
            let twice = all.insert(entry.address.to_string(), published);
            assert!(twice.is_none(), "{} stands in two places", entry.address);
        }
    }
    Ok(all)
}

/// Waits until exactly these addresses are published.
async fn wait_published(client: &Client, addresses: &[&str]) -> Result<BTreeMap<String, Published>> {
    let wanted: BTreeSet<&str> = addresses.iter().copied().collect();
    until(PATIENCE, &format!("just {wanted:?} are published"), async || {
        let all = published(client).await?;
        let seen: BTreeSet<&str> = all.keys().map(String::as_str).collect();
        Ok((seen == wanted).then(|| all.clone()))
    })
    .await
}

fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Waits until a condition of a WorkloadPolicy has this status and reason.
async fn wait_policy(
    client: &Client,
    name: &str,
    kind: &str,
    status: &str,
    reason: &str,
) -> Result<PolicyStatus> {
    let api: Api<WorkloadPolicy> = Api::namespaced(client.clone(), "shop");
    let mut last = None;
    let waited = until(PATIENCE, &format!("{kind} of {name} is {status}, {reason}"), async || {
        let policy = api.get(name).await?;
        let now = policy.status.clone().unwrap_or_default();
        last = Some(now.clone());
        Ok(condition(&now.conditions, kind)
            .filter(|now| now.status == status && now.reason == reason)
            .map(|_| policy.status.clone().unwrap_or_default()))
    })
    .await;
    waited.with_context(|| format!("last seen: {last:#?}"))
}

fn policy(name: &str) -> WorkloadPolicy {
    object(json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "network": {"ingress": {}}}
    }))
}

#[tokio::test]
async fn addresses_are_published_by_the_rules_and_keep_their_numbers_over_a_restart() -> Result<()> {
    let (cluster, mut operator, client) = rig(&[]).await?;
    namespace(&client, "shop", json!({"team": "shop"})).await?;
    node(&client, "n1", "10.244.1.0/24", "192.0.2.1").await?;
    let web = |name: &str, hash: &str| pod(name, "n1", &json!({"app": "web", "pod-template-hash": hash}));
    run_pod(&client, "shop", &web("web-1", "a"), "10.244.1.1").await?;
    run_pod(&client, "shop", &web("web-2", "b"), "10.244.1.2").await?;
    run_pod(&client, "shop", &pod("db-1", "n1", &json!({"app": "db"})), "10.244.1.3").await?;
    // Not published: outside the node's range, contested, finished, in the host's network.
    run_pod(&client, "shop", &pod("stray", "n1", &json!({})), "10.9.9.9").await?;
    run_pod(&client, "shop", &pod("one", "n1", &json!({})), "10.244.1.9").await?;
    run_pod(&client, "shop", &pod("other", "n1", &json!({})), "10.244.1.9").await?;
    run_pod(&client, "shop", &pod("job", "n1", &json!({})), "10.244.1.10").await?;
    set_phase(&client, "shop", "job", "Succeeded", "10.244.1.10").await?;
    let mut host = pod("host", "n1", &json!({}));
    let spec = host.spec.as_mut().context("a spec")?;
    spec.host_network = Some(true);
    spec.containers[0].ports = None;
    run_pod(&client, "shop", &host, "192.0.2.1").await?;

    let all = wait_published(&client, &["10.244.1.1", "10.244.1.2", "10.244.1.3", "192.0.2.1"]).await?;
    let web = &all["10.244.1.1"];
    assert_eq!(web.id, all["10.244.1.2"].id, "the template's hash makes no identity");
    assert_ne!(web.id, all["10.244.1.3"].id);
    assert!(web.id >= Some(256));
    assert_eq!((web.entities.as_slice(), web.node.as_deref()), (&[Entity::Cluster][..], Some("n1")));
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    assert_eq!(web.identity, Some(("shop".to_owned(), Some("default".to_owned()), labels)));
    let host = &all["192.0.2.1"];
    assert_eq!((host.entities.as_slice(), host.id), (&[Entity::Host, Entity::Cluster][..], None));

    assert_eq!(operator.metric("holdfast_addresses").await?, Some(4.0));
    assert_eq!(operator.metric("holdfast_identities").await?, Some(2.0));
    for (reason, count) in [("Contested", 1.0), ("OutsidePodCIDR", 1.0), ("NodeAddress", 0.0)] {
        let series = format!("holdfast_addresses_unpublished{{reason=\"{reason}\"}}");
        assert_eq!(operator.metric(&series).await?, Some(count), "{reason}");
    }

    // The contest ends when one of the two goes.
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    pods.delete("other", &DeleteParams::default().grace_period(0)).await?;
    let before =
        wait_published(&client, &["10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.1.9", "192.0.2.1"])
            .await?;

    let slices: Api<AddressSlice> = Api::all(client.clone());
    let versions = async || -> Result<Vec<_>> {
        Ok(slices.list(&ListParams::default()).await?.iter().map(ResourceExt::resource_version).collect())
    };
    let versions_before = versions().await?;
    operator.kill()?;
    pods.delete("db-1", &DeleteParams::default().grace_period(0)).await?;
    let mut second = Operator::start(&cluster, "second", &[])?;
    second.wait_ready().await?;
    let after = wait_published(&client, &["10.244.1.1", "10.244.1.2", "10.244.1.9", "192.0.2.1"]).await?;
    for (address, published) in &after {
        assert_eq!(before[address], *published, "{address}");
    }
    let changed = versions().await?.iter().zip(&versions_before).filter(|(now, then)| now != then).count();
    assert_eq!(changed, 1, "only the slice that lost an address was written");

    // Somebody else's hands: a slice deleted, a slice emptied, a slice added.
    let name = slices
        .list(&ListParams::default())
        .await?
        .iter()
        .find(|slice| !slice.spec.addresses.is_empty())
        .context("a slice with addresses")?
        .name_any();
    slices.delete(&name, &DeleteParams::default()).await?;
    wait_published(&client, &["10.244.1.1", "10.244.1.2", "10.244.1.9", "192.0.2.1"]).await?;
    let empty = json!({"addresses": [], "identities": []});
    slices.patch(&name, &PatchParams::default(), &Patch::Merge(&empty)).await?;
    assert_eq!(
        wait_published(&client, &["10.244.1.1", "10.244.1.2", "10.244.1.9", "192.0.2.1"]).await?,
        after
    );
    let stranger: AddressSlice = object(json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "AddressSlice", "metadata": {"name": "mine"},
        "addresses": [{"address": "203.0.113.9", "entities": ["Cluster"]}]}));
    slices.create(&PostParams::default(), &stranger).await?;
    until(PATIENCE, "the stranger's slice is gone", async || {
        Ok(slices.get_opt("mine").await?.is_none().then_some(()))
    })
    .await?;
    second.check()?;
    Ok(())
}

#[tokio::test]
async fn services_are_published_with_their_ready_backends() -> Result<()> {
    let (_cluster, mut operator, client) = rig(&[]).await?;
    namespace(&client, "shop", json!({})).await?;
    let services: Api<Service> = Api::namespaced(client.clone(), "shop");
    let service = services
        .create(
            &PostParams::default(),
            &object(json!({"metadata": {"name": "web"}, "spec": {"ports": [
                {"name": "http", "port": 80, "targetPort": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]}})),
        )
        .await?;
    let address = service.spec.context("a spec")?.cluster_ip.context("an address")?;
    let endpoints: Api<EndpointSlice> = Api::namespaced(client.clone(), "shop");
    let slice = |ready: &[(&str, Option<bool>)]| -> EndpointSlice {
        let endpoints: Vec<Value> = ready
            .iter()
            .map(|(address, ready)| json!({"addresses": [address], "conditions": {"ready": ready}}))
            .collect();
        object(json!({"metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080}, {"name": "other", "port": 1}]}))
    };
    endpoints
        .create(
            &PostParams::default(),
            &slice(&[("10.244.1.2", None), ("10.244.1.1", Some(true)), ("10.244.1.3", Some(false))]),
        )
        .await?;
    let slices: Api<AddressSlice> = Api::all(client.clone());
    let backends = async || -> Result<Option<BTreeMap<u16, Vec<String>>>> {
        let all = slices.list(&ListParams::default()).await?;
        let entry =
            all.iter().flat_map(|slice| &slice.spec.services).find(|entry| entry.name == "web").cloned();
        Ok(entry.map(|entry| {
            assert_eq!((entry.address.to_string(), entry.part, entry.parts), (address.clone(), 0, 1));
            let text = |port: &holdfast_crds::address_slice::ServicePort| {
                port.backends.iter().map(|backend| format!("{}:{}", backend.address, backend.port)).collect()
            };
            entry.ports.iter().map(|port| (port.port, text(port))).collect()
        }))
    };
    let both = BTreeMap::from([
        (80, vec!["10.244.1.1:8080".to_owned(), "10.244.1.2:8080".to_owned()]),
        (53, Vec::new()),
    ]);
    until(PATIENCE, "both ready backends are published", async || {
        Ok((backends().await? == Some(both.clone())).then_some(()))
    })
    .await?;
    let mut one = slice(&[("10.244.1.1", Some(true))]);
    one.metadata.resource_version = endpoints.get("web-1").await?.resource_version();
    endpoints.replace("web-1", &PostParams::default(), &one).await?;
    let one = BTreeMap::from([(80, vec!["10.244.1.1:8080".to_owned()]), (53, Vec::new())]);
    until(PATIENCE, "one backend is published", async || {
        Ok((backends().await? == Some(one.clone())).then_some(()))
    })
    .await?;
    services.delete("web", &DeleteParams::default()).await?;
    until(PATIENCE, "the service is gone", async || Ok(backends().await?.is_none().then_some(()))).await?;
    operator.check()?;
    Ok(())
}

#[tokio::test]
async fn an_external_workload_may_not_claim_what_is_the_clusters() -> Result<()> {
    let (_cluster, mut operator, client) = rig(&["--pod-cidr", "10.250.0.0/16"]).await?;
    namespace(&client, "bank", json!({})).await?;
    node(&client, "n1", "10.244.1.0/24", "192.0.2.1").await?;
    let api: Api<ExternalWorkload> = Api::namespaced(client.clone(), "bank");
    let workload = |name: &str, node: Option<&str>, address: &str| -> ExternalWorkload {
        object(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "ExternalWorkload",
            "metadata": {"name": name, "namespace": "bank", "labels": {"app": name}},
            "spec": {"node": node, "addresses": [address], "ports": [{"name": "http", "port": 8080}]}}))
    };
    let judged = async |name: &str, status: &str, reason: &str| {
        until(PATIENCE, &format!("{name} is Accepted={status}, {reason}"), async || {
            let object = api.get(name).await?;
            let conditions = object.status.unwrap_or_default().conditions;
            let right = |now: &Condition| now.status == status && now.reason == reason;
            Ok(condition(&conditions, "Accepted").filter(|now| right(now)).map(|_| ()))
        })
        .await
    };
    for (name, node, address, reason) in [
        ("node-name", Some("n1"), "203.0.113.1", "NodeInCluster"),
        ("pod-range", None, "10.244.1.7", "PodRange"),
        ("flag-range", None, "10.250.3.4", "PodRange"),
        ("service-range", None, "10.96.200.1", "ServiceRange"),
        ("node-address", None, "192.0.2.1", "NodeAddress"),
    ] {
        api.create(&PostParams::default(), &workload(name, node, address)).await?;
        judged(name, "False", reason).await?;
    }
    api.create(&PostParams::default(), &workload("ledger", Some("vm-17"), "198.51.100.17")).await?;
    judged("ledger", "True", "Accepted").await?;
    api.create(&PostParams::default(), &workload("thief", None, "198.51.100.17")).await?;
    judged("thief", "False", "AlreadyClaimed").await?;
    let all = wait_published(&client, &["192.0.2.1", "198.51.100.17"]).await?;
    let ledger = &all["198.51.100.17"];
    let labels = BTreeMap::from([("app".to_owned(), "ledger".to_owned())]);
    assert_eq!(ledger.identity, Some(("bank".to_owned(), None, labels)));
    assert_eq!((ledger.entities.as_slice(), ledger.node.as_deref()), (&[][..], Some("vm-17")));
    // The address passes on when its holder goes, and is lost when a node takes its name.
    api.delete("ledger", &DeleteParams::default()).await?;
    judged("thief", "True", "Accepted").await?;
    node(&client, "n2", "198.51.100.0/24", "192.0.2.2").await?;
    judged("thief", "False", "PodRange").await?;
    wait_published(&client, &["192.0.2.1", "192.0.2.2"]).await?;
    operator.check()?;
    Ok(())
}
