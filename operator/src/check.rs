//! `holdfast-operator test`: whether the installation works, as `helm test` asks. One line a check.

use std::time::{Duration, SystemTime};

use holdfast_crds::NodeAgent;
use holdfast_crds::command_line;
use holdfast_crds::schema;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client, ResourceExt};

use crate::args::Test;
use crate::crds;
use crate::error::RunError;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How far the clocks of the leader and of this program may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(10);

/// What came of a check: what is so, or what is not.
type Outcome = Result<String, String>;

/// Checks until all is well, or the time is up; prints each check's last outcome. Whether all is well.
///
/// # Errors
/// When there is no way to the API server.
pub async fn run(arguments: Test) -> Result<bool, RunError> {
    let client = Client::try_default().await.map_err(|error| RunError::Client(Box::new(error)))?;
    let until = tokio::time::Instant::now() + arguments.timeout;
    loop {
        let outcomes = [
            ("leader", leader(&client, &arguments).await),
            ("crds", custom_resources(&client).await),
            ("agents", agents(&client).await),
        ];
        let good = outcomes.iter().all(|(_, outcome)| outcome.is_ok());
        if good || tokio::time::Instant::now() + PAUSE > until {
            for (name, outcome) in outcomes {
                match outcome {
                    Ok(what) => command_line::print(format_args!("ok    {name}: {what}\n")),
                    Err(what) => command_line::print(format_args!("FAIL  {name}: {what}\n")),
                }
            }
            return Ok(good);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Sends a request; why it failed, in words.
async fn ask<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_elapsed) => Err(format!("the API server does not answer within {TIMEOUT:?}")),
    }
}

async fn leader(client: &Client, arguments: &Test) -> Outcome {
    let api: Api<Lease> = Api::namespaced(client.clone(), &arguments.namespace);
    held(&ask(api.get(&arguments.lease_name)).await?, SystemTime::now())
}

/// Whether somebody holds the Lease now.
fn held(lease: &Lease, now: SystemTime) -> Outcome {
    let name = lease.name_any();
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.unwrap_or_default();
    let (Some(renewed), false) = (spec.renew_time, holder.is_empty()) else {
        return Err(format!("nobody holds the Lease {name}"));
    };
    let duration = Duration::from_secs(spec.lease_duration_seconds.unwrap_or(0).try_into().unwrap_or(0));
    let age = Timestamp::try_from(now).map(|now| now.duration_since(renewed.0));
    // A renewal in the future is one of a clock that is ahead.
    let age = age.map_or(Duration::MAX, |age| Duration::try_from(age).unwrap_or_default());
    if age > duration + CLOCK_SKEW {
        return Err(format!("{holder} holds the Lease {name}, but renewed it last {}", renewed.0));
    }
    Ok(format!("{holder} leads"))
}

async fn custom_resources(client: &Client) -> Outcome {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let wanted = schema::crds().map_err(|error| error.to_string())?;
    for crd in &wanted {
        served(crd, &ask(api.get(&crd.name_any())).await?)?;
    }
    Ok(format!("{} are served, of version {} or newer", wanted.len(), schema::RELEASE))
}

/// Whether a CRD is served, and not older than it should be.
fn served(wanted: &CustomResourceDefinition, found: &CustomResourceDefinition) -> Result<(), String> {
    let name = found.name_any();
    let established = found
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Established" && condition.status == "True");
    if !established {
        return Err(format!("{name} is not served"));
    }
    match crds::version(found) {
        None => Err(format!("{name} does not say of which version it is")),
        Some(version) if Some(&version) < crds::version(wanted).as_ref() => {
            Err(format!("{name} is of version {version}, older than {}", schema::RELEASE))
        }
        Some(_) => Ok(()),
    }
}

async fn agents(client: &Client) -> Outcome {
    let api: Api<DeserializeGuard<NodeAgent>> = Api::all(client.clone());
    let mut said = Vec::new();
    for agent in ask(api.list(&ListParams::default())).await? {
        match agent.0 {
            Ok(agent) => said.push(available(&agent)?),
            Err(invalid) => return Err(format!("a NodeAgent does not parse: {}", invalid.error)),
        }
    }
    Ok(if said.is_empty() { "no NodeAgent asks for any".to_owned() } else { said.join("; ") })
}

/// Whether every node that a NodeAgent selects has its agent.
fn available(agent: &NodeAgent) -> Outcome {
    let name = agent.name_any();
    let status = agent.status.clone().unwrap_or_default();
    let condition = status.conditions.iter().find(|condition| condition.type_ == "Available");
    let (Some(condition), true) = (condition, status.observed_generation == agent.metadata.generation) else {
        return Err(format!("the operator has not looked at NodeAgent {name}"));
    };
    match (condition.status.as_str(), condition.reason.as_str()) {
        ("True", _) => Ok(format!("{name}: {} of {} ready", status.ready, status.desired)),
        (_, "NoNodes") => Ok(format!("{name}: no node is selected")),
        (_, reason) => Err(format!("NodeAgent {name} is not available: {reason}: {}", condition.message)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse<K: serde::de::DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_lease_is_held_while_it_is_renewed() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let lease = |spec: Value| held(&parse(json!({"metadata": {"name": "l"}, "spec": spec})), now);
        let by = |holder: &str, renewed: &str| {
            lease(json!({"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed}))
        };
        assert!(by("one", "1970-01-12T13:46:30.000000Z").is_ok());
        assert!(by("one", "1970-01-12T13:46:45.000000Z").is_ok(), "a clock that is five seconds ahead");
        assert!(by("one", "1970-01-12T13:46:00.000000Z").unwrap_err().contains("renewed it last"));
        assert!(by("", "1970-01-12T13:46:30.000000Z").is_err());
        assert!(lease(json!({})).is_err());
    }

    #[test]
    fn a_crd_that_is_older_or_not_served_is_named() {
        let wanted = schema::crds().unwrap().remove(0);
        let found = |version: &str, established: &str| {
            let mut value = serde_json::to_value(&wanted).unwrap();
            value["metadata"]["annotations"][schema::VERSION_ANNOTATION] = version.into();
            value["status"] = json!({"conditions": [{"type": "Established", "status": established}]});
            served(&wanted, &parse(value))
        };
        assert!(found(schema::RELEASE, "True").is_ok());
        assert!(found("99.0.0", "True").is_ok());
        assert!(found("0.0.1", "True").unwrap_err().contains("older"));
        assert!(found(schema::RELEASE, "False").unwrap_err().contains("not served"));
    }

    #[test]
    fn an_agent_is_available_for_its_generation_or_has_no_nodes() {
        let agent = |observed: i64, status: &str, reason: &str| {
            let condition = json!({"type": "Available", "status": status, "reason": reason, "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z"});
            available(&parse(json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "NodeAgent",
                "metadata": {"name": "default", "generation": 2}, "spec": {},
                "status": {"observedGeneration": observed, "conditions": [condition], "desired": 3, "ready": 3}})))
        };
        assert_eq!(agent(2, "True", "AllReady"), Ok("default: 3 of 3 ready".to_owned()));
        assert!(agent(2, "Unknown", "NoNodes").is_ok());
        assert!(agent(1, "True", "AllReady").is_err());
        assert!(agent(2, "False", "NotReady").unwrap_err().contains("NotReady"));
    }
}
