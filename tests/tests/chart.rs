//! The chart without a cluster: what it renders to, which values it refuses, and that its values are documented, checked
//! and used.
//!
//! `HOLDFAST_UPDATE=1` writes what is generated: the goldens of the scenarios, and the part of the schema that comes from
//! the CRD of NodeAgent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use holdfast_operator::args::{Cli, Command};
use holdfast_tests::chart::{
    self, Documented, Helm, Scenario, documented, lookup, paths, without, yaml, yaml_file,
};
use serde_json::{Map, Value, json};

fn updating() -> bool {
    std::env::var_os("HOLDFAST_UPDATE").is_some_and(|value| value == "1")
}

fn schema() -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(chart::directory().join("values.schema.json"))?)?)
}

fn values_yaml() -> Result<Vec<Documented>> {
    documented(&fs::read_to_string(chart::directory().join("values.yaml"))?)
}

/// Objects of one kind in what was rendered.
fn of_kind<'object>(objects: &'object [Value], kind: &str) -> Vec<&'object Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn the_chart_is_of_the_version_of_the_programs() -> Result<()> {
    let chart = yaml_file(&chart::directory().join("Chart.yaml"))?;
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    Ok(())
}

#[test]
fn every_scenario_says_for_whom_it_is_and_passes_the_strict_linter() -> Result<()> {
    let (helm, scenarios) = (Helm::new()?, chart::scenarios()?);
    assert!(scenarios.len() >= 12, "{} scenarios", scenarios.len());
    for Scenario { name, path } in &scenarios {
        let first = fs::read_to_string(path)?.lines().next().unwrap_or_default().to_owned();
        assert!(first.starts_with("# For "), "{name}: {first}");
        let chart = chart::directory().display().to_string();
        helm.run(&["lint", "--strict", &chart, "--values", &path.display().to_string()])?;
    }
    Ok(())
}

#[test]
fn every_scenario_renders_to_its_golden() -> Result<()> {
    let (helm, scenarios) = (Helm::new()?, chart::scenarios()?);
    let golden = chart::directory().join("scenarios/golden");
    fs::create_dir_all(&golden)?;
    let mut differing = Vec::new();
    for scenario in &scenarios {
        let rendered = helm.render(&scenario.path)?;
        if updating() {
            fs::write(scenario.golden(), &rendered)?;
        }
        let wanted = fs::read_to_string(scenario.golden()).unwrap_or_default();
        let line = rendered.lines().zip(wanted.lines()).position(|(one, other)| one != other);
        if rendered != wanted {
            let line = line.unwrap_or_else(|| rendered.lines().count().min(wanted.lines().count())) + 1;
            differing.push(format!("{}: line {line}", scenario.golden().display()));
        }
    }
    let known: BTreeSet<_> = scenarios.iter().map(Scenario::golden).collect();
    for entry in fs::read_dir(&golden)? {
        let path = entry?.path();
        if !known.contains(&path) {
            differing.push(format!("{}: no such scenario", path.display()));
        }
    }
    assert!(differing.is_empty(), "`make generate` renders anew:\n{}", differing.join("\n"));
    Ok(())
}

#[test]
fn the_operator_understands_its_command_line_in_every_scenario() -> Result<()> {
    let helm = Helm::new()?;
    for Scenario { name, path } in chart::scenarios()? {
        let objects = yaml(&name, helm.render(&path)?.as_bytes())?;
        let containers = objects
            .iter()
            .filter_map(|object| {
                let pod = if object["kind"] == "Deployment" { "/spec/template/spec" } else { "/spec" };
                object.pointer(pod)?.get("containers")?.as_array()
            })
            .flatten();
        let mut commands = Vec::new();
        for container in containers {
            let arguments = container["args"].as_array().context("no args")?;
            let arguments = arguments.iter().map(|argument| argument.as_str().unwrap_or_default());
            let parsed = Cli::try_parse_from(std::iter::once("holdfast-operator").chain(arguments));
            let parsed = parsed.map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
            commands.push(match parsed.command {
                Command::Run(run) => {
                    assert_eq!(run.namespace, chart::NAMESPACE, "{name}");
                    "run"
                }
                Command::Test(_) => "test",
            });
        }
        commands.sort_unstable();
        assert_eq!(commands, ["run", "test"], "{name}");
    }
    Ok(())
}

#[test]
fn pods_of_the_chart_run_with_nothing_that_they_do_not_need() -> Result<()> {
    let helm = Helm::new()?;
    let objects = yaml("defaults", helm.render_values(&json!({}))?.as_bytes())?;
    let deployment = of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"].clone();
    let test = of_kind(&objects, "Pod")[0]["spec"].clone();
    for pod in [&deployment, &test] {
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in pod["containers"].as_array().context("no containers")? {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        }
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(deployment["containers"][0][probe]["httpGet"].is_object(), "{probe}");
    }
    Ok(())
}

#[test]
fn images_are_named_by_registry_repository_and_digest_or_tag() -> Result<()> {
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let helm = Helm::new()?;
    let shown = |values: Value| -> Result<(String, String, Value)> {
        let objects = yaml("values", helm.render_values(&values)?.as_bytes())?;
        let container = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
        let agent = |flag: &str| {
            let arguments = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
            arguments
                .filter_map(|argument| argument.strip_prefix(flag))
                .next_back()
                .unwrap_or_default()
                .to_owned()
        };
        let image = container["image"].as_str().unwrap_or_default().to_owned();
        let agent = format!("{}:{}", agent("--agent-image-repository="), agent("--agent-default-tag="));
        let spec = of_kind(&objects, "NodeAgent").first().map(|object| object["spec"].clone());
        Ok((image, agent, spec.unwrap_or_default()))
    };
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    let (operator, agent, spec) = shown(json!({}))?;
    assert_eq!(operator, format!("ghcr.io/holdfast-dev/operator:{version}"));
    assert_eq!(agent, format!("ghcr.io/holdfast-dev/agent:{version}"));
    assert_eq!(spec["imageDigest"], Value::Null);

    let (operator, agent, _) =
        shown(json!({"global": {"imageRegistry": "mirror.test:5000/"}, "image": {"tag": "v9"}}))?;
    assert_eq!(operator, "mirror.test:5000/holdfast-dev/operator:v9");
    assert_eq!(agent, format!("mirror.test:5000/holdfast-dev/agent:{version}"));

    let both = json!({
        "image": {"registry": "", "tag": "v9", "digest": digest("a")},
        "agent": {"image": {"tag": "v8", "digest": digest("b")}},
    });
    let (operator, agent, spec) = shown(both.clone())?;
    assert_eq!(operator, format!("holdfast-dev/operator@{}", digest("a")));
    assert_eq!(agent, "ghcr.io/holdfast-dev/agent:v8");
    assert_eq!(spec["imageDigest"], digest("b"));

    // What a NodeAgent says goes before what is said of all.
    let mut own = both;
    own["nodeAgent"] = json!({"spec": {"imageTag": "v7"}});
    let (_, _, spec) = shown(own)?;
    assert_eq!((&spec["imageTag"], &spec["imageDigest"]), (&json!("v7"), &Value::Null));

    // A digest that nothing would use is an error.
    let unused = json!({"agent": {"image": {"digest": digest("b")}}, "nodeAgent": {"create": false}});
    let error = helm.render_values(&unused).expect_err("it renders").to_string();
    assert!(error.contains("agent.image.digest: needs nodeAgent.create"), "{error}");
    Ok(())
}

#[test]
fn rules_and_dashboards_are_rendered_as_they_are() -> Result<()> {
    let on = json!({"metrics": {"prometheusRule": {"enabled": true}, "dashboards": {"enabled": true}}});
    let objects = yaml("values", Helm::new()?.render_values(&on)?.as_bytes())?;
    let files = |folder: &str, extension: &str| -> Result<BTreeMap<String, String>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(chart::directory().join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == extension) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                files.insert(name, fs::read_to_string(&path)?);
            }
        }
        Ok(files)
    };
    let rules = files("rules", "yaml")?;
    assert!(!rules.is_empty());
    let rendered = of_kind(&objects, "PrometheusRule");
    assert_eq!(rendered.len(), rules.len());
    for (name, text) in &rules {
        let file = yaml(name, text.as_bytes())?;
        assert!(rendered.iter().any(|rule| rule["spec"] == file[0]), "{name}");
    }
    let dashboards = files("dashboards", "json")?;
    assert!(!dashboards.is_empty());
    let maps = of_kind(&objects, "ConfigMap");
    assert_eq!(maps.len(), dashboards.len());
    for (name, text) in &dashboards {
        let map = maps.iter().find(|map| map["data"].get(name).is_some()).with_context(|| name.clone())?;
        let shown: Value = serde_json::from_str(map["data"][name].as_str().unwrap_or_default())?;
        assert_eq!(shown, serde_json::from_str::<Value>(text)?, "{name}");
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1", "{name}");
    }
    Ok(())
}

/// Wrong values: their path, the value there, and how Helm names the place.
#[expect(clippy::too_many_lines, reason = "a table")]
fn wrong() -> Vec<(&'static str, Value, &'static str)> {
    let (image, spec) = ("/image", "/nodeAgent/spec");
    vec![
        ("colour", json!("red"), "'colour' not allowed"),
        ("image.pulPolicy", json!("Always"), image),
        ("image.pullPolicy", json!("Sometimes"), "/image/pullPolicy"),
        ("image.repository", json!("holdfast/Operator"), "/image/repository"),
        ("image.repository", json!("holdfast/operator:v1"), "/image/repository"),
        ("image.registry", json!("https://registry.test"), "/image/registry"),
        ("image.tag", json!("v1 beta"), "/image/tag"),
        ("image.tag", json!(1.2), "/image/tag"),
        ("image.digest", json!("sha256:12"), "/image/digest"),
        ("image", Value::Null, "image"),
        ("global.imageRegistry", json!("registry.test/"), ""),
        ("global.imageRegistry", json!(["registry.test"]), "/global/imageRegistry"),
        ("global.imagePullSecrets", json!(["robot"]), "/global/imagePullSecrets/0"),
        ("imagePullSecrets", json!([{"name": "Robot"}]), "/imagePullSecrets/0/name"),
        ("replicaCount", json!("two"), "/replicaCount"),
        ("replicaCount", json!(-1), "/replicaCount"),
        ("fullnameOverride", json!("Shield"), "/fullnameOverride"),
        ("commonLabels", json!({"app.kubernetes.io/name": "mine"}), "/commonLabels"),
        ("commonLabels", json!({"owner": "a b"}), "/commonLabels/owner"),
        ("podLabels", json!({"owner": 1}), "/podLabels/owner"),
        ("podAnnotations", json!({"a": true}), "/podAnnotations/a"),
        ("serviceAccount.create", json!("yes"), "/serviceAccount/create"),
        ("serviceAccount.name", json!("a/b"), "/serviceAccount/name"),
        ("rbac.creates", json!(true), "/rbac"),
        ("crds.manage", json!("true"), "/crds/manage"),
        ("resources.limits", json!({"memory": "1Gb"}), "/resources/limits/memory"),
        ("resources.limit", json!({"memory": "1Gi"}), "/resources"),
        ("nodeSelector", json!({"pool": true}), "/nodeSelector/pool"),
        ("tolerations", json!([{"operator": "Exist"}]), "/tolerations/0/operator"),
        ("tolerations", json!({"operator": "Exists"}), "/tolerations"),
        ("affinity", json!({"podAntiaffinity": {}}), "/affinity"),
        (
            "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution",
            json!([{"labelSelector": {}}]),
            "/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0",
        ),
        ("topologySpreadConstraints", json!([{"maxSkew": 1}]), "/topologySpreadConstraints/0"),
        ("securityContext.capabilities", json!({"drop": "ALL"}), "/securityContext/capabilities/drop"),
        (
            "podSecurityContext.seccompProfile",
            json!({"type": "Default"}),
            "/podSecurityContext/seccompProfile/type",
        ),
        ("podDisruptionBudget.maxUnavailable", json!("half"), "/podDisruptionBudget/maxUnavailable"),
        ("readinessProbe.period", json!(3), "/readinessProbe"),
        ("extraArgs", json!("--log-level=debug"), "/extraArgs"),
        ("extraEnv", json!([{"value": "a"}]), "/extraEnv/0"),
        ("extraVolumes", json!([{"name": "a"}]), "/extraVolumes/0"),
        ("logLevel", json!("loud"), "/logLevel"),
        ("logLevel", json!("info,holdfast_operator"), "/logLevel"),
        ("logFormat", json!("Json"), "/logFormat"),
        ("leaderElection.leaseDuration", json!("15s"), "/leaderElection/leaseDuration"),
        ("leaderElection.leaseDuration", json!(0), "/leaderElection/leaseDuration"),
        ("podCIDRs", json!(["10.0.0.0/33"]), "/podCIDRs/0"),
        ("podCIDRs", json!(["10.0.0.0/8", "10.0.0.1"]), "/podCIDRs/1"),
        ("serviceCIDRs", json!(["10.256.0.0/16"]), "/serviceCIDRs/0"),
        ("serviceCIDRs", json!(["fd00::/129"]), "/serviceCIDRs/0"),
        ("sliceWritesPerSecond", json!(0), "/sliceWritesPerSecond"),
        ("agent.metricsPort", json!(70_000), "/agent/metricsPort"),
        ("agent.image.pullPolicy", json!("always"), "/agent/image/pullPolicy"),
        ("agent.resources", json!({}), "/agent"),
        ("nodeAgent.name", json!("Default"), "/nodeAgent/name"),
        ("nodeAgent.spec.logLevel", json!("info"), "/nodeAgent/spec/logLevel"),
        ("nodeAgent.spec.logformat", json!("Json"), spec),
        (
            "nodeAgent.spec.updateStrategy",
            json!({"maxUnavailable": "0%"}),
            "/nodeAgent/spec/updateStrategy/maxUnavailable",
        ),
        ("nodeAgent.spec.updateStrategy", json!({"maxSurge": 1}), "/nodeAgent/spec/updateStrategy"),
        (
            "nodeAgent.spec.resources",
            json!({"limits": {"cpu": "one"}}),
            "/nodeAgent/spec/resources/limits/cpu",
        ),
        ("nodeAgent.spec.nodeSelector", json!({"pool": 1}), "/nodeAgent/spec/nodeSelector/pool"),
        ("nodeAgent.spec.tolerations", json!([{"keys": "a"}]), "/nodeAgent/spec/tolerations/0"),
        ("nodeAgent.spec.imageDigest", json!("latest"), "/nodeAgent/spec/imageDigest"),
        ("nodeAgent.spec.priorityClassName", json!("High"), "/nodeAgent/spec/priorityClassName"),
        ("flowControl.lendablePercent", json!(101), "/flowControl/lendablePercent"),
        ("service.port", json!("http"), "/service/port"),
        ("service.ipFamilyPolicy", json!("DualStack"), "/service/ipFamilyPolicy"),
        (
            "networkPolicy.metricsFrom",
            json!([{"ipBlock": {"cidr": "10.0.0.0"}}]),
            "/networkPolicy/metricsFrom/0/ipBlock/cidr",
        ),
        ("networkPolicy.egress.apiServerPorts", json!([0]), "/networkPolicy/egress/apiServerPorts/0"),
        ("metrics.serviceMonitor.interval", json!("30 s"), "/metrics/serviceMonitor/interval"),
        ("metrics.serviceMonitor.enable", json!(true), "/metrics/serviceMonitor"),
        (
            "metrics.podMonitor.relabelings",
            json!([{"target_label": "a"}]),
            "/metrics/podMonitor/relabelings/0",
        ),
        (
            "metrics.podMonitor.metricRelabelings",
            json!([{"action": "remove"}]),
            "/metrics/podMonitor/metricRelabelings/0/action",
        ),
        ("metrics.dashboards.labelValue", json!(1), "/metrics/dashboards/labelValue"),
        ("metrics.prometheusRules", json!({"enabled": true}), "/metrics"),
    ]
}

#[test]
fn wrong_values_are_refused_and_named_by_their_path() -> Result<()> {
    let helm = Helm::new()?;
    for (path, value, place) in wrong() {
        let values = path.rsplit('.').fold(value.clone(), |inner, name| json!({ name: inner }));
        let outcome = helm.render_values(&values);
        if place.is_empty() {
            outcome.with_context(|| format!("{path}: {value} is right"))?;
            continue;
        }
        let error = outcome.err().with_context(|| format!("{path}: {value} is not refused"))?.to_string();
        assert!(error.contains("schema"), "{path}: {value}: not by the schema: {error}");
        let place = if place.starts_with('/') { format!("at '{place}'") } else { place.to_owned() };
        assert!(error.contains(&place), "{path}: {value}: {place} is not in: {error}");
    }
    let both = json!({"nodeAgent": {"spec": {"imageTag": "v1", "imageDigest": format!("sha256:{}", "a".repeat(64))}}});
    let error = helm.render_values(&both).err().context("tag and digest are not refused")?.to_string();
    assert!(error.contains("at '/nodeAgent/spec': 'not' failed"), "{error}");
    Ok(())
}

#[test]
fn the_chart_can_be_part_of_another() -> Result<()> {
    // What Helm hands down: the condition by which it is switched on, and global values of other charts.
    Helm::new()?.render_values(&json!({"enabled": true, "global": {"storageClass": "fast"}}))?;
    Ok(())
}

/// The schema itself, or the definition that it refers to.
fn resolve<'schema>(root: &'schema Value, part: &'schema Value) -> Result<&'schema Value> {
    match part["$ref"].as_str() {
        None => Ok(part),
        Some(reference) => root
            .pointer(reference.trim_start_matches('#'))
            .with_context(|| format!("the schema has no {reference}")),
    }
}

#[test]
fn every_value_is_documented_and_in_the_schema() -> Result<()> {
    let (schema, values) = (schema()?, values_yaml()?);
    let defaults = yaml_file(&chart::directory().join("values.yaml"))?;
    let mut below = vec![(String::new(), &schema)];
    let mut known = BTreeSet::new();
    while let Some((path, part)) = below.pop() {
        let properties =
            part["properties"].as_object().with_context(|| format!("{path}: a section without fields"))?;
        for (name, field) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let documented = values.iter().find(|value| value.path == path);
            let documented =
                documented.with_context(|| format!("{path} is in the schema and not in values.yaml"))?;
            ensure!(lookup(&defaults, &path).is_some_and(|value| !value.is_null()), "{path} has no default");
            if documented.text.is_none() {
                below.push((path.clone(), resolve(&schema, field)?));
            }
            known.insert(path);
        }
    }
    for value in &values {
        assert!(known.contains(&value.path), "{} is in values.yaml and not in the schema", value.path);
        let Some(text) = &value.text else { continue };
        assert!(text.ends_with('.') && text.len() > 8, "{}: {text:?}", value.path);
    }
    Ok(())
}

#[test]
fn every_definition_of_the_schema_is_used() -> Result<()> {
    let schema = schema()?;
    let text = schema.to_string();
    for name in schema["definitions"].as_object().context("no definitions")?.keys() {
        assert!(text.contains(&format!("\"#/definitions/{name}\"")), "{name}");
    }
    Ok(())
}

/// Every value but the one that only other charts read is set by some scenario, and makes a difference there: no value
/// does nothing, and no scenario says what would be so anyway.
#[test]
fn every_value_is_used_by_a_scenario_and_makes_a_difference_there() -> Result<()> {
    let helm = Helm::new()?;
    let values = values_yaml()?;
    let all: Vec<_> =
        values.iter().filter(|value| value.text.is_some()).map(|value| value.path.as_str()).collect();
    let mut unused: BTreeSet<_> = all.iter().copied().filter(|path| *path != "enabled").collect();
    let mut idle = Vec::new();
    for Scenario { name, path } in chart::scenarios()? {
        let given = yaml_file(&path)?;
        let rendered = helm.render(&path)?;
        for path in paths(&given, &all) {
            if helm.render_values(&without(&given, path))? == rendered {
                idle.push(format!("{name}: {path}"));
            } else {
                unused.remove(path);
            }
        }
    }
    assert!(idle.is_empty(), "say what is so anyway: {idle:#?}");
    assert!(unused.is_empty(), "no scenario uses {unused:#?}");
    Ok(())
}

/// A part of a CRD's schema as a part of the chart's: what it checks, strictly.
fn strict(part: &Value) -> Value {
    let mut made = Map::new();
    for (name, value) in part.as_object().into_iter().flatten() {
        let each = |fields: &Value| -> Value {
            let fields = fields.as_object().into_iter().flatten();
            fields.map(|(name, field)| (name.clone(), strict(field))).collect::<Map<_, _>>().into()
        };
        match name.as_str() {
            "description" | "format" | "default" => {}
            "properties" => {
                made.insert("properties".to_owned(), each(value));
                made.insert("additionalProperties".to_owned(), false.into());
            }
            "items" | "additionalProperties" if value.is_object() => {
                made.insert(name.clone(), strict(value));
            }
            "x-kubernetes-int-or-string" => {
                made.insert("type".to_owned(), json!(["integer", "string"]));
            }
            other if other.starts_with("x-kubernetes-") => {}
            _ => {
                made.insert(name.clone(), value.clone());
            }
        }
    }
    made.into()
}

#[test]
fn the_spec_of_the_default_node_agent_is_checked_as_the_crd_checks_it() -> Result<()> {
    let crd = yaml_file(&chart::directory().join("crds/holdfast.dev_nodeagents.yaml"))?;
    let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").context("no spec")?;
    let wanted = strict(spec);
    let mut schema = schema()?;
    if updating() && schema["definitions"]["NodeAgentSpec"] != wanted {
        schema["definitions"]["NodeAgentSpec"] = wanted.clone();
        let text = serde_json::to_string_pretty(&schema)? + "\n";
        fs::write(chart::directory().join("values.schema.json"), text)?;
    }
    assert_eq!(schema["definitions"]["NodeAgentSpec"], wanted, "`make generate` writes it anew");
    Ok(())
}
