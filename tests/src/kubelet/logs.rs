//! Logs of containers, in the form that the CRI gives them, and the parts of them that are asked for.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

/// The log of one instance of a container: `TIME STREAM F TEXT` a line.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: Mutex<File>,
    /// How many lines there are, and whether more may come.
    news: watch::Sender<(u64, bool)>,
}

impl Log {
    /// Makes it; `number` is that of the instance.
    pub(super) fn new(folder: &Path, number: i32) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{number}.log"));
        let file = File::options().create(true).append(true).open(&path).context("a container's log")?;
        Ok(Self { path, file: Mutex::new(file), news: watch::Sender::new((0, true)) })
    }

    /// Adds a line, with its line feed or without.
    pub(super) fn append(&self, stream: &str, line: &str) {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let text = format!("{:.9} {stream} F {line}\n", Timestamp::now());
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk shows elsewhere.
        let _ = file.write_all(text.as_bytes());
        drop(file);
        self.news.send_modify(|(lines, _)| *lines += 1);
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.news.send_modify(|(_, open)| *open = false);
    }

    /// To hear of new lines, and of the end.
    pub(super) fn news(&self) -> watch::Receiver<(u64, bool)> {
        self.news.subscribe()
    }

    /// All complete lines of it, in the form of the CRI.
    pub(super) fn raw(&self) -> Result<String> {
        let mut text = fs::read_to_string(&self.path).with_context(|| self.path.display().to_string())?;
        text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
        Ok(text)
    }

    /// What is asked for of what there is.
    pub(super) fn text(&self, query: &Query) -> Result<String> {
        Ok(query.select(&self.raw()?))
    }
}

/// What is asked for: the parameters of `/containerLogs`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Query {
    pub(super) follow: bool,
    pub(super) previous: bool,
    timestamps: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
    limit: Option<usize>,
}

impl Query {
    /// Reads the query of a URL.
    pub(super) fn parse(text: &str, now: Timestamp) -> Result<Self> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = &unescape(value)?;
            match name {
                "follow" => query.follow = flag(value)?,
                "previous" => query.previous = flag(value)?,
                "timestamps" => query.timestamps = flag(value)?,
                "tailLines" => query.tail = Some(value.parse().context("tailLines")?),
                "limitBytes" => query.limit = Some(value.parse().context("limitBytes")?),
                "sinceSeconds" => {
                    query.since =
                        Some(now - SignedDuration::from_secs(value.parse().context("sinceSeconds")?));
                }
                "sinceTime" => query.since = Some(value.parse().context("sinceTime")?),
                "stream" if value == "All" => {}
                "insecureSkipTLSVerifyBackend" => {}
                other => bail!("this kubelet does not know the parameter {other}={value}"),
            }
        }
        Ok(query)
    }

    /// One line of the log as it is to be shown, with its line feed; `None` when it is not asked for.
    pub(super) fn show(&self, line: &str) -> Option<String> {
        let (time, rest) = line.split_once(' ')?;
        let text = rest.split_once(" F ").map_or_else(|| rest.trim_end_matches(" F"), |(_, text)| text);
        if let Some(since) = self.since
            && time.parse::<Timestamp>().ok()? < since
        {
            return None;
        }
        Some(if self.timestamps { format!("{time} {text}\n") } else { format!("{text}\n") })
    }

    /// The lines that are asked for.
    pub(super) fn select(&self, log: &str) -> String {
        let mut lines: Vec<String> = log.lines().filter_map(|line| self.show(line)).collect();
        if let Some(tail) = self.tail {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        let mut text = lines.concat();
        if let Some(limit) = self.limit {
            let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
        }
        text
    }
}

fn flag(text: &str) -> Result<bool> {
    text.parse().with_context(|| format!("{text} is neither true nor false"))
}

fn unescape(text: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next(), rest.next()].map(Option::unwrap_or_default);
                u8::from_str_radix(std::str::from_utf8(&digits)?, 16).context("a URL's escape")?
            }
            b'+' => b' ',
            other => other,
        });
    }
    Ok(String::from_utf8(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-02T03:04:05.000000001Z stdout F one\n\
                       2026-01-02T03:04:06.000000001Z stderr F two F three\n\
                       2026-01-02T03:04:07.000000001Z stdout F \n";

    fn shown(query: &str) -> String {
        let now = "2026-01-02T03:04:08Z".parse().unwrap();
        Query::parse(query, now).unwrap().select(LOG)
    }

    #[test]
    fn a_query_selects_lines_by_number_time_and_size() {
        assert_eq!(shown(""), "one\ntwo F three\n\n");
        assert_eq!(shown("tailLines=2"), "two F three\n\n");
        assert_eq!(shown("tailLines=0"), "");
        assert_eq!(
            shown("sinceSeconds=2&timestamps=true"),
            "2026-01-02T03:04:06.000000001Z two F three\n2026-01-02T03:04:07.000000001Z \n"
        );
        assert_eq!(shown("sinceTime=2026-01-02T03%3A04%3A07Z"), "\n");
        assert_eq!(shown("limitBytes=5"), "one\nt");
    }

    #[test]
    fn a_query_that_makes_no_sense_is_refused() {
        let now = Timestamp::now();
        for wrong in ["tailLines=-1", "follow=maybe", "sinceTime=noon", "colour=red", "sinceTime=%zz"] {
            assert!(Query::parse(wrong, now).is_err(), "{wrong}");
        }
    }
}
