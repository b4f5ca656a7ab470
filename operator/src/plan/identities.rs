//! Numbers for identities: the same set of properties keeps its number while any address uses it, and a number that
//! is free rests before it means something else.
//!
//! Numbers are given out upwards, so one comes back only after all four billion others were used. The highest one given
//! out is kept in the AddressSlices (see [`super::slices`]), as are resting ones, so both survive a restart.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_policy::model::FIRST_IDENTITY;

use crate::facts::IdentityKey;

/// How long a number rests before it may mean something else.
pub const REST: Duration = Duration::from_hours(1);

/// One numbered identity.
#[derive(Debug)]
struct Numbered {
    id: u32,
    users: usize,
    resting_since: Option<Instant>,
}

/// The numbers of all identities.
#[derive(Debug)]
pub struct Identities {
    numbered: HashMap<Arc<IdentityKey>, Numbered>,
    keys: HashMap<u32, Arc<IdentityKey>>,
    /// The highest number ever given out.
    mark: u32,
    /// Where to look for a free number once the mark can go no further.
    search: u32,
}

impl Default for Identities {
    fn default() -> Self {
        Self {
            numbered: HashMap::new(),
            keys: HashMap::new(),
            mark: FIRST_IDENTITY - 1,
            search: FIRST_IDENTITY,
        }
    }
}

impl Identities {
    /// Takes over a number that was given out before. `false` if the number already means something else, or the
    /// identity already has another number; then nothing changes.
    pub fn load(&mut self, id: u32, key: &IdentityKey) -> bool {
        self.raise_mark(id);
        if id < FIRST_IDENTITY {
            return false;
        }
        match (self.keys.get(&id), self.numbered.get(key)) {
            (Some(known), _) => **known == *key,
            (None, Some(_)) => false,
            (None, None) => {
                let key = Arc::new(key.clone());
                self.keys.insert(id, key.clone());
                self.numbered.insert(key, Numbered { id, users: 0, resting_since: None });
                true
            }
        }
    }

    /// The highest number ever given out.
    #[must_use]
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// Takes note that numbers up to `mark` were given out.
    pub fn raise_mark(&mut self, mark: u32) {
        self.mark = self.mark.max(mark);
    }

    /// The number of this identity, for one more user. `None` when no number is free.
    pub fn acquire(&mut self, key: &Arc<IdentityKey>) -> Option<(u32, Arc<IdentityKey>)> {
        if let Some((known, numbered)) = self.numbered.get_key_value(key) {
            let (known, id) = (known.clone(), numbered.id);
            if let Some(numbered) = self.numbered.get_mut(key) {
                numbered.users += 1;
                numbered.resting_since = None;
            }
            return Some((id, known));
        }
        let id = self.free_number()?;
        self.keys.insert(id, key.clone());
        self.numbered.insert(key.clone(), Numbered { id, users: 1, resting_since: None });
        Some((id, key.clone()))
    }

    fn free_number(&mut self) -> Option<u32> {
        if let Some(next) = self.mark.checked_add(1) {
            self.mark = next;
            return Some(next);
        }
        let taken = |id: &u32| self.keys.contains_key(id);
        let found = (self.search..=u32::MAX).chain(FIRST_IDENTITY..self.search).find(|id| !taken(id))?;
        self.search = found.checked_add(1).unwrap_or(FIRST_IDENTITY);
        Some(found)
    }

    /// One user fewer; the last one's leaving begins the rest.
    pub fn release(&mut self, id: u32, now: Instant) {
        let Some(numbered) = self.keys.get(&id).and_then(|key| self.numbered.get_mut(key)) else { return };
        numbered.users = numbered.users.saturating_sub(1);
        if numbered.users == 0 {
            numbered.resting_since = Some(now);
        }
    }

    /// Whether a number means something: it is used, or rests.
    #[must_use]
    pub fn knows(&self, id: u32) -> bool {
        self.keys.contains_key(&id)
    }

    /// Lets numbers go that have rested, and begins the rest of those that were taken over and have no user. Returns
    /// those that went.
    pub fn tick(&mut self, now: Instant) -> Vec<u32> {
        for numbered in self.numbered.values_mut() {
            if numbered.users == 0 && numbered.resting_since.is_none() {
                numbered.resting_since = Some(now);
            }
        }
        let keys = &mut self.keys;
        let mut gone = Vec::new();
        self.numbered.retain(|_, numbered| {
            let rested =
                numbered.resting_since.is_some_and(|since| now.saturating_duration_since(since) >= REST);
            if rested {
                keys.remove(&numbered.id);
                gone.push(numbered.id);
            }
            !rested
        });
        gone
    }

    /// How many identities have at least one user.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.numbered.values().filter(|numbered| numbered.users > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Arc<IdentityKey> {
        Arc::new(IdentityKey { namespace: name.to_owned(), ..IdentityKey::default() })
    }

    #[test]
    fn equal_properties_share_a_number_and_keep_it() {
        let mut identities = Identities::default();
        let (a, _) = identities.acquire(&key("a")).unwrap();
        let (b, _) = identities.acquire(&key("b")).unwrap();
        assert_eq!((a, b), (256, 257));
        assert_eq!(identities.acquire(&key("a")).unwrap().0, a);
        let now = Instant::now();
        identities.release(a, now);
        identities.release(a, now);
        assert_eq!(identities.in_use(), 1);
        identities.tick(now + REST / 2);
        assert_eq!(identities.acquire(&key("a")).unwrap().0, a, "back within the hour");
    }

    #[test]
    fn a_number_is_not_reused_after_its_rest_while_higher_ones_are_left() {
        let mut identities = Identities::default();
        let now = Instant::now();
        let (a, _) = identities.acquire(&key("a")).unwrap();
        identities.release(a, now);
        identities.tick(now + REST);
        assert_eq!(identities.acquire(&key("b")).unwrap().0, a + 1);
        assert_eq!(identities.acquire(&key("a")).unwrap().0, a + 2);
    }

    #[test]
    fn when_numbers_run_out_a_resting_one_is_passed_over_until_it_has_rested() {
        let mut identities = Identities::default();
        let now = Instant::now();
        let (first, _) = identities.acquire(&key("first")).unwrap();
        let (second, _) = identities.acquire(&key("second")).unwrap();
        identities.raise_mark(u32::MAX);
        identities.release(first, now);
        assert_eq!(identities.acquire(&key("x")).unwrap().0, second + 1, "first rests, second is used");
        identities.tick(now + REST);
        identities.search = FIRST_IDENTITY;
        assert_eq!(identities.acquire(&key("y")).unwrap().0, first);
    }

    #[test]
    fn a_number_that_was_taken_over_keeps_its_meaning() {
        let mut identities = Identities::default();
        assert!(identities.load(300, &key("a")));
        assert!(identities.load(300, &key("a")));
        assert!(!identities.load(300, &key("b")), "the number means another identity");
        assert!(!identities.load(301, &key("a")), "the identity has another number");
        assert!(!identities.load(7, &key("c")), "reserved");
        assert_eq!(identities.acquire(&key("a")).unwrap().0, 300);
        assert_eq!(identities.acquire(&key("d")).unwrap().0, 302, "301 was given out once");
    }
}
