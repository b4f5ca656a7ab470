//! The dashboards, as JSON: their queries, with variables put in as Grafana does, and what every one of them must be.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result};
use holdfast_tests::tools;
use serde_json::Value;

/// The folder of the dashboards.
const FOLDER: &str = "charts/holdfast/dashboards";
/// The data source of everything: the variable.
const SOURCE: &str = "${datasource}";

/// A dashboard.
pub(crate) struct Dashboard {
    /// Its file's name, without `.json`.
    pub(crate) name: String,
    /// Its file, from the root of the tree.
    pub(crate) path: String,
    json: Value,
}

/// A query of a panel.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// `dashboard / panel (ref)`.
    pub(crate) place: String,
    /// In `PromQL`, with Grafana's variables.
    pub(crate) expression: String,
    /// At one time, not over a range.
    pub(crate) instant: bool,
}

/// A variable that asks Prometheus.
pub(crate) struct Variable {
    pub(crate) name: String,
    /// `label_values(SERIES, LABEL)`.
    pub(crate) query: String,
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

impl Dashboard {
    /// All of them.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(tools::root().join(FOLDER))? {
            let file = entry?.file_name().into_string().ok().context("a name that is no text")?;
            let path = format!("{FOLDER}/{file}");
            let json = serde_json::from_str(&fs::read_to_string(tools::root().join(&path))?)
                .with_context(|| path.clone())?;
            all.push(Self { name: file.trim_end_matches(".json").to_owned(), path, json });
        }
        all.sort_by(|a, b| b.name.cmp(&a.name));
        Ok(all)
    }

    pub(crate) fn uid(&self) -> &str {
        text(&self.json, "uid")
    }

    /// Every panel that is no row.
    fn panels(&self) -> Vec<&Value> {
        let top = list(&self.json["panels"]);
        let all = top.flat_map(|panel| std::iter::once(panel).chain(list(&panel["panels"])));
        all.filter(|panel| panel["type"] != "row").collect()
    }

    /// Every query of every panel.
    pub(crate) fn queries(&self) -> Vec<Query> {
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in list(&panel["targets"]) {
                queries.push(Query {
                    place: format!("{} / {} ({})", self.name, text(panel, "title"), text(target, "refId")),
                    expression: text(target, "expr").to_owned(),
                    instant: target["instant"] == true,
                });
            }
        }
        queries
    }

    /// Its variables that ask Prometheus.
    pub(crate) fn variables(&self) -> Vec<Variable> {
        list(&self.json["templating"]["list"])
            .filter(|variable| variable["type"] == "query")
            .map(|variable| Variable {
                name: text(variable, "name").to_owned(),
                query: text(&variable["query"], "query").to_owned(),
            })
            .collect()
    }

    /// Everything about it that keeps it from another Grafana, or from people.
    pub(crate) fn problems(&self, uids: &BTreeSet<&str>) -> Vec<String> {
        let mut problems = Vec::new();
        let mut need = |good: bool, what: String| {
            if !good {
                problems.push(what);
            }
        };
        need(self.json["id"].is_null(), "it has an id of some Grafana's".to_owned());
        let variables: Vec<&Value> = list(&self.json["templating"]["list"]).collect();
        let names: Vec<&str> = variables.iter().map(|variable| text(variable, "name")).collect();
        need(names.starts_with(&["datasource", "cluster"]), format!("variables {names:?}"));
        for variable in variables.iter().filter(|variable| variable["type"] == "query") {
            let many = variable["multi"] == true && variable["includeAll"] == true;
            // `.*` matches the series that have no such label too.
            need(
                many && variable["allValue"] == ".*",
                format!("variable {} takes not many, or not all", variable["name"]),
            );
            need(text(&variable["datasource"], "uid") == SOURCE, format!("variable {}", variable["name"]));
        }
        let mut ids = BTreeSet::new();
        let mut taken: Vec<[u64; 4]> = Vec::new();
        for panel in list(&self.json["panels"]) {
            let title = text(panel, "title");
            need(ids.insert(panel["id"].as_u64()), format!("{title}: an id twice"));
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap_or(99));
            need(x + w <= 24, format!("{title} is beyond the edge"));
            for [ox, oy, ow, oh] in &taken {
                let apart = x >= ox + ow || *ox >= x + w || y >= oy + oh || *oy >= y + h;
                need(apart, format!("{title} overlaps another panel"));
            }
            taken.push([x, y, w, h]);
            if panel["type"] == "row" {
                continue;
            }
            need(
                !title.is_empty() && text(panel, "description").ends_with('.'),
                format!("{title}: no description"),
            );
            need(text(&panel["datasource"], "uid") == SOURCE, format!("{title}: its data source"));
            let unit = &panel["fieldConfig"]["defaults"]["unit"];
            need(
                unit.is_string() || ["heatmap", "state-timeline"].contains(&text(panel, "type")),
                format!("{title}: no unit"),
            );
            for target in list(&panel["targets"]) {
                need(text(&target["datasource"], "uid") == SOURCE, format!("{title}: a query's data source"));
                let expression = text(target, "expr");
                need(
                    expression.contains("cluster=~\"$cluster\""),
                    format!("{title} is for all clusters: {expression}"),
                );
            }
        }
        // Links go to dashboards that there are, and keep data source and time.
        let whole = self.json.to_string();
        for link in whole.split("\"/d/").skip(1).filter_map(|rest| rest.split('"').next()) {
            let to = link.split('?').next().unwrap_or_default();
            let keeps = link.contains("${datasource:queryparam}") && link.contains("${__url_time_range}");
            need(uids.contains(to) && keeps, format!("a link to /d/{link}"));
        }
        need(whole.contains("\"type\":\"dashboards\""), "no links to the other dashboards".to_owned());
        problems
    }
}

/// A query with its variables, as Grafana puts them in: `$name` and `${name}`, a regular expression for each of `values`.
pub(crate) fn substituted(expression: &str, values: &[(&str, &str)]) -> String {
    let mut text = expression.to_owned();
    let mut all = vec![("__rate_interval", "20s"), ("__range", "10m"), ("__interval", "5s")];
    all.extend(values);
    for (name, value) in all {
        text = text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
    }
    text
}
