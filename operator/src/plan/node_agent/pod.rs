//! The pod of the agent: what it may do on its node, and nothing more.

use std::collections::BTreeMap;

use holdfast_crds::node_agent::NodeAgentSpec;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    HostPathVolumeSource, LocalObjectReference, ObjectFieldSelector, PodSecurityContext, PodSpec, Probe,
    SELinuxOptions, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{AgentSettings, image, log_format, log_level, tolerations};

/// The name of the agent's container.
pub(super) const CONTAINER: &str = "agent";

/// The fewest that work; `tests/tests/images` shows what fails without each.
const CAPABILITIES: [&str; 3] = [
    // Making maps, and loading programs of any kind.
    "BPF",
    // Loading programs that see packets, and attaching programs to cgroups.
    "NET_ADMIN",
    // Loading programs that read the kernel's structures: those on tracepoints and on the hooks of security modules.
    "PERFMON",
];

/// With these it enters the network namespaces of pods and destroys sockets there.
const TO_DESTROY_SOCKETS: [&str; 2] = ["SYS_ADMIN", "SYS_PTRACE"];

fn capabilities(spec: &NodeAgentSpec) -> Vec<String> {
    let more: &[&str] = if spec.destroy_sockets { &TO_DESTROY_SOCKETS } else { &[] };
    CAPABILITIES.iter().chain(more).map(|name| (*name).to_owned()).collect()
}

/// A part of the node that the agent sees at the same path.
struct HostPath {
    name: &'static str,
    path: &'static str,
    kind: &'static str,
    writable: bool,
}

const HOST_PATHS: [HostPath; 3] = [
    // Links and maps are pinned here, and stay when the agent goes.
    HostPath { name: "bpffs", path: "/sys/fs/bpf", kind: "Directory", writable: true },
    // The node's own tree, not the container's part of it: programs are attached at its root. The agent writes below its
    // own container's cgroup only: it probes the kernel in one that it makes there.
    HostPath { name: "cgroup", path: "/sys/fs/cgroup", kind: "Directory", writable: true },
    // The last good policies, for a start without the API server.
    HostPath { name: "state", path: "/var/lib/holdfast", kind: "DirectoryOrCreate", writable: true },
];

/// The labels of nodes that run the agent.
pub(super) fn node_selector(spec: &NodeAgentSpec) -> BTreeMap<String, String> {
    let mut selector = spec.node_selector.clone();
    selector.entry("kubernetes.io/os".to_owned()).or_insert_with(|| "linux".to_owned());
    selector
}

fn from_field(name: &str, field: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: field.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn constant(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn probe(settings: &AgentSettings, path: &str, failures: i32) -> Probe {
    Probe {
        failure_threshold: Some(failures),
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(settings.metrics_port.into()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(10),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

/// The pod's spec. Everything that decides on which nodes it runs is given even where it is empty, so that nobody else
/// can add to it. `name` and `uid` are the NodeAgent's: it owns what the agent writes, so that this goes with it.
pub(super) fn spec(settings: &AgentSettings, name: &str, uid: &str, spec: &NodeAgentSpec) -> PodSpec {
    let args = [
        "run".to_owned(),
        "--source=api".to_owned(),
        "--node-name=$(NODE_NAME)".to_owned(),
        format!("--metrics-addr=0.0.0.0:{}", settings.metrics_port),
        "--state-dir=/var/lib/holdfast".to_owned(),
        // Its own, as it is on the host's network. To look at that of process 1 would take SYS_PTRACE.
        "--host-netns=/proc/self/ns/net".to_owned(),
        // What was refused, for whoever may read the agent's log.
        "--events-file=-".to_owned(),
        format!("--log-level={}", log_level(spec.log_level)),
        format!("--log-format={}", log_format(spec.log_format)),
    ];
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(image(settings, spec)),
        image_pull_policy: Some(settings.pull_policy.as_str().to_owned()),
        args: Some(args.into()),
        env: Some(vec![
            from_field("NODE_NAME", "spec.nodeName"),
            from_field("HOLDFAST_NAMESPACE", "metadata.namespace"),
            constant("HOLDFAST_NODE_AGENT", name),
            constant("HOLDFAST_NODE_AGENT_UID", uid),
        ]),
        ports: Some(vec![ContainerPort {
            container_port: settings.metrics_port.into(),
            host_port: Some(settings.metrics_port.into()),
            name: Some("metrics".to_owned()),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: spec.resources.clone().map(Into::into),
        liveness_probe: Some(probe(settings, "/healthz", 6)),
        readiness_probe: Some(probe(settings, "/readyz", 1)),
        security_context: Some(SecurityContext {
            capabilities: Some(Capabilities {
                add: Some(capabilities(spec)),
                drop: Some(vec!["ALL".to_owned()]),
            }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_user: Some(0),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(
            HOST_PATHS
                .iter()
                .map(|host| VolumeMount {
                    name: host.name.to_owned(),
                    mount_path: host.path.to_owned(),
                    mount_propagation: Some("HostToContainer".to_owned()),
                    read_only: Some(!host.writable),
                    ..VolumeMount::default()
                })
                .collect(),
        ),
        ..Container::default()
    };
    PodSpec {
        containers: vec![container],
        dns_policy: Some("ClusterFirstWithHostNet".to_owned()),
        // A Service of an unlucky name would otherwise set a variable that the agent reads.
        enable_service_links: Some(false),
        // Neither its readiness nor its way to the API server depends on the pod network that it guards.
        host_network: Some(true),
        // It reads the arguments of processes that were refused something, where the kernel could not tell them.
        host_pid: Some(true),
        image_pull_secrets: (!settings.pull_secrets.is_empty()).then(|| {
            settings.pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect()
        }),
        node_selector: Some(node_selector(spec)),
        priority_class_name: Some(
            spec.priority_class_name.clone().unwrap_or_else(|| "system-node-critical".to_owned()),
        ),
        security_context: Some(PodSecurityContext {
            app_armor_profile: Some(AppArmorProfile {
                localhost_profile: None,
                type_: "Unconfined".to_owned(),
            }),
            se_linux_options: Some(SELinuxOptions {
                type_: Some("spc_t".to_owned()),
                ..SELinuxOptions::default()
            }),
            seccomp_profile: Some(SeccompProfile { localhost_profile: None, type_: "Unconfined".to_owned() }),
            ..PodSecurityContext::default()
        }),
        service_account_name: Some(settings.service_account.clone()),
        termination_grace_period_seconds: Some(15),
        tolerations: Some(tolerations(spec)),
        volumes: Some(
            HOST_PATHS
                .iter()
                .map(|host| Volume {
                    name: host.name.to_owned(),
                    host_path: Some(HostPathVolumeSource {
                        path: host.path.to_owned(),
                        type_: Some(host.kind.to_owned()),
                    }),
                    ..Volume::default()
                })
                .collect(),
        ),
        ..PodSpec::default()
    }
}
