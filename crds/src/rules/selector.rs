//! Label selectors.

use holdfast_policy::validate::is_per_pod_label;
use serde_json::Value;

use super::{Rule, has, list, text};
use crate::names;

/// `key in` this CEL map: the label is left out of identities. Labels below `batch.kubernetes.io/` are too.
const PER_POD: &str = "{'pod-template-hash': true, 'controller-revision-hash': true, 'pod-template-generation': true, \
                       'statefulset.kubernetes.io/pod-name': true, 'apps.kubernetes.io/pod-index': true, \
                       'controller-uid': true}";
const PER_POD_MESSAGE: &str =
    "selects on a label that differs for each pod or is made up by a controller; identities do not carry it";

/// About a label selector.
pub(crate) fn selector() -> Vec<Rule> {
    vec![
        Rule::new(
            ".matchLabels",
            "has a key that is no label key: a name of at most 63 letters, digits, '-', '_' and '.', after a DNS prefix \
             and '/' where there is one",
            format!("!has(self.matchLabels) || self.matchLabels.all(k, k.matches(r'{}'))", names::LABEL_KEY),
            |value| keys(value).all(names::is_label_key),
        ),
        Rule::new(
            ".matchLabels",
            PER_POD_MESSAGE,
            format!(
                "!has(self.matchLabels) || self.matchLabels.all(k, !(k in {PER_POD}) && \
                 !k.startsWith('batch.kubernetes.io/'))"
            ),
            |value| !keys(value).any(is_per_pod_label),
        ),
    ]
}

/// About one entry of `matchExpressions`.
pub(crate) fn requirement() -> Vec<Rule> {
    vec![
        Rule::new(
            ".key",
            PER_POD_MESSAGE,
            format!("!(self.key in {PER_POD}) && !self.key.startsWith('batch.kubernetes.io/')"),
            |value| !is_per_pod_label(text(value, "key")),
        ),
        Rule::new(
            ".values",
            "must have a value where the operator is In or NotIn",
            "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)",
            |value| !matches!(text(value, "operator"), "In" | "NotIn") || !list(value, "values").is_empty(),
        ),
        Rule::new(
            ".values",
            "must be absent where the operator is Exists or DoesNotExist",
            "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || self.values.size() == 0",
            |value| {
                !matches!(text(value, "operator"), "Exists" | "DoesNotExist")
                    || !has(value, "values")
                    || list(value, "values").is_empty()
            },
        ),
    ]
}

fn keys(value: &Value) -> impl Iterator<Item = &str> {
    value
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|labels| labels.keys().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_of_the_cel_list_is_one_that_identities_leave_out() {
        let mut labels = PER_POD.split('\'').skip(1).step_by(2).peekable();
        assert!(labels.peek().is_some());
        for label in labels {
            assert!(is_per_pod_label(label), "{label}");
        }
    }
}
