//! A container's environment, and what the downward API says.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret};
use kube::{Api, ResourceExt};

use super::{
    bundle,
    container::Trouble,
    place::{self, PodNetwork},
    pod::PodRun,
};

/// The environment, in order; a name that comes twice keeps its last value.
pub(super) async fn of(pod: &PodRun, container: &Container) -> Result<Vec<(String, String)>, Trouble> {
    let made = make(pod, container).await;
    made.map_err(|error| Trouble::new("CreateContainerConfigError", format!("{error:#}")))
}

async fn make(pod: &PodRun, container: &Container) -> Result<Vec<(String, String)>> {
    let object = pod.object();
    let inner = &pod.inner;
    let mut known = BTreeMap::from([
        ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOSTNAME".to_owned(), hostname(pod)),
        ("KUBERNETES_SERVICE_HOST".to_owned(), "127.0.0.1".to_owned()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), inner.api_port.to_string()),
    ]);
    let image = container.image.as_deref().unwrap_or_default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            for (key, value) in config_map(pod, &reference.name, optional).await? {
                known.insert(format!("{prefix}{key}"), String::from_utf8(value)?);
            }
        }
        if let Some(reference) = &source.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            for (key, value) in secret(pod, &reference.name, optional).await? {
                known.insert(format!("{prefix}{key}"), String::from_utf8(value)?);
            }
        }
    }
    for EnvVar { name, value, value_from } in container.env.iter().flatten() {
        let value = match value_from {
            Some(source) => {
                from(pod, &object, container, source).await.with_context(|| format!("env {name}"))?
            }
            None => Some(expand(value.as_deref().unwrap_or_default(), &known)),
        };
        if let Some(value) = value {
            known.insert(name.clone(), value);
        }
    }
    for (end, more) in &inner.options.environment {
        if bundle::repository(image).ends_with(end.as_str()) {
            known.extend(more.iter().cloned());
        }
    }
    Ok(known.into_iter().collect())
}

/// The name that the pod's processes see as their host's.
pub(super) fn hostname(pod: &PodRun) -> String {
    let spec = pod.spec();
    if spec.host_network.unwrap_or(false) {
        return pod.inner.options.name.clone();
    }
    spec.hostname.unwrap_or_else(|| pod.name.chars().take(63).collect())
}

async fn from(
    pod: &PodRun,
    object: &Pod,
    container: &Container,
    source: &EnvVarSource,
) -> Result<Option<String>> {
    if let Some(reference) = &source.field_ref {
        return Ok(Some(field(pod, object, &reference.field_path)?));
    }
    if let Some(reference) = &source.resource_field_ref {
        return Ok(Some(resource(container, &reference.resource)?));
    }
    let (values, key, optional) = if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        (config_map(pod, &reference.name, optional).await?, &reference.key, optional)
    } else if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        (secret(pod, &reference.name, optional).await?, &reference.key, optional)
    } else {
        bail!("a source of a kind that this kubelet does not know");
    };
    match values.get(key) {
        Some(value) => Ok(Some(String::from_utf8(value.clone())?)),
        None if optional => Ok(None),
        None => bail!("there is no key {key}"),
    }
}

/// A field of the downward API.
pub(super) fn field(pod: &PodRun, object: &Pod, path: &str) -> Result<String> {
    let spec = object.spec.clone().unwrap_or_default();
    let host = place::addresses(pod.inner.number, 1);
    let own = || pod.network().map(PodNetwork::addresses).context("no address yet");
    let join = |addresses: [std::net::IpAddr; 2]| addresses.map(|ip| ip.to_string()).join(",");
    Ok(match path {
        "metadata.name" => object.name_any(),
        "metadata.namespace" => object.namespace().unwrap_or_default(),
        "metadata.uid" => object.uid().unwrap_or_default(),
        "metadata.labels" => lines(object.labels()),
        "metadata.annotations" => lines(object.annotations()),
        "spec.nodeName" => spec.node_name.unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.unwrap_or_default(),
        "status.hostIP" => host[0].to_string(),
        "status.hostIPs" => join(host),
        "status.podIP" => own()?[0].to_string(),
        "status.podIPs" => join(own()?),
        other => {
            let key = |start| other.strip_prefix(start)?.strip_suffix("']");
            if let Some(key) = key("metadata.labels['") {
                object.labels().get(key).cloned().unwrap_or_default()
            } else if let Some(key) = key("metadata.annotations['") {
                object.annotations().get(key).cloned().unwrap_or_default()
            } else {
                bail!("this kubelet does not know the field {other}");
            }
        }
    })
}

fn lines(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// A limit or request, in whole cores or bytes, as the default divisor has it.
fn resource(container: &Container, name: &str) -> Result<String> {
    let resources = container.resources.clone().unwrap_or_default();
    let (list, key) = match name.split_once('.') {
        Some(("limits", key)) => (resources.limits, key),
        Some(("requests", key)) => (resources.requests, key),
        _ => bail!("this kubelet does not know the resource {name}"),
    };
    let text = list.unwrap_or_default().get(key).map(|quantity| quantity.0.clone());
    let text =
        text.with_context(|| format!("{name} is not set, and this node has no limit to give instead"))?;
    let units = [
        ("Ki", 1u64 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("k", 1000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
    ];
    if let Some(milli) = text.strip_suffix('m') {
        return Ok(milli.parse::<u64>()?.div_ceil(1000).to_string());
    }
    for (unit, factor) in units {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok((number.parse::<u64>()? * factor).to_string());
        }
    }
    Ok(text.parse::<u64>()?.to_string())
}

/// The values of a `ConfigMap`.
pub(super) async fn config_map(
    pod: &PodRun,
    name: &str,
    optional: bool,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let api: Api<ConfigMap> = Api::namespaced(pod.inner.client.clone(), &pod.namespace);
    let found = api.get_opt(name).await.with_context(|| format!("ConfigMap {name}"))?;
    let Some(object) = found else {
        if optional {
            return Ok(BTreeMap::new());
        }
        bail!("configmap \"{name}\" not found");
    };
    let text = object.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    let binary = object.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
    Ok(text.chain(binary).collect())
}

/// The values of a Secret.
pub(super) async fn secret(pod: &PodRun, name: &str, optional: bool) -> Result<BTreeMap<String, Vec<u8>>> {
    let api: Api<Secret> = Api::namespaced(pod.inner.client.clone(), &pod.namespace);
    let found = api.get_opt(name).await.with_context(|| format!("Secret {name}"))?;
    match found {
        Some(object) => {
            Ok(object.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect())
        }
        None if optional => Ok(BTreeMap::new()),
        None => bail!("secret \"{name}\" not found"),
    }
}

/// Puts values in place of `$(NAME)`; `$$` stands for a dollar sign, and a name that is not known for itself.
pub(super) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(more) = after.strip_prefix('$') {
            out.push('$');
            rest = more;
        } else if let Some((name, more)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = more;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_become_values_and_dollars_stay() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, wanted) in [
            ("--x=$(A)", "--x=1"),
            ("$(A)$(A)", "11"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("a$b $", "a$b $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, &known), wanted);
        }
    }
}
