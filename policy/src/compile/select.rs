//! Which policies select which workloads.

use std::collections::HashMap;
use std::rc::Rc;

use crate::error::CompileError;
use crate::model::NamespaceTarget;
use crate::selector::Labels;

use super::Input;

/// The policies that select each workload of the input: indices into the input's policies, in the order of names.
pub(crate) fn select(input: &Input<'_>) -> Result<Vec<Rc<Vec<usize>>>, CompileError> {
    let policies = input.policies;
    let mut order: Vec<usize> = (0..policies.len()).collect();
    order.sort_by(|a, b| policies[*a].id.cmp(&policies[*b].id));
    if let Some(pair) = order.windows(2).find(|pair| policies[pair[0]].id == policies[pair[1]].id) {
        return Err(CompileError::DuplicatePolicy { policy: policies[pair[0]].id.clone() });
    }
    // Places in that order, apart by namespace, so that a workload is compared with few.
    let mut namespaced: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut cluster = Vec::new();
    for (place, index) in order.iter().enumerate() {
        match &policies[*index].target.namespaces {
            NamespaceTarget::One(namespace) => namespaced.entry(namespace).or_default().push(place),
            NamespaceTarget::Matching(_) => cluster.push(place),
        }
    }

    let mut in_namespace: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut by_labels: HashMap<(&str, &Labels), Rc<Vec<usize>>> = HashMap::new();
    let mut selected = Vec::with_capacity(input.workloads.len());
    for workload in input.workloads {
        let namespace = workload.namespace.as_str();
        let candidates = in_namespace.entry(namespace).or_insert_with(|| {
            let covers =
                |place: &usize| policies[order[*place]].target.covers_namespace(input.world, namespace);
            let mut places: Vec<usize> = cluster.iter().copied().filter(covers).collect();
            places.extend(namespaced.get(namespace).into_iter().flatten());
            places.sort_unstable();
            places.into_iter().map(|place| order[place]).collect()
        });
        let chosen = by_labels.entry((namespace, &workload.labels)).or_insert_with(|| {
            let matches = |index: &usize| policies[*index].target.pods.matches(&workload.labels);
            Rc::new(candidates.iter().copied().filter(matches).collect())
        });
        selected.push(Rc::clone(chosen));
    }
    Ok(selected)
}
