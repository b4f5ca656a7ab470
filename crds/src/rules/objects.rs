//! Whole objects.

use serde_json::Value;

use super::{Rule, has, list};

/// About the spec of a policy.
pub(crate) fn policy() -> Vec<Rule> {
    vec![
        Rule::new(
            "",
            "has none of network, syscalls, processes, files and capabilities, so it says nothing",
            "has(self.network) || has(self.syscalls) || has(self.processes) || has(self.files) || has(self.capabilities)",
            |value| has(value, "network") || of_containers(value),
        ),
        Rule::new(
            ".containers",
            "concerns syscalls, processes, files and capabilities only, and there are none; network rules act on the whole pod",
            "!has(self.containers) || has(self.syscalls) || has(self.processes) || has(self.files) || has(self.capabilities)",
            |value| !has(value, "containers") || of_containers(value),
        ),
    ]
}

/// Whether there are rules that act on containers.
fn of_containers(value: &Value) -> bool {
    ["syscalls", "processes", "files", "capabilities"].iter().any(|part| has(value, part))
}

/// About the spec of an ExternalWorkload.
pub(crate) fn external_workload() -> Vec<Rule> {
    vec![
        Rule::new(
            "",
            "has neither node nor addresses, so it is nobody's",
            "has(self.node) || (has(self.addresses) && self.addresses.size() > 0)",
            |value| has(value, "node") || !list(value, "addresses").is_empty(),
        ),
        Rule::new(
            ".cgroups",
            "concerns the agent that runs there, and needs node",
            "has(self.node) || !has(self.cgroups) || self.cgroups.size() == 0",
            |value| has(value, "node") || list(value, "cgroups").is_empty(),
        ),
    ]
}

/// About one cgroup path.
pub(crate) fn cgroup() -> Vec<Rule> {
    vec![Rule::new(
        "",
        "is no path of a cgroup: it begins with '/', names a cgroup below the root, and has no empty part, no '.' and no \
         '..'; leave cgroups empty to mean the whole host",
        r"self.matches(r'^(/[^/]+)+$') && !self.matches(r'/\.\.?(/|$)')",
        |value| {
            let path = value.as_str().unwrap_or_default();
            path.strip_prefix('/')
                .is_some_and(|parts| parts.split('/').all(|part| !matches!(part, "" | "." | "..")))
        },
    )]
}

/// About the spec of a NodeAgent.
pub(crate) fn node_agent() -> Vec<Rule> {
    vec![Rule::new(
        ".imageDigest",
        "excludes imageTag: a digest names the image by itself",
        "!has(self.imageTag) || !has(self.imageDigest)",
        |value: &Value| !has(value, "imageTag") || !has(value, "imageDigest"),
    )]
}
