//! What a program of Holdfast's takes of its machine, for the metrics that every Prometheus client calls `process_...`.
//! Read from `/proc`, of Linux; what is asked for is a handful of small files, so that it can be read at each scrape.

use std::fs;
use std::io::{Error, ErrorKind, Result};

/// Ticks of processor time in a second, in everything that the kernel tells of it in `/proc`.
const TICKS: f64 = 100.0;

/// What this process takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Processor time that it took since its start, in user and kernel mode, in seconds; in steps of 10 ms.
    pub cpu_seconds: f64,
    /// Memory that is resident, in bytes.
    pub resident_bytes: f64,
    /// File descriptors that are open.
    pub open_files: f64,
    /// When it started, in seconds since 1970.
    pub start_seconds: f64,
}

/// The metrics of [`Usage::values`]: name, help, and whether it only ever grows.
pub const METRICS: [(&str, &str, bool); 4] = [
    ("process_cpu_seconds_total", "Processor time taken, in user and kernel mode, in seconds.", true),
    ("process_resident_memory_bytes", "Memory that is resident.", false),
    ("process_open_fds", "File descriptors that are open.", false),
    ("process_start_time_seconds", "When the process started, in seconds since 1970.", false),
];

impl Usage {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When `/proc` cannot be read, or does not say what Linux says.
    pub fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let status = fs::read_to_string("/proc/self/status")?;
        let machine = fs::read_to_string("/proc/stat")?;
        let open_files = fs::read_dir("/proc/self/fd")?.count();
        parse(&stat, &status, &machine, open_files)
            .ok_or_else(|| Error::new(ErrorKind::InvalidData, "/proc does not say what Linux says"))
    }

    /// The values of [`METRICS`], in that order.
    #[must_use]
    pub fn values(&self) -> [f64; 4] {
        [self.cpu_seconds, self.resident_bytes, self.open_files, self.start_seconds]
    }
}

/// From `/proc/self/stat`, `/proc/self/status` and `/proc/stat`.
fn parse(stat: &str, status: &str, machine: &str, open_files: usize) -> Option<Usage> {
    // The program's name stands in parentheses, and may hold any letter; the third field follows the last of them.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<f64>().ok();
    let line = |text: &str, name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<f64>().ok()
    };
    Some(Usage {
        cpu_seconds: (field(14)? + field(15)?) / TICKS,
        resident_bytes: line(status, "VmRSS:")? * 1024.0,
        open_files: f64::from(u32::try_from(open_files).ok()?),
        start_seconds: line(machine, "btime ")? + field(22)? / TICKS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says_is_read() {
        let stat = "7 (a b) c) S 1 1 1 0 -1 4194304 120 0 0 0 250 50 0 0 20 0 3 0 1200 1000000 200 1844";
        let usage = parse(stat, "Name:\ta\nVmRSS:\t     2048 kB\n", "cpu  1 2\nbtime 1000\n", 9).unwrap();
        let wanted = [3.0, 2_097_152.0, 9.0, 1012.0];
        assert!(
            usage.values().iter().zip(wanted).all(|(seen, wanted)| (seen - wanted).abs() < 1e-6),
            "{usage:?}"
        );
        assert_eq!(parse("7 (a) S", "", "", 0), None);
    }

    #[test]
    fn this_process_takes_something() {
        let usage = Usage::read().unwrap();
        assert!(usage.resident_bytes > 100_000.0 && usage.open_files >= 3.0, "{usage:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(
            usage.start_seconds <= now + 1.0 && usage.start_seconds > now - 3600.0,
            "{usage:?}, and now is {now}"
        );
    }
}
