//! How workloads and Services are named in a question.

use super::scene;

/// The short names that kubectl has for kinds.
const SHORT: [(&str, &str); 8] = [
    ("po", "Pod"),
    ("deploy", "Deployment"),
    ("rs", "ReplicaSet"),
    ("sts", "StatefulSet"),
    ("ds", "DaemonSet"),
    ("rc", "ReplicationController"),
    ("svc", "Service"),
    ("ewl", "ExternalWorkload"),
];

/// What names a workload or Service.
pub(super) struct Written<'a> {
    pub(super) namespace: &'a str,
    pub(super) kind: Option<&'a str>,
    pub(super) name: &'a str,
}

impl<'a> Written<'a> {
    /// `NS/NAME` and `NS/KIND/NAME`; where there is a namespace to look in, `NAME` and `KIND/NAME` too.
    pub(super) fn parse(text: &'a str, namespace: Option<&'a str>) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (namespace, kind, name) = match (&parts[..], namespace) {
            ([name], Some(namespace)) => (namespace, None, *name),
            ([kind, name], Some(namespace)) if scene::is_kind(long(kind)) => (namespace, Some(*kind), *name),
            ([namespace, name], _) => (*namespace, None, *name),
            ([namespace, kind, name], _) => (*namespace, Some(*kind), *name),
            _ => return Err(format!("{text:?} is neither NAMESPACE/NAME nor an address")),
        };
        Ok(Self { namespace, kind: kind.map(long), name })
    }
}

/// The name of a kind, where it is short.
fn long(kind: &str) -> &str {
    SHORT.iter().find(|(short, _)| kind.eq_ignore_ascii_case(short)).map_or(kind, |(_, long)| long)
}
