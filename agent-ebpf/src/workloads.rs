//! From cgroup paths and what a source knows to the workloads of this node. Pure.
//!
//! Where the kubelet puts pods (its `--cgroup-driver`, pkg/kubelet/cm):
//! cgroupfs `kubepods/burstable/pod<uid>/<container>`, systemd
//! `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid, dashes as underscores>.slice/<container>`, either
//! below a `--cgroup-root`. A container's directory is its id: bare, or `cri-containerd-<id>.scope`, `crio-<id>[.scope]`,
//! `docker-<id>.scope`. A static pod has the hash of its configuration for its UID.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use holdfast_policy::model::{NetScope, Workload};

use crate::facts::{External, Facts, Pod};

/// The part of a cgroup path that names a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPath {
    /// UID with dashes, or the 32 hexadecimal digits of a static pod's configuration hash.
    pub uid: String,
    /// The container's id, where the path goes that deep.
    pub container: Option<String>,
    /// The path is (below) the directory of the runtime's own monitor, no part of the workload.
    pub monitor: bool,
}

/// Finds the pod and container that a cgroup path belongs to.
#[must_use]
pub fn parse(path: &str) -> Option<PodPath> {
    let mut inside = false;
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let uid = loop {
        let part = parts.next()?;
        let slice = part.strip_suffix(".slice");
        // `kubepods`, `kubepods.slice`, and below a cgroup root `kubelet-kubepods.slice`.
        let name = slice.unwrap_or(part);
        inside |= name == "kubepods" || name.ends_with("-kubepods") || name.contains("kubepods-");
        if !inside {
            continue;
        }
        let uid = match slice {
            None => part.strip_prefix("pod").and_then(uid),
            Some(name) => name.rsplit_once("-pod").and_then(|(_, id)| uid(id)),
        };
        if let Some(uid) = uid {
            break uid;
        }
    };
    let leaf = parts.next();
    let monitor = leaf.is_some_and(|leaf| leaf.starts_with("crio-conmon-"));
    Some(PodPath { uid, container: if monitor { None } else { leaf.and_then(container) }, monitor })
}

fn uid(text: &str) -> Option<String> {
    let plain = text.replace('_', "-");
    let digits = plain.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes: Vec<usize> = plain.match_indices('-').map(|(at, _)| at).collect();
    let is_uid = plain.len() == 36 && digits == 32 && dashes == [8, 13, 18, 23];
    let is_hash = plain.len() == 32 && digits == 32;
    (is_uid || is_hash).then_some(plain)
}

fn container(leaf: &str) -> Option<String> {
    let name = leaf.strip_suffix(".scope").unwrap_or(leaf);
    // The id is what follows the last dash; runtimes put their own name before it.
    let id = name.rsplit('-').next()?;
    (id.len() >= 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// A cgroup of the v2 tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Its id: the inode of its directory.
    pub id: u64,
    /// Its path from the root of the tree, with a leading slash.
    pub path: String,
}

/// A workload of this node and the cgroups that are it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Unique on the node and stable: UID, and the container's id.
    pub key: String,
    /// What policies are matched against.
    pub workload: Workload,
    /// Ids of its cgroups, children included.
    pub cgroups: Vec<u64>,
    /// A pod's, whose runtime makes it a mount namespace of its own.
    pub pod: bool,
}

/// Everything on this node that policies can select. What is in or below `spared` is no workload at all.
#[must_use]
pub fn place(facts: &Facts, cgroups: &[Cgroup], spared: &[String]) -> Vec<Placement> {
    let mut by_uid: HashMap<&str, &Pod> = HashMap::new();
    for pod in facts.pods.iter() {
        by_uid.insert(&pod.uid, pod);
        if let Some(hash) = &pod.config_hash {
            by_uid.insert(hash, pod);
        }
    }
    let mut out: BTreeMap<String, Placement> = BTreeMap::new();
    for cgroup in cgroups {
        let own = |own: &String| cgroup.path == *own || cgroup.path.starts_with(&format!("{own}/"));
        if spared.iter().any(own) {
            // Whoever enforces is not judged: else one policy could take it from the API server for good.
            continue;
        }
        let found = match parse(&cgroup.path) {
            Some(path) if path.monitor => None,
            Some(path) => {
                by_uid.get(path.uid.as_str()).map(|pod| (of_pod(pod, path.container.as_deref()), true))
            }
            None => {
                external_of(&facts.externals, &cgroup.path).map(|external| (of_external(external), false))
            }
        };
        if let Some(((key, workload), pod)) = found {
            out.entry(key.clone())
                .or_insert_with(|| Placement { key, workload, cgroups: Vec::new(), pod })
                .cgroups
                .push(cgroup.id);
        }
    }
    out.into_values().collect()
}

fn of_pod(pod: &Pod, container: Option<&str>) -> (String, Workload) {
    let known = container.and_then(|id| pod.containers.iter().find(|c| c.id.as_deref() == Some(id)));
    let key = match known {
        // A container that is not known yet is the pod: rules for any of its containers hold.
        None => pod.uid.clone(),
        Some(found) => format!("{}/{}", pod.uid, found.id.as_deref().unwrap_or_default()),
    };
    let workload = Workload {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        container: known.map(|c| c.name.clone()),
        labels: pod.labels.clone(),
        service_account: pod.service_account.clone(),
        owner: pod.owner.clone(),
        named_ports: pod.named_ports.clone(),
        net: if pod.host_network { NetScope::HostPart } else { NetScope::Own },
    };
    (key, workload)
}

/// Cgroups that a whole-host workload leaves alone, so that the node can still be managed: the agent's, the kubelet's
/// and the container runtimes'.
const SPARED: [&str; 5] = [
    "/system.slice/holdfast-agent.service",
    "/system.slice/kubelet.service",
    "/system.slice/containerd.service",
    "/system.slice/crio.service",
    "/system.slice/docker.service",
];

fn external_of<'a>(externals: &'a [External], path: &str) -> Option<&'a External> {
    let within = |outer: &str| {
        let outer = outer.trim_end_matches('/');
        path == outer || path.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
    };
    let named = externals
        .iter()
        .filter_map(|external| {
            external
                .cgroups
                .iter()
                .filter(|c| within(c))
                .map(|c| (c.len(), external))
                .max_by_key(|(len, _)| *len)
        })
        .max_by_key(|(len, _)| *len)
        .map(|(_, external)| external);
    named.or_else(|| {
        let spared = SPARED.iter().copied().any(within);
        externals.iter().find(|external| external.cgroups.is_empty() && !spared)
    })
}

fn of_external(external: &External) -> (String, Workload) {
    let workload = Workload {
        namespace: external.namespace.clone(),
        name: external.name.clone(),
        uid: external.uid.clone(),
        container: None,
        labels: external.labels.clone(),
        service_account: None,
        owner: None,
        named_ports: external.named_ports.clone(),
        net: if external.cgroups.is_empty() { NetScope::WholeHost } else { NetScope::HostPart },
    };
    (external.uid.clone(), workload)
}

/// Addresses of this node's own pods with the pods' UIDs; the node's own addresses, which hostNetwork pods have, are not
/// among them.
#[must_use]
pub fn local_addresses(facts: &Facts) -> Vec<(IpAddr, String)> {
    facts
        .pods
        .iter()
        .filter(|pod| !pod.host_network)
        .flat_map(|pod| pod.addresses.iter().map(|address| (*address, pod.uid.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Container;

    const UID: &str = "01234567-89ab-cdef-0123-456789abcdef";
    const ID: &str = "aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999";

    fn found(path: &str) -> (String, Option<String>) {
        let path = parse(path).expect("a pod's path");
        (path.uid, path.container)
    }

    #[test]
    fn both_drivers_and_all_runtimes_name_pod_and_container() {
        let underscored = UID.replace('-', "_");
        let pod = (UID.to_owned(), None);
        let container = (UID.to_owned(), Some(ID.to_owned()));
        assert_eq!(found(&format!("/kubepods/burstable/pod{UID}")), pod);
        assert_eq!(found(&format!("/kubepods/pod{UID}/{ID}")), container);
        assert_eq!(found(&format!("/kubepods/besteffort/pod{UID}/crio-{ID}")), container);
        let slice =
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice");
        assert_eq!(found(&slice), pod);
        for scope in ["cri-containerd", "crio", "docker"] {
            assert_eq!(found(&format!("{slice}/{scope}-{ID}.scope")), container);
            assert_eq!(found(&format!("{slice}/{scope}-{ID}.scope/init/deep")), container);
        }
        assert_eq!(
            found(&format!("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{underscored}.slice")),
            pod
        );
        assert_eq!(found(&format!("/kubelet/kubepods/pod{UID}")), pod);
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            found(&format!("/kubepods/burstable/pod{hash}/{ID}")),
            (hash.to_owned(), Some(ID.to_owned()))
        );
    }

    #[test]
    fn other_paths_are_no_pods() {
        for path in [
            "/",
            "/system.slice/ssh.service",
            "/kubepods",
            "/kubepods/burstable",
            "/podsomething/x",
            "/kubepods/pod-not-a-uid",
            &format!("/user/pod{UID}"),
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    #[test]
    fn the_runtime_s_monitor_is_no_part_of_the_workload() {
        let path = parse(&format!("/kubepods/pod{UID}/crio-conmon-{ID}")).expect("a pod's path");
        assert!(path.monitor);
    }

    fn external(name: &str, cgroups: &[&str]) -> External {
        External {
            namespace: "bank".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            cgroups: cgroups.iter().map(|path| (*path).to_owned()).collect(),
            ..External::default()
        }
    }

    fn owner_of(facts: &Facts, path: &str) -> Option<String> {
        let cgroups = [Cgroup { id: 7, path: path.to_owned() }];
        let placed = place(facts, &cgroups, &["/user.slice/agent".to_owned()]);
        assert!(placed.iter().all(|placement| placement.cgroups == [7]));
        placed.into_iter().next().map(|placement| placement.workload.name)
    }

    #[test]
    fn a_cgroup_belongs_to_the_nearest_workload_and_a_whole_host_leaves_the_node_s_services_alone() {
        let externals = vec![
            external("host", &[]),
            external("app", &["/system.slice"]),
            external("db", &["/system.slice/db.service"]),
        ];
        let facts = Facts { externals: externals.into(), ..Facts::default() };
        assert_eq!(owner_of(&facts, "/system.slice/db.service/child").as_deref(), Some("db"));
        assert_eq!(owner_of(&facts, "/system.slice/db.services").as_deref(), Some("app"));
        assert_eq!(owner_of(&facts, "/user.slice").as_deref(), Some("host"));
        assert_eq!(owner_of(&facts, "/").as_deref(), Some("host"));
        assert_eq!(owner_of(&facts, "/user.slice/agent/below"), None);
        assert_eq!(owner_of(&facts, "/init.scope").as_deref(), Some("host"));
        assert_eq!(owner_of(&facts, "/system.slice/kubelet.service").as_deref(), Some("app"));
    }

    #[test]
    fn a_container_that_is_not_known_yet_is_its_pod() {
        let pod = Pod {
            uid: UID.to_owned(),
            containers: vec![Container { name: "api".to_owned(), id: Some(ID.to_owned()) }],
            ..Pod::default()
        };
        let facts = Facts { pods: vec![pod].into(), ..Facts::default() };
        let other = ID.replace('a', "0");
        let paths = [
            format!("/kubepods/pod{UID}"),
            format!("/kubepods/pod{UID}/{ID}"),
            format!("/kubepods/pod{UID}/{other}"),
        ];
        let cgroups: Vec<_> = (1..).zip(paths).map(|(id, path)| Cgroup { id, path }).collect();
        let placed = place(&facts, &cgroups, &[]);
        assert_eq!(placed.len(), 2);
        assert_eq!((placed[0].workload.container.as_deref(), &placed[0].cgroups[..]), (None, &[1, 3][..]));
        assert_eq!(
            (placed[1].workload.container.as_deref(), &placed[1].cgroups[..]),
            (Some("api"), &[2][..])
        );
    }
}
