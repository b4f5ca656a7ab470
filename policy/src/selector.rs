//! Label selectors with the semantics of Kubernetes: all requirements must hold, and a selector without any matches
//! everything.

use std::collections::BTreeMap;

/// Labels of a workload, an identity or a namespace.
pub type Labels = BTreeMap<String, String>;

/// The label that every namespace carries with its own name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// How a [`Requirement`] compares the label's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// The label is present and its value is listed.
    In,
    /// The label is absent, or its value is not listed.
    NotIn,
    /// The label is present, with any value.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// One entry of `matchExpressions`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How its value is compared.
    pub operator: Operator,
    /// The values of `In` and `NotIn`; empty for the others.
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether the value of the label `key` (`None` = absent) satisfies this requirement.
    #[must_use]
    pub fn holds(&self, value: Option<&str>) -> bool {
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.iter().any(|w| w == v)),
            Operator::NotIn => value.is_none_or(|v| self.values.iter().all(|w| w != v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// A label selector. The default, empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// Labels that must be there with exactly this value.
    pub match_labels: Labels,
    /// Further requirements.
    pub match_expressions: Vec<Requirement>,
}

impl Selector {
    /// Whether `labels` satisfy every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Whether the namespace `name` with `labels` satisfies every requirement. The label
    /// [`NAMESPACE_NAME_LABEL`] is always there and always the name, whatever `labels` say.
    #[must_use]
    pub fn matches_namespace(&self, name: &str, labels: Option<&Labels>) -> bool {
        self.matches_with(|key| {
            if key == NAMESPACE_NAME_LABEL {
                Some(name)
            } else {
                labels.and_then(|labels| labels.get(key)).map(String::as_str)
            }
        })
    }

    /// Whether this selector asks for the namespace `name` by its name: a `matchLabels` entry or an `In` expression
    /// on [`NAMESPACE_NAME_LABEL`] that lists it.
    #[must_use]
    pub fn names_namespace(&self, name: &str) -> bool {
        self.match_labels.get(NAMESPACE_NAME_LABEL).is_some_and(|value| value == name)
            || self.match_expressions.iter().any(|requirement| {
                requirement.operator == Operator::In
                    && requirement.key == NAMESPACE_NAME_LABEL
                    && requirement.values.iter().any(|value| value == name)
            })
    }

    /// Every label key that this selector looks at.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.match_labels
            .keys()
            .map(String::as_str)
            .chain(self.match_expressions.iter().map(|requirement| requirement.key.as_str()))
    }

    /// The same selector in one canonical form, so that equal meanings written in another order compare equal.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let mut canonical = self.clone();
        for requirement in &mut canonical.match_expressions {
            requirement.values.sort_unstable();
            requirement.values.dedup();
        }
        canonical.match_expressions.sort_unstable();
        canonical.match_expressions.dedup();
        canonical
    }

    fn matches_with<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.match_labels.iter().all(|(key, wanted)| value(key) == Some(wanted.as_str()))
            && self.match_expressions.iter().all(|requirement| requirement.holds(value(&requirement.key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn expression(key: &str, operator: Operator, values: &[&str]) -> Selector {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        Selector {
            match_expressions: vec![Requirement { key: key.to_owned(), operator, values }],
            ..Selector::default()
        }
    }

    #[test]
    fn an_empty_selector_matches_everything() {
        assert!(Selector::default().matches(&labels(&[])));
        assert!(Selector::default().matches(&labels(&[("a", "1")])));
    }

    #[test]
    fn match_labels_want_every_pair() {
        let selector = Selector { match_labels: labels(&[("a", "1"), ("b", "2")]), ..Selector::default() };
        assert!(selector.matches(&labels(&[("a", "1"), ("b", "2"), ("c", "3")])));
        assert!(!selector.matches(&labels(&[("a", "1")])));
        assert!(!selector.matches(&labels(&[("a", "1"), ("b", "3")])));
    }

    #[test]
    fn expressions_treat_an_absent_label_as_kubernetes_does() {
        let with = labels(&[("a", "1")]);
        let other = labels(&[("a", "2")]);
        let without = labels(&[]);
        for (operator, values, expected) in [
            (Operator::In, vec!["1"], [true, false, false]),
            (Operator::NotIn, vec!["1"], [false, true, true]),
            (Operator::Exists, vec![], [true, true, false]),
            (Operator::DoesNotExist, vec![], [false, false, true]),
        ] {
            let selector = expression("a", operator, &values);
            let seen = [&with, &other, &without].map(|labels| selector.matches(labels));
            assert_eq!(seen, expected, "{operator:?}");
        }
    }

    #[test]
    fn a_namespace_always_carries_its_name() {
        let selector = expression(NAMESPACE_NAME_LABEL, Operator::In, &["shop"]);
        assert!(selector.matches_namespace("shop", None));
        assert!(!selector.matches_namespace("bank", Some(&labels(&[(NAMESPACE_NAME_LABEL, "shop")]))));
    }

    #[test]
    fn only_an_equality_on_the_name_label_names_a_namespace() {
        assert!(
            expression(NAMESPACE_NAME_LABEL, Operator::In, &["a", "kube-system"])
                .names_namespace("kube-system")
        );
        assert!(!expression(NAMESPACE_NAME_LABEL, Operator::Exists, &[]).names_namespace("kube-system"));
        assert!(!expression(NAMESPACE_NAME_LABEL, Operator::NotIn, &["a"]).names_namespace("kube-system"));
        assert!(!Selector::default().names_namespace("kube-system"));
    }

    #[test]
    fn canonical_forms_ignore_order_and_repetition() {
        let one = expression("a", Operator::In, &["2", "1", "2"]);
        let other = expression("a", Operator::In, &["1", "2"]);
        assert_ne!(one, other);
        assert_eq!(one.canonical(), other.canonical());
    }
}
