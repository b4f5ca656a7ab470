use super::*;

/// What every planner of these tests is started with.
pub(in crate::plan) fn settings() -> AgentSettings {
    AgentSettings {
        namespace: "holdfast-system".to_owned(),
        image_repository: "registry.test/agent".to_owned(),
        default_tag: "v1".to_owned(),
        pull_secrets: Vec::new(),
        pull_policy: crate::args::PullPolicy::IfNotPresent,
        service_account: "holdfast-agent".to_owned(),
        metrics_port: 9810,
    }
}

fn spec(json: serde_json::Value) -> NodeAgentSpec {
    serde_json::from_value(json).unwrap()
}

fn node(labels: &[(&str, &str)], taints: &[(&str, &str, &str)]) -> NodeFacts {
    let mut labels: BTreeMap<String, String> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    labels.entry("kubernetes.io/os".to_owned()).or_insert_with(|| "linux".to_owned());
    let taints = taints
        .iter()
        .map(|(key, value, effect)| Taint {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
            effect: (*effect).to_owned(),
        })
        .collect();
    NodeFacts { labels, taints, ..NodeFacts::default() }
}

#[test]
fn a_digest_goes_before_a_tag_and_a_tag_before_the_operators_own() {
    let image_of = |json| {
        let set = daemon_set(&settings(), "default", "uid", &spec(json));
        set.spec.template.spec.unwrap().containers[0].image.clone().unwrap()
    };
    assert_eq!(image_of(serde_json::json!({})), "registry.test/agent:v1");
    assert_eq!(image_of(serde_json::json!({"imageTag": "v2"})), "registry.test/agent:v2");
    assert_eq!(image_of(serde_json::json!({"imageDigest": "sha256:ab"})), "registry.test/agent@sha256:ab");
}

#[test]
fn only_an_agent_that_destroys_sockets_may_enter_the_namespaces_of_others() {
    let added = |json| {
        let set = daemon_set(&settings(), "default", "uid", &spec(json));
        let pod = set.spec.template.spec.unwrap();
        pod.containers[0].security_context.clone().unwrap().capabilities.unwrap().add.unwrap()
    };
    let least = ["BPF", "NET_ADMIN", "PERFMON"];
    assert_eq!(added(serde_json::json!({})), least);
    assert_eq!(added(serde_json::json!({"destroySockets": false})), least);
    let more = [&least[..], &["SYS_ADMIN", "SYS_PTRACE"]].concat();
    assert_eq!(added(serde_json::json!({"destroySockets": true})), more);
}

#[test]
fn the_agent_may_do_what_it_needs_and_is_not_privileged() {
    let set = daemon_set(&settings(), "default", "uid", &spec(serde_json::json!({"logLevel": "Debug"})));
    let pod = set.spec.template.spec.unwrap();
    let container = &pod.containers[0];
    let security = container.security_context.clone().unwrap();
    assert_eq!((security.privileged, security.read_only_root_filesystem), (Some(false), Some(true)));
    assert_eq!(security.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
    assert_eq!((pod.host_network, pod.host_pid), (Some(true), Some(true)));
    assert!(container.args.as_ref().unwrap().contains(&"--host-netns=/proc/self/ns/net".to_owned()));
    let mounts: Vec<&str> =
        container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str()).collect();
    assert_eq!(mounts, ["/sys/fs/bpf", "/sys/fs/cgroup", "/var/lib/holdfast"]);
    assert!(container.args.as_ref().unwrap().contains(&"--log-level=debug".to_owned()));
    assert!(container.args.as_ref().unwrap().contains(&"--events-file=-".to_owned()));
    let owner = &set.metadata.owner_references.unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.block_owner_deletion), ("NodeAgent", Some(false)));
}

#[test]
fn the_image_is_fetched_as_the_operator_was_told() {
    let settings = AgentSettings {
        pull_secrets: vec!["one".to_owned(), "two".to_owned()],
        pull_policy: PullPolicy::Always,
        ..settings()
    };
    let set = daemon_set(&settings, "default", "uid", &spec(serde_json::json!({})));
    let pod = set.spec.template.spec.unwrap();
    assert_eq!(pod.containers[0].image_pull_policy.as_deref(), Some("Always"));
    let secrets: Vec<String> =
        pod.image_pull_secrets.into_iter().flatten().map(|secret| secret.name).collect();
    assert_eq!(secrets, ["one", "two"]);
}

#[test]
fn the_agent_knows_its_node_and_who_owns_what_it_writes() {
    let set = daemon_set(&settings(), "default", "the-uid", &spec(serde_json::json!({})));
    let pod = set.spec.template.spec.unwrap();
    let env = serde_json::to_value(&pod.containers[0].env).unwrap();
    let of = |name: &str| env.as_array().unwrap().iter().find(|var| var["name"] == name).unwrap().clone();
    assert_eq!(of("HOLDFAST_NODE_AGENT")["value"], "default");
    assert_eq!(of("HOLDFAST_NODE_AGENT_UID")["value"], "the-uid");
    assert_eq!(of("NODE_NAME")["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
    assert_eq!(of("HOLDFAST_NAMESPACE")["valueFrom"]["fieldRef"]["fieldPath"], "metadata.namespace");
    assert_eq!(pod.enable_service_links, Some(false));
}

#[test]
fn a_node_is_eligible_as_the_daemon_set_controller_decides() {
    let all = spec(serde_json::json!({}));
    assert!(eligible(&all, &node(&[], &[("dedicated", "db", "NoSchedule"), ("x", "", "NoExecute")])));
    assert!(!eligible(&all, &node(&[("kubernetes.io/os", "windows")], &[])));
    let some = spec(serde_json::json!({"nodeSelector": {"pool": "a"}, "tolerations": [
        {"key": "dedicated", "operator": "Equal", "value": "db", "effect": "NoSchedule"},
        {"key": "gpu", "operator": "Exists"}]}));
    let pool = [("pool", "a")];
    for (labels, taints, wanted) in [
        (&[][..], &[][..], false),
        (&pool, &[], true),
        (&pool, &[("dedicated", "db", "NoSchedule")], true),
        (&pool, &[("dedicated", "web", "NoSchedule")], false),
        (&pool, &[("dedicated", "db", "NoExecute")], false),
        (&pool, &[("gpu", "any", "NoExecute")], true),
        (&pool, &[("other", "", "PreferNoSchedule")], true),
        (&pool, &[("node.kubernetes.io/unschedulable", "", "NoSchedule")], true),
        (&pool, &[("node.kubernetes.io/not-ready", "", "NoExecute")], true),
        (&pool, &[("node.kubernetes.io/not-ready", "", "NoSchedule")], false),
    ] {
        assert_eq!(eligible(&some, &node(labels, taints)), wanted, "{labels:?} {taints:?}");
    }
    let nothing = spec(serde_json::json!({"tolerations": []}));
    assert!(!eligible(&nothing, &node(&[], &[("x", "", "NoSchedule")])), "an empty list tolerates nothing");
}
