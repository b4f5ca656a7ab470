//! The little of HTTP that reading metrics takes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The status code and the body that a server answers a path with.
///
/// # Errors
/// When it does not answer.
pub fn get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let code = head.split(' ').nth(1).context("no status line")?.parse()?;
    // A body of unknown length comes in chunks, each after its length.
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((code, if chunked { dechunk(body)? } else { body.to_owned() }))
}

fn dechunk(mut body: &str) -> Result<String> {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).context("the length of a chunk")?;
        if length == 0 {
            break;
        }
        whole.push_str(rest.get(..length).context("a chunk is cut short")?);
        body = rest.get(length + 2..).unwrap_or_default();
    }
    Ok(whole)
}

/// The sum of a counter's or whole gauge's series whose labels hold all of `labels`, such as `policy="shop/api"`; `None` when there is no
/// such series.
#[must_use]
pub fn sum(metrics: &str, name: &str, labels: &[&str]) -> Option<u64> {
    metrics
        .lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (of, given) = series.split_once('{').unwrap_or((series, ""));
            (of == name && labels.iter().all(|label| given.contains(label)))
                .then(|| value.parse::<u64>().ok())?
        })
        .reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# HELP a_total of a\n# TYPE a_total counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\nb 1\n";

    #[test]
    fn series_are_summed_by_their_labels() {
        assert_eq!(sum(METRICS, "a_total", &["x=\"1\""]), Some(7));
        assert_eq!(sum(METRICS, "a_total", &["x=\"1\"", "y=\"3\""]), Some(4));
        assert_eq!(sum(METRICS, "a_total", &["x=\"2\""]), None);
        assert_eq!(sum(METRICS, "b", &[]), Some(1));
    }

    #[test]
    fn chunks_are_put_together() {
        assert_eq!(dechunk("3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n").unwrap(), "abcd");
    }
}
