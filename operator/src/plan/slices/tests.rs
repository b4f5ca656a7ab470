use super::*;

fn address(n: u32) -> IpAddr {
    IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n))
}

fn identity(name: &str) -> Arc<IdentityKey> {
    Arc::new(IdentityKey { namespace: name.to_owned(), ..IdentityKey::default() })
}

/// An API server for slices: it checks versions as the real one does.
#[derive(Default)]
struct Server {
    slices: BTreeMap<String, Observed>,
    version: u64,
    writes: Vec<String>,
}

impl Server {
    fn put(&mut self, name: &str, content: AddressSliceSpec, mark: u32) -> Observed {
        self.version += 1;
        let version = self.version.to_string();
        let observed =
            Observed { uid: format!("uid-{name}"), resource_version: version, content: Some(content), mark };
        self.slices.insert(name.to_owned(), observed.clone());
        observed
    }

    fn check(&self) {
        let addresses = self.addresses();
        for pair in addresses.windows(2) {
            assert_ne!(pair[0].0, pair[1].0, "{} stands in two slices", pair[0].0);
        }
    }

    /// Carries one request out and tells the book. `false` if the request was refused.
    fn carry_out(&mut self, book: &mut Book, write: &Write) -> bool {
        let current = self.slices.get(&write.name).map(|slice| slice.resource_version.clone());
        self.writes.push(write.name.clone());
        let written = match &write.action {
            Action::Create { content, mark } if current.is_none() => {
                self.put(&write.name, content.clone(), *mark)
            }
            Action::Update { content, mark, resource_version, .. }
                if current.as_ref() == Some(resource_version) =>
            {
                self.put(&write.name, content.clone(), *mark)
            }
            Action::Delete { resource_version, .. } if current.as_ref() == Some(resource_version) => {
                self.version += 1;
                self.slices.remove(&write.name);
                book.deleted(&write.name);
                return true;
            }
            Action::Read => {
                book.read(&write.name, self.slices.get(&write.name).cloned());
                return true;
            }
            _ => {
                book.refused(&write.name, Refusal::Conflict);
                return false;
            }
        };
        book.written(&write.name, written.uid, written.resource_version);
        self.check();
        true
    }

    /// Carries out everything that the book wants. Returns how many requests that took.
    fn settle(&mut self, book: &mut Book) -> usize {
        let now = Instant::now();
        let mut count = 0;
        while let Some(write) = book.next_read(now).or_else(|| book.next_write(now)) {
            self.carry_out(book, &write);
            count += 1;
            assert!(count < 10_000, "the book never settles");
        }
        assert!(book.settled());
        count
    }

    fn addresses(&self) -> Vec<(IpAddr, Option<u32>)> {
        let mut all: Vec<(IpAddr, Option<u32>)> = self
            .slices
            .values()
            .flat_map(|slice| &slice.content.as_ref().unwrap().addresses)
            .map(|entry| (entry.address, entry.identity))
            .collect();
        all.sort_unstable();
        all
    }

    fn list(&self) -> Vec<(String, Observed)> {
        self.slices.iter().map(|(name, slice)| (name.clone(), slice.clone())).collect()
    }
}

fn set(book: &mut Book, n: u32, name: &str) {
    let fits =
        book.set_address(address(n), vec![Entity::Cluster], None, Some(&identity(name)), Instant::now());
    assert!(fits);
}

#[test]
fn new_addresses_fill_one_slice_after_another() {
    let (mut book, mut server) = (Book::default(), Server::default());
    for n in 0..250 {
        set(&mut book, n, "shop");
    }
    assert_eq!(server.settle(&mut book), 3);
    let sizes: Vec<usize> =
        server.slices.values().map(|slice| slice.content.as_ref().unwrap().addresses.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    assert!(server.slices.values().all(|slice| slice.content.as_ref().unwrap().identities.len() == 1));
    set(&mut book, 250, "shop");
    assert_eq!(server.settle(&mut book), 1, "only the open slice is written");
    set(&mut book, 250, "shop");
    assert_eq!(server.settle(&mut book), 0, "nothing has changed");
}

#[test]
fn deletions_and_reused_addresses_go_before_new_ones() {
    let (mut book, mut server) = (Book::default(), Server::default());
    for n in 0..200 {
        set(&mut book, n, "shop");
    }
    server.settle(&mut book);
    for n in 200..210 {
        set(&mut book, n, "shop");
    }
    book.remove(&Key::Address(address(5)), Instant::now());
    set(&mut book, 150, "bank");
    let now = Instant::now();
    let order: Vec<String> = std::iter::from_fn(|| book.next_write(now)).map(|write| write.name).collect();
    assert_eq!(order, ["addresses-000001", "addresses-000002", "addresses-000003"]);
}

#[test]
fn a_reused_address_changes_in_its_place_with_one_write() {
    let (mut book, mut server) = (Book::default(), Server::default());
    set(&mut book, 1, "shop");
    set(&mut book, 2, "shop");
    server.settle(&mut book);
    set(&mut book, 1, "bank");
    assert_eq!(server.settle(&mut book), 1);
    assert_eq!(server.addresses(), [(address(1), Some(257)), (address(2), Some(256))]);
}

#[test]
fn a_slice_never_passes_its_size_and_an_entry_that_grew_moves() {
    let (mut book, mut server) = (Book::default(), Server::default());
    let large = |name: &str, size: usize| {
        Arc::new(IdentityKey {
            namespace: name.to_owned(),
            labels: [("a".to_owned(), "x".repeat(size))].into(),
            ..IdentityKey::default()
        })
    };
    let now = Instant::now();
    for n in 0..5 {
        assert!(book.set_address(address(n), vec![], None, Some(&large(&format!("n{n}"), 20_000)), now));
    }
    server.settle(&mut book);
    assert_eq!(server.slices.len(), 2, "three and two");
    for slice in server.slices.values() {
        assert!(serde_json::to_vec(&slice.content).unwrap().len() <= MAX_BYTES);
    }
    assert!(book.set_address(address(0), vec![], None, Some(&large("n0", 50_000)), now));
    server.settle(&mut book);
    assert_eq!(server.addresses().len(), 5);
    for slice in server.slices.values() {
        assert!(serde_json::to_vec(&slice.content).unwrap().len() <= MAX_BYTES);
    }
    assert!(!book.set_address(address(0), vec![], None, Some(&large("n0", MAX_BYTES)), now));
    server.settle(&mut book);
    assert_eq!(server.addresses().len(), 4, "what fits nowhere is not published at all");
}

#[test]
fn a_successor_keeps_every_place_and_number_and_writes_nothing() {
    let (mut book, mut server) = (Book::default(), Server::default());
    for n in 0..150 {
        set(&mut book, n, if n % 2 == 0 { "shop" } else { "bank" });
    }
    assert!(book.set_namespace("shop", Labels::new()));
    server.settle(&mut book);
    let before = server.addresses();
    let mut successor = Book::load(server.list());
    for n in 0..150 {
        set(&mut successor, n, if n % 2 == 0 { "shop" } else { "bank" });
    }
    assert!(successor.set_namespace("shop", Labels::new()));
    assert_eq!(server.settle(&mut successor), 0);
    assert_eq!(server.addresses(), before);
    set(&mut successor, 150, "new");
    server.settle(&mut successor);
    assert_eq!(server.addresses()[150].1, Some(258));
}

#[test]
fn a_number_given_out_before_is_not_given_out_again_after_everything_was_deleted_and_restarted() {
    let (mut book, mut server) = (Book::default(), Server::default());
    set(&mut book, 1, "shop");
    set(&mut book, 2, "bank");
    server.settle(&mut book);
    book.remove(&Key::Address(address(1)), Instant::now());
    book.remove(&Key::Address(address(2)), Instant::now());
    server.settle(&mut book);
    assert!(server.addresses().is_empty());
    let mut successor = Book::load(server.list());
    server.settle(&mut successor);
    set(&mut successor, 3, "other");
    server.settle(&mut successor);
    assert_eq!(server.addresses(), [(address(3), Some(258))]);
}

#[test]
fn an_identity_without_addresses_keeps_its_number_over_a_restart_and_for_no_longer_than_it_rests() {
    let (mut book, mut server) = (Book::default(), Server::default());
    set(&mut book, 1, "shop");
    set(&mut book, 2, "bank");
    server.settle(&mut book);
    book.remove(&Key::Address(address(1)), Instant::now());
    server.settle(&mut book);
    let mut successor = Book::load(server.list());
    set(&mut successor, 2, "bank");
    assert_eq!(server.settle(&mut successor), 0);
    set(&mut successor, 3, "shop");
    server.settle(&mut successor);
    assert_eq!(server.addresses(), [(address(2), Some(257)), (address(3), Some(256))]);

    successor.remove(&Key::Address(address(2)), Instant::now());
    successor.remove(&Key::Address(address(3)), Instant::now());
    server.settle(&mut successor);
    let listed = |server: &Server| -> usize {
        server.slices.values().map(|slice| slice.content.as_ref().unwrap().identities.len()).sum()
    };
    assert_eq!(listed(&server), 2);
    successor.tick(Instant::now() + crate::plan::identities::REST);
    server.settle(&mut successor);
    assert_eq!(listed(&server), 0);
    set(&mut successor, 3, "shop");
    server.settle(&mut successor);
    assert_eq!(server.addresses(), [(address(3), Some(258))]);
}

#[test]
fn resting_identities_make_room_for_those_that_are_used() {
    let (mut book, mut server) = (Book::default(), Server::default());
    for turn in 0..3 {
        for n in 0..100 {
            set(&mut book, n, &format!("ns{turn}-{n}"));
        }
        server.settle(&mut book);
        let slice = server.slices["addresses-000001"].content.as_ref().unwrap();
        assert_eq!((slice.addresses.len(), slice.identities.len()), (100, 100));
    }
    assert_eq!(server.slices.len(), 1);
}

#[test]
fn empty_slices_go_but_for_the_one_that_keeps_the_highest_number() {
    let (mut book, mut server) = (Book::default(), Server::default());
    for n in 0..300 {
        set(&mut book, n, "shop");
    }
    server.settle(&mut book);
    for n in 0..300 {
        book.remove(&Key::Address(address(n)), Instant::now());
    }
    server.settle(&mut book);
    assert_eq!(server.slices.len(), 1, "{:?}", server.slices.keys());
}

#[test]
fn what_contradicts_an_earlier_slice_is_put_right() {
    let mut server = Server::default();
    let entry = |name: &str, id| identity(name).entry(id);
    let said = |n, id| AddressEntry {
        address: address(n),
        identity: Some(id),
        entities: vec![Entity::Cluster],
        node: None,
    };
    let first = AddressSliceSpec {
        identities: vec![entry("shop", 300)],
        addresses: vec![said(1, 300)],
        ..AddressSliceSpec::default()
    };
    let second = AddressSliceSpec {
        identities: vec![entry("bank", 300), entry("shop", 301)],
        addresses: vec![said(1, 300), said(2, 300), said(3, 301)],
        ..AddressSliceSpec::default()
    };
    server.put("addresses-000001", first, 300);
    server.put("addresses-000002", second, 301);
    let mut book = Book::load(server.list());
    set(&mut book, 1, "shop");
    set(&mut book, 2, "bank");
    set(&mut book, 3, "shop");
    server.settle(&mut book);
    assert_eq!(
        server.addresses(),
        [(address(1), Some(300)), (address(2), Some(302)), (address(3), Some(300))]
    );
}

#[test]
fn what_somebody_else_writes_is_put_back() {
    let (mut book, mut server) = (Book::default(), Server::default());
    set(&mut book, 1, "shop");
    server.settle(&mut book);
    let right = server.addresses();
    // Changed.
    let changed = server.put("addresses-000001", AddressSliceSpec::default(), 0);
    book.observe("addresses-000001", changed);
    server.settle(&mut book);
    assert_eq!(server.addresses(), right);
    // Does not parse.
    let mut broken = server.put("addresses-000001", AddressSliceSpec::default(), 0);
    broken.content = None;
    book.observe("addresses-000001", broken);
    server.settle(&mut book);
    assert_eq!(server.addresses(), right);
    // Deleted.
    server.slices.clear();
    server.version += 1;
    book.gone("addresses-000001", &server.version.to_string());
    server.settle(&mut book);
    assert_eq!(server.addresses(), right);
    // Deleted while the watch was down.
    server.slices.clear();
    book.unlisted("addresses-000001");
    server.settle(&mut book);
    assert_eq!(server.addresses(), right);
    // Made by a leader of earlier days, with the same address.
    let stray = server.slices["addresses-000001"].content.clone().unwrap();
    let stray = server.put("addresses-000009", stray, 256);
    book.observe("addresses-000009", stray);
    server.settle(&mut book);
    assert_eq!(server.addresses(), right);
    assert_eq!(server.slices.len(), 1);
}

#[test]
fn news_of_an_own_write_that_overtake_its_answer_change_nothing() {
    let (mut book, mut server) = (Book::default(), Server::default());
    set(&mut book, 1, "shop");
    let write = book.next_write(Instant::now()).unwrap();
    let Action::Create { content, mark } = &write.action else { panic!("{write:?}") };
    let observed = server.put(&write.name, content.clone(), *mark);
    book.observe(&write.name, observed.clone());
    book.written(&write.name, observed.uid.clone(), observed.resource_version.clone());
    assert!(book.settled());
    book.observe(&write.name, observed);
    assert!(book.settled());
}

#[test]
fn a_conflict_is_read_and_written_anew() {
    let (mut book, mut server) = (Book::default(), Server::default());
    set(&mut book, 1, "shop");
    server.settle(&mut book);
    server.put("addresses-000001", AddressSliceSpec::default(), 0);
    set(&mut book, 2, "shop");
    assert_eq!(server.settle(&mut book), 3, "refused, read, written");
    assert_eq!(server.addresses().len(), 2);
}

#[test]
fn a_failed_write_is_tried_again_after_its_wait_with_what_is_wanted_then() {
    let (mut book, mut server) = (Book::default(), Server::default());
    let now = Instant::now();
    set(&mut book, 1, "shop");
    let write = book.next_write(now).unwrap();
    set(&mut book, 2, "shop");
    let retry = now + std::time::Duration::from_secs(3);
    book.refused(&write.name, Refusal::Failed(retry));
    assert!(book.next_write(now).is_none());
    assert_eq!(book.wake(now), Some(retry));
    let again = book.next_write(retry).unwrap();
    assert!(server.carry_out(&mut book, &again));
    assert_eq!(server.addresses().len(), 2);
}

#[test]
fn random_changes_and_crashes_leave_every_address_once_with_a_stable_number() {
    for seed in 0..20 {
        random_run(seed);
    }
}

fn random_run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut book, mut server) = (Book::default(), Server::default());
    let mut wanted: BTreeMap<IpAddr, String> = BTreeMap::new();
    let mut numbers: HashMap<String, u32> = HashMap::new();
    for round in 0..400 {
        for _ in 0..random.usize(1..20) {
            let at = address(random.u32(0..400));
            if random.f64() < 0.4 {
                wanted.remove(&at);
                book.remove(&Key::Address(at), Instant::now());
            } else {
                let name = format!("ns{}", random.u32(0..30));
                assert!(book.set_address(at, vec![], None, Some(&identity(&name)), Instant::now()));
                wanted.insert(at, name);
            }
        }
        // Some requests, of which some are never heard of again.
        for _ in 0..random.usize(0..3) {
            if let Some(write) = book.next_write(Instant::now()) {
                server.carry_out(&mut book, &write);
            }
        }
        if random.f64() < 0.2 {
            if let Some(write) = book.next_write(Instant::now())
                && random.bool()
            {
                server.carry_out(&mut Book::default(), &write);
                server.check();
            }
            book = Book::load(server.list());
            let stale: Vec<Key> = book.keys().cloned().collect();
            for key in stale {
                let Key::Address(at) = &key else { continue };
                if !wanted.contains_key(at) {
                    book.remove(&key, Instant::now());
                }
            }
            for (at, name) in &wanted {
                assert!(book.set_address(*at, vec![], None, Some(&identity(name)), Instant::now()));
            }
        }
        if round % 20 == 0 {
            server.settle(&mut book);
            let published: Vec<IpAddr> = server.addresses().iter().map(|(at, _)| *at).collect();
            assert_eq!(published, wanted.keys().copied().collect::<Vec<_>>());
            for (at, id) in server.addresses() {
                let id = id.unwrap();
                let name = &wanted[&at];
                for (other, number) in &numbers {
                    assert!(other == name || *number != id, "{id} meant {other} and means {name}");
                }
                let earlier = numbers.insert(name.clone(), id);
                assert!(earlier.is_none_or(|earlier| earlier == id), "{name} was {earlier:?} and is {id}");
            }
            for slice in server.slices.values().map(|slice| slice.content.as_ref().unwrap()) {
                assert!(slice.addresses.len() <= MAX_ENTRIES);
                let listed: Vec<u32> = slice.identities.iter().map(|entry| entry.id).collect();
                assert!(slice.addresses.iter().all(|entry| listed.contains(&entry.identity.unwrap())));
            }
        }
    }
}
