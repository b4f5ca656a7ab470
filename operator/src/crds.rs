//! Keeps the CRDs as this version of Holdfast has them, while this replica leads.
//!
//! Helm installs a chart's CRDs once and never changes them, so an upgrade of the operator brings them along. A CRD is
//! applied on the server's side, and only when it says something else; one that a newer version has written stays, so
//! that operators of two versions do not undo each other's work. One that is missing is not made: whoever deleted it
//! has deleted all objects of its kind.

use std::time::Duration;

use holdfast_crds::schema::{self, VERSION_ANNOTATION};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use semver::Version;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::lease::Leadership;
use crate::metrics::Metrics;

/// The field manager of the CRDs.
const MANAGER: &str = "holdfast-operator-crds";
/// How often the CRDs are looked at while nothing is wrong with them.
const AGAIN: Duration = Duration::from_mins(10);
/// The first and the longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// What is to be done about a CRD.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is as it should be.
    Same,
    /// A newer version has written it.
    Newer,
    /// It is to be applied.
    Differs,
}

/// The version that has written a CRD; `None` if it does not say so, or not in the form of a version.
#[must_use]
pub fn version(crd: &CustomResourceDefinition) -> Option<Version> {
    Version::parse(crd.annotations().get(VERSION_ANNOTATION)?).ok()
}

/// Compares a CRD with what it should be.
///
/// # Errors
/// When one of them is no JSON, which does not happen.
pub fn judge(
    wanted: &CustomResourceDefinition,
    found: &CustomResourceDefinition,
) -> Result<Verdict, serde_json::Error> {
    if version(found) > version(wanted) {
        return Ok(Verdict::Newer);
    }
    let same = version(found) == version(wanted)
        && covers(&serde_json::to_value(&found.spec)?, &serde_json::to_value(&wanted.spec)?, true);
    Ok(if same { Verdict::Same } else { Verdict::Differs })
}

/// Whether `found` says all that `wanted` says. Where `defaulted`, it may say more: the API server fills in defaults
/// outside of schemas, in which a field too many is a difference.
fn covers(found: &Value, wanted: &Value, defaulted: bool) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            (defaulted || found.len() == wanted.len())
                && wanted.iter().all(|(key, wanted)| {
                    let defaulted = defaulted && key != "schema";
                    found.get(key).is_some_and(|found| covers(found, wanted, defaulted))
                })
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len()
                && found.iter().zip(wanted).all(|(found, wanted)| covers(found, wanted, defaulted))
        }
        (found, wanted) => found == wanted,
    }
}

/// Keeps the CRDs up to date.
pub struct Keeper {
    /// The client.
    pub client: Client,
    /// Whether this replica leads.
    pub leadership: Leadership,
    /// Tells when it begins to.
    pub terms: watch::Receiver<Option<u64>>,
    /// Where to count failures.
    pub metrics: Metrics,
}

impl Keeper {
    /// Keeps them until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = PAUSE.0;
        loop {
            let leads = self.terms.borrow_and_update().is_some();
            let wait = if !leads {
                None
            } else if self.pass().await {
                pause = PAUSE.0;
                Some(AGAIN)
            } else {
                let wait = pause;
                pause = (pause * 2).min(PAUSE.1);
                Some(wait)
            };
            let again = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait.mul_f64(0.75 + 0.5 * fastrand::f64())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.terms.changed() => if changed.is_err() {
                    // The elector is gone, and with it the operator.
                    return stop.cancelled().await;
                },
                () = again => {}
            }
        }
    }

    /// Looks at all of them once; whether nothing failed.
    async fn pass(&self) -> bool {
        let crds = match schema::crds() {
            Ok(crds) => crds,
            Err(error) => {
                tracing::error!(%error, "the CRDs of this build cannot be made");
                return true;
            }
        };
        let mut good = true;
        for crd in crds {
            let name = crd.name_any();
            if let Err(error) = self.keep(&crd).await {
                good = false;
                self.metrics.failed("CustomResourceDefinition", error.reason());
                if error.is_not_found() {
                    tracing::error!(crd = %name, "the CRD is not there; install those of the chart, in its folder crds/");
                } else {
                    tracing::warn!(crd = %name, %error, "the CRD could not be brought up to date");
                }
            }
        }
        good
    }

    async fn keep(&self, wanted: &CustomResourceDefinition) -> Result<(), ApiError> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let name = wanted.name_any();
        let found = self.leadership.send(api.get(&name)).await?;
        match judge(wanted, &found).map_err(kube::Error::SerdeError)? {
            Verdict::Same => {}
            Verdict::Newer => {
                let by = version(&found).map(|version| version.to_string());
                tracing::info!(crd = %name, by, "a newer version has written the CRD; it stays");
            }
            Verdict::Differs => {
                // Schemas are lists and maps that are replaced as a whole, so nothing of an older one stays in them.
                let params = PatchParams::apply(MANAGER).force();
                self.leadership.send(api.patch(&name, &params, &Patch::Apply(wanted))).await?;
                let from = version(&found).map(|version| version.to_string());
                let to = version(wanted).map(|version| version.to_string());
                tracing::info!(crd = %name, from, to, "brought the CRD up to date");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd() -> CustomResourceDefinition {
        schema::crds().unwrap().remove(0)
    }

    fn changed(change: impl FnOnce(&mut Value)) -> CustomResourceDefinition {
        let mut value = serde_json::to_value(crd()).unwrap();
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn of_version(text: Option<&str>) -> CustomResourceDefinition {
        let mut crd = crd();
        crd.metadata.annotations = text.map(|text| [(VERSION_ANNOTATION.to_owned(), text.to_owned())].into());
        crd
    }

    #[test]
    fn what_the_api_server_fills_in_is_no_difference() {
        let found = changed(|crd| {
            crd["spec"]["conversion"] = serde_json::json!({"strategy": "None"});
            crd["status"] = serde_json::json!({"storedVersions": ["v1alpha1"]});
            crd["metadata"]["annotations"]["else"] = "where".into();
        });
        assert_eq!(judge(&crd(), &found).unwrap(), Verdict::Same);
    }

    #[test]
    fn a_field_more_or_less_in_a_schema_is_a_difference() {
        let path = "/spec/versions/0/schema/openAPIV3Schema/properties";
        let more =
            changed(|crd| crd.pointer_mut(path).unwrap()["more"] = serde_json::json!({"type": "string"}));
        assert_eq!(judge(&crd(), &more).unwrap(), Verdict::Differs);
        assert_eq!(judge(&more, &crd()).unwrap(), Verdict::Differs);
        let column =
            changed(|crd| crd["spec"]["versions"][0]["additionalPrinterColumns"] = serde_json::json!([]));
        assert_eq!(judge(&crd(), &column).unwrap(), Verdict::Differs);
    }

    #[test]
    fn a_newer_version_stays_and_an_older_or_unnamed_one_is_replaced() {
        let ours = of_version(Some("0.10.0"));
        for (theirs, wanted) in [
            (Some("0.10.0"), Verdict::Same),
            (Some("0.9.9"), Verdict::Differs),
            (Some("0.10.0-rc.1"), Verdict::Differs),
            (Some("0.11.0-rc.1"), Verdict::Newer),
            (Some("1.0.0"), Verdict::Newer),
            (Some("latest"), Verdict::Differs),
            (None, Verdict::Differs),
        ] {
            assert_eq!(judge(&ours, &of_version(theirs)).unwrap(), wanted, "{theirs:?}");
        }
    }
}
