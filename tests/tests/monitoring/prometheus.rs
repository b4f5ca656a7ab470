//! A real Prometheus on loopback.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_tests::{demo::http, process::Process, tools};
use serde_json::Value;

use crate::rules;

/// Somebody whom Prometheus scrapes, under the labels that the chart's monitors would give.
pub(crate) struct Target<'a> {
    pub(crate) job: &'a str,
    pub(crate) address: SocketAddr,
    pub(crate) labels: &'a [(&'a str, &'a str)],
}

/// A running Prometheus. Dropping it kills it.
pub(crate) struct Prometheus {
    process: Process,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one with the chart's rules, which looks every second.
    pub(crate) fn start(folder: &Path, targets: &[Target<'_>]) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut config =
            String::from("global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n");
        writeln!(config, "rule_files: ['{}']\nscrape_configs:", tools::root().join(rules::FILE).display())?;
        for (number, Target { job, address, labels }) in targets.iter().enumerate() {
            let labels: Vec<String> =
                labels.iter().map(|(name, value)| format!("{name}: '{value}'")).collect();
            writeln!(config, "- job_name: scrape-{number}\n  honor_labels: true\n  static_configs:")?;
            writeln!(
                config,
                "  - targets: ['{address}']\n    labels: {{job: '{job}', {}}}",
                labels.join(", ")
            )?;
        }
        let file = folder.join("prometheus.yaml");
        fs::write(&file, config)?;
        let program = tools::control_plane_program("prometheus")?;
        let mut process = Process::start(&program, &folder.join("prometheus.log"), |command| {
            command.arg(format!("--config.file={}", file.display()));
            command.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
            command.arg(format!("--web.listen-address={address}")).arg("--log.level=warn");
        })?;
        process.wait_until(Duration::from_mins(1), || {
            http::get(address, "/-/ready").is_ok_and(|(code, _)| code == 200)
        })?;
        Ok(Self { process, address })
    }

    /// What it answers a path of its API with: the `data`.
    pub(crate) fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let mut path = format!("/api/v1/{path}?");
        for (name, value) in parameters {
            write!(path, "{name}={}&", encoded(value))?;
        }
        let (code, body) = http::get(self.address, &path).with_context(|| self.process.log_tail())?;
        let mut answer: Value =
            serde_json::from_str(&body).with_context(|| format!("{path}: {code} {body}"))?;
        ensure!(answer["status"] == "success", "{path}: {}", answer["error"]);
        Ok(answer["data"].take())
    }

    /// How many series with a number in them a query has now, or over the last minute.
    pub(crate) fn series(&self, expression: &str, instant: bool) -> Result<usize> {
        let data = if instant {
            self.get("query", &[("query", expression)])?
        } else {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
            let (from, to) = ((now - 60).to_string(), now.to_string());
            let range = [("query", expression), ("start", &from), ("end", &to), ("step", "5")];
            self.get("query_range", &range)?
        };
        let numbers = |series: &&Value| {
            let values = series["values"].as_array().into_iter().flatten().chain([&series["value"]]);
            values.filter_map(|value| value[1].as_str()).any(|number| number != "NaN")
        };
        Ok(data["result"].as_array().context("a result")?.iter().filter(numbers).count())
    }

    /// The values of `label_values(SERIES, LABEL)`.
    pub(crate) fn label_values(&self, query: &str) -> Result<Vec<String>> {
        let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (series, label) = inner.and_then(|inner| inner.rsplit_once(", ")).context("label_values")?;
        let values = self.get(&format!("label/{label}/values"), &[("match[]", series)])?;
        Ok(serde_json::from_value(values)?)
    }
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// A port of the loopback interface that nobody listens on.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
