//! The corpus against a real API server: the generated CRDs install, every valid document is accepted, every invalid
//! one is refused with the field named, and the parser of `holdfast-agent check` judges alike.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use holdfast_crds::document::{Object, parse};
use holdfast_tests::controlplane::{ControlPlane, Options};
use holdfast_tests::tools;
use kube::Client;

#[path = "../corpus/cases.rs"]
mod cases;

use cases::{Case, cases};

/// The collection that objects of a kind are created in.
fn collection(text: &str) -> Result<&'static str> {
    let kind =
        text.lines().find_map(|line| line.strip_prefix("kind: ")).context("the document has no kind")?;
    Ok(match kind {
        "WorkloadPolicy" => "namespaces/shop/workloadpolicies",
        "ExternalWorkload" => "namespaces/shop/externalworkloads",
        "ClusterWorkloadPolicy" => "clusterworkloadpolicies",
        "NodeAgent" => "nodeagents",
        other => bail!("{other} is no kind of the corpus"),
    })
}

/// Why the API server refuses to create the document, which it is sent as it is; `None` if it does not.
async fn refusal(client: &Client, case: &Case) -> Result<Option<String>> {
    let text = std::str::from_utf8(&case.bytes)?;
    let uri = format!(
        "/apis/holdfast.dev/v1alpha1/{}?dryRun=All&fieldValidation=Strict&fieldManager=corpus",
        collection(text)?
    );
    let request =
        http::Request::post(uri).header("Content-Type", "application/yaml").body(case.bytes.clone())?;
    match client.request_text(request).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => {
            ensure!(matches!(status.code, 400 | 422), "{}: {}", case.path.display(), status.message);
            Ok(Some(status.message.clone()))
        }
        Err(error) => Err(error).context("the API server does not answer"),
    }
}

async fn cluster() -> Result<(ControlPlane, Client)> {
    let cluster = ControlPlane::start(Options::default()).await?;
    let crds = tools::root().join("crds/yaml");
    let crds = crds.to_str().context("the path is not UTF-8")?;
    cluster.kubectl(&["apply", "--filename", crds])?;
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "--filename", crds])?;
    cluster.kubectl(&["create", "namespace", "shop"])?;
    let client = cluster.client().await?;
    Ok((cluster, client))
}

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

#[tokio::test]
async fn the_api_server_and_check_give_the_same_verdict_on_every_document() -> Result<()> {
    let (_cluster, client) = cluster().await?;
    let mut wrong = Vec::new();
    let mut asked = 0;
    for (folder, server_accepts, check_accepts) in
        [("valid", true, true), ("unaccepted", true, false), ("invalid", false, false)]
    {
        for case in cases(&corpus(), folder) {
            asked += 1;
            let name = format!("{folder}/{}", case.path.file_name().unwrap_or_default().display());
            match (refusal(&client, &case).await?, server_accepts) {
                (None, true) => {}
                (None, false) => wrong.push(format!("{name}: the API server accepts it")),
                (Some(refusal), true) => wrong.push(format!("{name}: the API server refuses it: {refusal}")),
                (Some(refusal), false) => {
                    let missing = case.missing_in(&refusal);
                    wrong.extend(missing.map(|missing| {
                        format!("{name}: the API server's refusal does not have {missing}: {refusal}")
                    }));
                }
            }
            let parsed = parse(&name, &case.bytes);
            match (parsed.errors.first(), check_accepts) {
                (None, true) => {}
                (None, false) => wrong.push(format!("{name}: check accepts it")),
                (Some(error), true) => wrong.push(format!("{name}: check refuses it: {error}")),
                (Some(error), false) => {
                    let missing = case.missing_in(&error.to_string());
                    wrong
                        .extend(missing.map(|missing| {
                            format!("{name}: check's error does not have {missing}: {error}")
                        }));
                }
            }
        }
    }
    assert!(asked >= 100, "{asked} documents are too few");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn what_the_api_server_stores_of_a_policy_is_what_the_parser_makes_of_it() -> Result<()> {
    let (_cluster, client) = cluster().await?;
    for case in cases(&corpus(), "valid") {
        let text = std::str::from_utf8(&case.bytes)?;
        let uri = format!("/apis/holdfast.dev/v1alpha1/{}?dryRun=All", collection(text)?);
        let request =
            http::Request::post(uri).header("Content-Type", "application/yaml").body(case.bytes.clone())?;
        let stored: serde_json::Value = client.request(request).await?;
        let parsed = parse("f.yaml", &case.bytes);
        let document = parsed.documents.first().with_context(|| format!("{:?}", parsed.errors))?;
        // The types leave out what is empty, so both go through them.
        let spec = match &document.object {
            Object::WorkloadPolicy(object) => same(&object.spec, &stored)?,
            Object::ClusterWorkloadPolicy(object) => same(&object.spec, &stored)?,
            Object::ExternalWorkload(object) => same(&object.spec, &stored)?,
            Object::NodeAgent(object) => same(&object.spec, &stored)?,
        };
        assert!(spec, "{}: {stored}", case.path.display());
    }
    Ok(())
}

fn same<T: serde::de::DeserializeOwned + PartialEq>(spec: &T, stored: &serde_json::Value) -> Result<bool> {
    let stored: T = serde_json::from_value(stored["spec"].clone())?;
    Ok(*spec == stored)
}

#[tokio::test]
async fn a_policy_with_every_list_as_long_as_allowed_stays_in_the_budget_of_cel() -> Result<()> {
    use serde_json::json;

    let (_cluster, client) = cluster().await?;
    let labels: serde_json::Map<_, _> =
        (0..8).map(|n| (format!("some.example.org/label-{n}"), json!("v"))).collect();
    let exceptions: Vec<String> = (0..16).map(|n| format!("10.{n}.0.0/16")).collect();
    let peers = |peer: serde_json::Value| vec![json!({ "from": vec![peer; 32] }); 64];
    let names: Vec<&str> = holdfast_policy::syscalls::names()
        .iter()
        .copied()
        .filter(|name| !holdfast_policy::model::ALWAYS_ALLOWED.contains(name))
        .take(128)
        .collect();
    // Long enough to cost what the budget reckons with, short enough for one request.
    let paths = |rule: u32| -> Vec<String> {
        (0..64).map(|n| format!("/{}/{rule}/{n}/**", ["directory"; 8].join("/"))).collect()
    };
    let ports: Vec<_> = (1..=32).map(|port| json!({ "port": port })).collect();
    let specs = [
        json!({"network": {"ingress": {"allow": peers(json!({"podSelector": {"matchLabels": labels}}))}}}),
        json!({"network": {"ingress": {"deny": peers(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": exceptions}}))}}}),
        json!({"network": {"egress": {"allow": vec![json!({ "ports": ports }); 64], "deny": vec![json!({ "ports": ports }); 64]}}}),
        json!({"syscalls": {"rules": vec![json!({"names": names, "action": "Deny"}); 64]}}),
        json!({"processes": {"rules": (0..64).map(|n| json!({"paths": paths(n), "action": "Deny"})).collect::<Vec<_>>()}}),
        json!({"files": {"rules": (0..64).map(|n| json!({"paths": paths(n), "operations": ["Read"], "action": "Deny",
            "unless": {"executables": &paths(n)[..16]}})).collect::<Vec<_>>()}}),
    ];
    for mut spec in specs {
        spec["selector"] = json!({});
        let policy = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy", "metadata": {"name": "large"}, "spec": spec,
        });
        let text = policy.to_string();
        let uri =
            "/apis/holdfast.dev/v1alpha1/namespaces/shop/workloadpolicies?dryRun=All&fieldValidation=Strict";
        let request = http::Request::post(uri)
            .header("Content-Type", "application/json")
            .body(text.clone().into_bytes())?;
        client.request_text(request).await.context("the API server refuses it")?;
        let parsed = parse("large.yaml", text.as_bytes());
        assert_eq!(parsed.errors, []);
    }
    Ok(())
}

/// A deterministic source of choices, so that a failure can be seen again.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit.max(1)).unwrap_or(1)).unwrap_or(0)
    }
}

/// Every place in a value, as a JSON pointer.
fn pointers(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        serde_json::Value::Object(object) => {
            for (key, child) in object {
                pointers(child, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        serde_json::Value::Array(list) => {
            for (index, child) in list.iter().enumerate() {
                pointers(child, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Changes one place of a document at random: another value, one more, one less, or what stands there elsewhere.
fn mutate(document: &mut serde_json::Value, others: &[serde_json::Value], choices: &mut Choices) {
    use serde_json::json;

    let values = [
        json!(null),
        json!(""),
        json!(0),
        json!(1),
        json!(-1),
        json!(6),
        json!(80),
        json!(65535),
        json!(65536),
        json!(4_294_967_296_i64),
        json!(1.5),
        json!(true),
        json!([]),
        json!({}),
        json!([{}]),
        json!([null]),
        json!(["a"]),
        json!("a"),
        json!("A"),
        json!("a b"),
        json!("a-b"),
        json!("a--b"),
        json!("80"),
        json!("a.b"),
        json!("a/b"),
        json!("10.0.0.0/8"),
        json!("10.0.0.1/8"),
        json!("10.0.0.1"),
        json!("::1"),
        json!("::/0"),
        json!("fe80::1"),
        json!("::ffff:1.2.3.4"),
        json!("1:2:3:4:5:6:7::"),
        json!("1::2:3:4:5:6:7:8"),
        json!("0.0.0.0"),
        json!("255.255.255.255"),
        json!("2001:DB8::/32"),
        json!("mount"),
        json!("@mount"),
        json!("socket"),
        json!("exit"),
        json!("Deny"),
        json!("Kill"),
        json!("MaskedEqual"),
        json!("Exists"),
        json!("In"),
        json!("/a"),
        json!("/a/"),
        json!("/a/../b"),
        json!("/**"),
        json!("/a*/**/b"),
        json!("/a/**b"),
        json!("//"),
        json!("/a?"),
        json!(["/a", "/b"]),
        json!("Read"),
        json!(["Read", "Write"]),
        json!("NET_RAW"),
        json!(false),
        json!("1%"),
        json!("100%"),
        json!("0%"),
        json!("x".repeat(64)),
        json!("pod-template-hash"),
        json!("batch.kubernetes.io/x"),
    ];
    let mut places = Vec::new();
    pointers(&document["spec"], "/spec", &mut places);
    let place = &places[choices.below(places.len())];
    let (parent, key) = place.rsplit_once('/').unwrap_or(("", ""));
    let key = key.replace("~1", "/").replace("~0", "~");
    match choices.below(5) {
        0 => match document.pointer_mut(parent) {
            Some(serde_json::Value::Object(object)) if key != "spec" => {
                object.remove(&key);
            }
            Some(serde_json::Value::Array(list)) => {
                list.remove(key.parse().unwrap_or(0));
            }
            _ => {}
        },
        1 => {
            if let Some(serde_json::Value::Array(list)) = document.pointer_mut(parent) {
                let item = list[key.parse().unwrap_or(0)].clone();
                list.push(item);
            }
        }
        2 => {
            // A field as some other document has it.
            let other = &others[choices.below(others.len())];
            let mut theirs = Vec::new();
            pointers(&other["spec"], "/spec", &mut theirs);
            let their = theirs[choices.below(theirs.len())].clone();
            let name = their.rsplit('/').next().unwrap_or_default().replace("~1", "/");
            let value = other.pointer(&their).cloned().unwrap_or_default();
            if let Some(serde_json::Value::Object(object)) = document.pointer_mut(parent)
                && name != "spec"
                && name.parse::<usize>().is_err()
            {
                object.insert(name, value);
            }
        }
        _ => {
            if let Some(value) = document.pointer_mut(place) {
                *value = values[choices.below(values.len())].clone();
            }
        }
    }
}

/// Judgements of `check` that the API server leaves to the operator, which answers `Accepted=False`, and the null in a
/// map, which the API server drops.
fn is_left_out_by_the_api_server(error: &holdfast_crds::document::DocumentError) -> bool {
    let argument = error.field.contains(".args[")
        && (error.problem.contains("bits") || error.problem.contains("outside the mask"));
    let maps = [".matchLabels.", ".nodeSelector.", ".requests.", ".limits."];
    let decided = error.problem.contains("already, which decides");
    argument
        || decided
        || error.problem.ends_with("is null") && maps.iter().any(|map| error.field.contains(map))
}

#[tokio::test]
async fn the_api_server_and_check_agree_on_documents_changed_at_random() -> Result<()> {
    const DOCUMENTS: usize = 3000;
    let (_cluster, client) = cluster().await?;
    let seed = match std::env::var("HOLDFAST_SEED") {
        Ok(seed) => seed.parse().context("HOLDFAST_SEED is no number")?,
        Err(_) => 0x2545_f491_4f6c_dd1d,
    };
    let mut choices = Choices(seed);
    let mut originals = Vec::new();
    for case in cases(&corpus(), "valid") {
        let parsed = parse("f.yaml", &case.bytes);
        let document = parsed.documents.first().with_context(|| format!("{:?}", parsed.errors))?;
        originals.push(match &document.object {
            Object::WorkloadPolicy(object) => serde_json::to_value(object)?,
            Object::ClusterWorkloadPolicy(object) => serde_json::to_value(object)?,
            Object::ExternalWorkload(object) => serde_json::to_value(object)?,
            Object::NodeAgent(object) => serde_json::to_value(object)?,
        });
    }
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for number in 0..DOCUMENTS {
        let mut document = originals[choices.below(originals.len())].clone();
        for _ in 0..=choices.below(3) {
            mutate(&mut document, &originals, &mut choices);
        }
        let kind = format!("kind: {}", document["kind"].as_str().unwrap_or_default());
        let bytes = serde_json::to_vec(&document)?;
        let uri =
            format!("/apis/holdfast.dev/v1alpha1/{}?dryRun=All&fieldValidation=Strict", collection(&kind)?);
        let request =
            http::Request::post(uri).header("Content-Type", "application/json").body(bytes.clone())?;
        let server = match client.request_text(request).await {
            Ok(_) => None,
            Err(kube::Error::Api(status)) => Some(status.message.clone()),
            Err(error) => return Err(error).context("the API server does not answer"),
        };
        let parsed = parse("f.yaml", &bytes);
        let check = parsed.errors.iter().find(|error| !is_left_out_by_the_api_server(error));
        refused += usize::from(server.is_some());
        if server.is_some() != check.is_some() {
            let check = check.map(ToString::to_string);
            wrong.push(format!("{number}: {document}\n  API server: {server:?}\n  check: {check:?}"));
        }
    }
    assert!(
        refused > DOCUMENTS / 5 && refused < DOCUMENTS * 19 / 20,
        "{refused} of {DOCUMENTS} were refused"
    );
    assert!(wrong.is_empty(), "seed {seed}: {} differ\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
