//! The operator's leader is killed again and again while pods come and go.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_crds::AddressSlice;
use holdfast_tests::{
    controlplane::{ControlPlane, Options},
    operator::{self, Operator},
    wait::until,
};
use k8s_openapi::{
    api::core::v1::{Namespace, Node, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How many pods there are at any time.
const PODS: u32 = 1000;
/// How often the leader is killed.
const KILLS: usize = 10;
/// The budget of writes in a second.
const BUDGET: u32 = 20;
/// How many workers replace pods at the same time.
const WORKERS: u32 = 8;
/// How many namespaces and kinds of pods there are.
const NAMESPACES: u32 = 5;
const KINDS: u32 = 20;

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("the test's own object parses")
}

/// One place for a pod: its address stays, who holds it changes.
#[derive(Clone, Copy)]
struct Place(u32);

impl Place {
    fn address(self) -> String {
        format!("10.244.{}.{}", self.0 / 250, self.0 % 250 + 1)
    }

    fn node(self) -> String {
        format!("n{}", self.0 / 250)
    }

    fn name(self, turn: u32) -> String {
        format!("p{}-{turn}", self.0)
    }

    fn namespace(self) -> String {
        format!("ns{}", self.0 % NAMESPACES)
    }

    fn app(self, turn: u32) -> String {
        format!("app{}", (self.0 + 7 * turn) % KINDS)
    }
}

async fn run(client: &Client, place: Place, turn: u32) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &place.namespace());
    let name = place.name(turn);
    let pod = json!({
        "metadata": {"name": name, "labels": {"app": place.app(turn), "pod-template-hash": format!("h{turn}")}},
        "spec": {"nodeName": place.node(), "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "registry.test/none"}]}});
    api.create(&PostParams::default(), &object(pod)).await?;
    let status = json!({"status": {"phase": "Running", "podIP": place.address(), "podIPs": [{"ip": place.address()}]}});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

async fn replace(client: &Client, place: Place, turn: u32) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &place.namespace());
    api.delete(&place.name(turn), &DeleteParams::default().grace_period(0)).await?;
    run(client, place, turn + 1).await
}

/// Address -> (number, what the number means), of one consistent reading of all slices.
type Seen = BTreeMap<String, (u32, String)>;

async fn read(client: &Client) -> Result<Seen> {
    let api: Api<AddressSlice> = Api::all(client.clone());
    let mut seen = Seen::new();
    for slice in api.list(&ListParams::default()).await? {
        let identities: HashMap<u32, String> = slice
            .spec
            .identities
            .iter()
            .map(|identity| (identity.id, format!("{} {:?}", identity.namespace, identity.labels)))
            .collect();
        for entry in slice.spec.addresses.iter().filter(|entry| entry.identity.is_some()) {
            let id = entry.identity.context("an identity")?;
            let meaning = identities.get(&id).context("an identity that its slice does not list")?;
            let twice = seen.insert(entry.address.to_string(), (id, meaning.clone()));
            ensure!(twice.is_none(), "{} stands in two slices", entry.address);
        }
    }
    Ok(seen)
}

/// Holds every reading against all earlier ones: no number ever changes its meaning, no meaning its number.
#[derive(Default)]
struct Witness {
    meanings: HashMap<u32, String>,
    numbers: HashMap<String, u32>,
}

impl Witness {
    fn hear(&mut self, seen: &Seen) -> Result<()> {
        for (id, meaning) in seen.values() {
            let meant = self.meanings.entry(*id).or_insert_with(|| meaning.clone());
            ensure!(meant == meaning, "{id} meant {meant} and now means {meaning}");
            let numbered = self.numbers.entry(meaning.clone()).or_insert(*id);
            ensure!(numbered == id, "{meaning} was {numbered} and now is {id}");
        }
        Ok(())
    }
}

/// The times, in microseconds, of all writes of AddressSlices that the API server answered, whatever the answer.
fn writes(cluster: &ControlPlane) -> Result<Vec<i64>> {
    let mut times = Vec::new();
    for event in cluster.audit_events()? {
        let verb = event["verb"].as_str().unwrap_or_default();
        if event["objectRef"]["resource"] == "addressslices"
            && matches!(verb, "create" | "update" | "patch" | "delete")
        {
            let time: Timestamp =
                event["requestReceivedTimestamp"].as_str().context("no time in the audit log")?.parse()?;
            times.push(time.as_microsecond());
        }
    }
    times.sort_unstable();
    Ok(times)
}

/// What the workers have done so far, and whether they are to stop.
#[derive(Default)]
struct Churn {
    stop: AtomicBool,
    made: AtomicUsize,
    replaced: AtomicUsize,
}

impl Churn {
    fn done(&self) -> usize {
        self.made.load(Ordering::Relaxed) + self.replaced.load(Ordering::Relaxed)
    }

    /// Makes a worker's share of the pods, and then replaces them one by one until told to stop. Returns which turn each
    /// place is at.
    async fn work(&self, client: &Client, worker: u32) -> Result<BTreeMap<u32, u32>> {
        let mine: Vec<Place> = (0..PODS).filter(|place| place % WORKERS == worker).map(Place).collect();
        for place in &mine {
            run(client, *place, 0).await?;
            self.made.fetch_add(1, Ordering::Relaxed);
        }
        let mut turns: BTreeMap<u32, u32> = mine.iter().map(|place| (place.0, 0)).collect();
        let mut at = usize::try_from(worker)?;
        while !self.stop.load(Ordering::Relaxed) {
            at = (at * 31 + 7) % mine.len();
            let turn = turns.get_mut(&mine[at].0).context("a place of this worker")?;
            replace(client, mine[at], *turn).await?;
            *turn += 1;
            self.replaced.fetch_add(1, Ordering::Relaxed);
        }
        Ok(turns)
    }
}

async fn prepare(cluster: &ControlPlane) -> Result<Client> {
    operator::prepare(cluster)?;
    let client = cluster.client().await?;
    let nodes: Api<Node> = Api::all(client.clone());
    for n in 0..PODS.div_ceil(250) {
        let cidr = format!("10.244.{n}.0/24");
        let spec = json!({"podCIDR": cidr, "podCIDRs": [cidr]});
        let node = json!({"metadata": {"name": format!("n{n}")}, "spec": spec});
        nodes.create(&PostParams::default(), &object(node)).await?;
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for n in 0..NAMESPACES {
        let namespace = json!({"metadata": {"name": format!("ns{n}")}});
        namespaces.create(&PostParams::default(), &object(namespace)).await?;
    }
    Ok(client)
}

/// Over any time, no more writes than the budget gives, and one more for each leader that began in that time.
fn check_budget(times: &[i64]) -> Result<()> {
    for seconds in [1_u32, 10] {
        let window = i64::from(seconds) * 1_000_000;
        // The Lease of a killed leader takes three seconds to run out, so few leaders begin in one window.
        let most = usize::try_from(BUDGET * seconds + 1 + seconds.div_ceil(3))?;
        for (first, start) in times.iter().enumerate() {
            let count = times[first..].iter().take_while(|time| **time < start + window).count();
            ensure!(
                count <= most,
                "{count} writes within {seconds} s, {} µs after the first",
                start - times[0]
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_is_published_once_while_leaders_are_killed_and_pods_come_and_go() -> Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    let client = prepare(&cluster).await?;
    let mut started = 0;
    let mut start = || -> Result<Operator> {
        started += 1;
        Operator::start(&cluster, &format!("operator-{started}"), &[])
    };
    let mut replicas = [start()?, start()?];
    let churn = Arc::new(Churn::default());
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let (client, churn) = (client.clone(), churn.clone());
        workers.spawn(async move { churn.work(&client, worker).await });
    }

    let mut witness = Witness::default();
    for kill in 1..=KILLS {
        // The leader is in the middle of writing, while pods come and go.
        let before = churn.done();
        let what = "a replica leads and writes, while pods come and go";
        let leader = until(Duration::from_mins(1), what, async || {
            witness.hear(&read(&client).await?)?;
            let moved = churn.done() > before + 20;
            for (at, replica) in replicas.iter_mut().enumerate() {
                replica.check()?;
                let count = replica.metric("holdfast_address_slice_writes_total").await.ok().flatten();
                if moved && replica.leads().await && count >= Some(15.0) {
                    return Ok(Some(at));
                }
            }
            Ok(None)
        })
        .await?;
        replicas[leader].kill()?;
        println!("kill {kill} after {} pods came or went", churn.done());
        replicas[leader] = start()?;
    }
    churn.stop.store(true, Ordering::Relaxed);
    let mut wanted = BTreeMap::new();
    while let Some(turns) = workers.join_next().await {
        for (place, turn) in turns?? {
            let place = Place(place);
            let labels = BTreeMap::from([("app".to_owned(), place.app(turn))]);
            wanted.insert(place.address(), format!("{} {labels:?}", place.namespace()));
        }
    }
    assert_eq!(wanted.len(), usize::try_from(PODS)?);
    let result = until(Duration::from_mins(2), "every address is published as what it is", async || {
        let seen = read(&client).await?;
        witness.hear(&seen)?;
        let now: BTreeMap<String, String> =
            seen.iter().map(|(address, (_, meaning))| (address.clone(), meaning.clone())).collect();
        Ok((now == wanted).then_some(()))
    })
    .await;
    result.with_context(|| replicas.iter().map(Operator::log_tail).collect::<Vec<_>>().join("\n--\n"))?;

    let times = writes(&cluster)?;
    println!(
        "{} identities seen, {} pods replaced, {} writes of slices in {} s",
        witness.numbers.len(),
        churn.replaced.load(Ordering::Relaxed),
        times.len(),
        (times[times.len() - 1] - times[0]) / 1_000_000
    );
    check_budget(&times)
}
