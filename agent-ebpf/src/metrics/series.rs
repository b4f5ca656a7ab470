//! Which counts of refusals have a series of their own. A node's are bounded whatever is refused to whom: when there are
//! [`MAX_SERIES`], what is new is counted under the workload and policy `other`, and stays there, so that no count is
//! lost, none is counted twice, and every series only grows.

use std::collections::BTreeMap;

/// The most series of denials and audits that an agent shows, those of `other` not counted.
pub const MAX_SERIES: usize = 15_000;
/// The workload and policy that has what has no series of its own.
pub const OTHER: &str = "other";

/// The values of the labels: namespace, workload, policy, kind of rule, what was done.
pub type Labels = [String; 5];

/// The series so far.
#[derive(Debug, Default)]
pub struct Series {
    own: BTreeMap<Labels, u64>,
    /// What is counted under [`OTHER`], with its last count.
    folded: BTreeMap<Labels, u64>,
    /// Under [`OTHER`], of subjects that nobody knows any more.
    departed: BTreeMap<Labels, u64>,
}

/// What the metrics are to show.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Every series with its count.
    pub counts: BTreeMap<Labels, u64>,
    /// Series that were shown, and are no more.
    pub gone: Vec<Labels>,
    /// How many subjects are counted under [`OTHER`].
    pub folded: usize,
}

impl Series {
    /// Takes in all counts as they are now: what is not among them is gone.
    pub fn take(&mut self, now: &BTreeMap<Labels, u64>) -> Shown {
        let gone: Vec<Labels> =
            self.own.keys().filter(|labels| !now.contains_key(*labels)).cloned().collect();
        for labels in &gone {
            self.own.remove(labels);
        }
        for (labels, count) in std::mem::take(&mut self.folded) {
            if now.contains_key(&labels) {
                self.folded.insert(labels, count);
            } else {
                *self.departed.entry(other(&labels)).or_default() += count;
            }
        }
        for (labels, count) in now {
            let known = self.own.contains_key(labels);
            if known || (self.own.len() < MAX_SERIES && !self.folded.contains_key(labels)) {
                self.own.insert(labels.clone(), *count);
            } else {
                self.folded.insert(labels.clone(), *count);
            }
        }
        let mut counts = self.own.clone();
        for (labels, count) in self.departed.iter().map(|(labels, count)| (labels.clone(), count)) {
            *counts.entry(labels).or_default() += count;
        }
        for (labels, count) in &self.folded {
            *counts.entry(other(labels)).or_default() += count;
        }
        Shown { counts, gone, folded: self.folded.len() }
    }
}

fn other(labels: &Labels) -> Labels {
    let [_, _, _, kind, given] = labels;
    [String::new(), OTHER.to_owned(), OTHER.to_owned(), kind.clone(), given.clone()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(number: usize) -> Labels {
        ["shop", &format!("Pod/p{number}"), "shop/api", "network", "Drop"].map(str::to_owned)
    }

    fn all(range: std::ops::Range<usize>, count: u64) -> BTreeMap<Labels, u64> {
        range.map(|number| (labels(number), count)).collect()
    }

    #[test]
    fn what_is_new_beyond_the_bound_is_counted_under_other_and_stays_there() {
        let mut series = Series::default();
        assert_eq!(series.take(&all(0..MAX_SERIES, 1)).counts.len(), MAX_SERIES);
        let shown = series.take(&all(0..MAX_SERIES + 10, 2));
        let under_other = other(&labels(0));
        assert_eq!((shown.counts.len(), shown.folded), (MAX_SERIES + 1, 10));
        assert_eq!(shown.counts[&under_other], 20);
        // Room comes back, and the count stays where it is: it would be counted twice.
        let shown = series.take(&all(MAX_SERIES - 5..MAX_SERIES + 10, 3));
        assert_eq!((shown.counts.len(), shown.folded, shown.gone.len()), (6, 10, MAX_SERIES - 5));
        assert_eq!(shown.counts[&under_other], 30);
        // Those go too; what they counted stays, and the next one is new.
        assert_eq!(series.take(&BTreeMap::new()).counts, BTreeMap::from([(under_other.clone(), 30)]));
        let shown = series.take(&all(MAX_SERIES..MAX_SERIES + 1, 1));
        assert_eq!(shown.counts, BTreeMap::from([(under_other, 30), (labels(MAX_SERIES), 1)]));
    }
}
