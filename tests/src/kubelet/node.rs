//! The node's own objects: its Node, and the Lease by which the control plane knows that it lives.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{Inner, place};
use crate::{demo::node as machine, process::POLL};

/// How often a kubelet says that it lives.
const BEAT: Duration = Duration::from_secs(5);
/// How long a new node may take until the control plane takes it for ready.
const READY: Duration = Duration::from_mins(1);

/// Makes the Node, or takes up the one that is there, and says how it is.
pub(super) async fn register(inner: &Inner) -> Result<()> {
    let (name, number) = (&inner.options.name, inner.number);
    let mut labels = inner.options.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let taints = &inner.options.taints;
    let node: Node = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "podCIDR": format!("10.77.{number}.0/24"),
            "podCIDRs": [format!("10.77.{number}.0/24"), format!("fd77:0:0:{number:x}::/64")],
            "taints": taints,
        },
    }))?;
    let nodes: Api<Node> = Api::all(inner.client.clone());
    match nodes.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => drop(other?),
    }
    report(inner).await
}

fn arch() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

async fn report(inner: &Inner) -> Result<()> {
    let now = Timestamp::now();
    let conditions: Vec<_> = [
        ("Ready", "True", "KubeletReady"),
        ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID"),
    ]
    .into_iter()
    .map(|(kind, status, reason)| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    })
    .collect();
    let mut addresses: Vec<_> = place::addresses(inner.number, 1)
        .into_iter()
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": inner.options.name}));
    // Where the API server finds this kubelet.
    addresses.push(json!({"type": "InternalDNS", "address": "localhost"}));
    let resources = json!({"cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    let status = json!({"status": {
        "addresses": addresses,
        "allocatable": resources,
        "capacity": resources,
        "conditions": conditions,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": inner.port}},
        "nodeInfo": {
            "bootID": machine::boot_id()?, "kernelVersion": machine::kernel(), "architecture": arch(),
            "operatingSystem": "linux", "machineID": inner.options.name, "systemUUID": inner.options.name,
            "osImage": "Debian GNU/Linux", "containerRuntimeVersion": "crun://1", "kubeletVersion": "v1.37.0",
            "kubeProxyVersion": "",
        },
    }});
    let nodes: Api<Node> = Api::all(inner.client.clone());
    nodes.patch_status(&inner.options.name, &PatchParams::default(), &Patch::Strategic(status)).await?;
    Ok(())
}

/// Renews the node's Lease for as long as it lives.
pub(super) async fn heartbeat(inner: Arc<Inner>) {
    let leases: Api<Lease> = Api::namespaced(inner.client.clone(), "kube-node-lease");
    let mut interval = tokio::time::interval(BEAT);
    loop {
        interval.tick().await;
        let name = &inner.options.name;
        let lease = Lease {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(40),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        if let Err(error) = renew(&leases, name, &lease).await {
            inner.note(&format!("the node's Lease: {error:#}"));
        }
    }
}

async fn renew(leases: &Api<Lease>, name: &str, lease: &Lease) -> Result<()> {
    let patched = leases.patch(name, &PatchParams::default(), &Patch::Merge(lease)).await;
    match patched {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            leases.create(&PostParams::default(), lease).await?;
        }
        other => drop(other?),
    }
    Ok(())
}

/// Waits until nothing keeps pods off it that the node itself should not have.
pub(super) async fn wait_ready(inner: &Inner) -> Result<()> {
    let nodes: Api<Node> = Api::all(inner.client.clone());
    let began = Instant::now();
    loop {
        let node = nodes.get(&inner.options.name).await?;
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        if !taints.iter().any(|taint| taint.key == "node.kubernetes.io/not-ready") {
            return Ok(());
        }
        ensure!(
            began.elapsed() < READY,
            "the node lifecycle controller does not take the new node for ready"
        );
        tokio::time::sleep(POLL).await;
    }
}
