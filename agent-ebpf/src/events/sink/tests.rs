use std::io::{BufRead, BufReader, Read};

use super::*;

fn event(kind: EventKind, count: u64, padding: usize) -> Event {
    Event { count, rule: Some("x".repeat(padding)), ..Event::new("t".to_owned(), "n".to_owned(), kind) }
}

fn pipe() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("made");
    (folder, path)
}

fn sink(path: &std::path::Path) -> Sink {
    let destination = Destination::File { path: path.to_owned(), max_bytes: 1 << 30, files: 2 };
    Sink::open(destination, "n".to_owned(), Metrics::new().expect("metrics")).expect("opened")
}

/// What all lines stand for, with what they say is missing.
fn sum(events: &[Event]) -> u64 {
    events.iter().map(|event| event.count + event.gap.as_ref().map_or(0, |gap| gap.lost)).sum()
}

#[test]
fn a_pipe_that_nobody_reads_holds_up_nobody_and_what_is_lost_is_told_when_somebody_does() {
    let (_folder, path) = pipe();
    let sink = sink(&path);
    let began = Instant::now();
    for _ in 0..20_000 {
        sink.put(&event(EventKind::Denied, 3, 400));
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(sink.shared.lock().bytes[0] <= ROOM[0]);
    let mut events = Vec::new();
    for line in BufReader::new(std::fs::File::open(&path).expect("opened")).lines() {
        events.push(Event::from_line(&line.expect("read")).expect("an event"));
        if sum(&events) == 60_000 {
            break;
        }
    }
    assert!(events.iter().any(|event| event.gap.as_ref().is_some_and(|gap| gap.buffer == BUFFER)));
}

#[test]
fn audits_push_out_no_denials() {
    let (_folder, path) = pipe();
    let sink = sink(&path);
    for number in 0..10_000 {
        sink.put(&event(EventKind::Audited, 1, 400));
        if number % 10 == 0 {
            sink.put(&event(EventKind::Denied, 1, 400));
        }
    }
    let (mut denials, mut events) = (0, Vec::new());
    for line in BufReader::new(std::fs::File::open(&path).expect("opened")).lines() {
        let event = Event::from_line(&line.expect("read")).expect("an event");
        denials += usize::from(event.kind == EventKind::Denied);
        events.push(event);
        if sum(&events) == 11_000 {
            break;
        }
    }
    assert_eq!(denials, 1000);
}

#[test]
fn what_a_full_disk_takes_not_is_counted_and_nobody_waits() {
    let metrics = Metrics::new().expect("metrics");
    let destination = Destination::File { path: PathBuf::from("/dev/full"), max_bytes: 1 << 30, files: 2 };
    let sink = Sink::open(destination, "n".to_owned(), metrics.clone()).expect("opened");
    for _ in 0..10 {
        sink.put(&event(EventKind::Denied, 2, 10));
    }
    sink.flush(Duration::from_millis(1500));
    let text = metrics.encode().expect("encoded");
    assert!(text.contains("holdfast_events_lost_total{buffer=\"output\"} 20"), "{text}");
    let until = Instant::now() + Duration::from_secs(10);
    // Now and then the thread tries, with what is lost in its hands.
    while sink.shared.lock().lost != 20 {
        assert!(Instant::now() < until, "to be told when there is room");
        thread::yield_now();
    }
}

#[test]
fn lines_are_in_the_file_when_the_sink_was_flushed() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("events");
    let sink = sink(&path);
    for _ in 0..100 {
        sink.put(&event(EventKind::Denied, 1, 10));
    }
    sink.flush(Duration::from_secs(10));
    let mut text = String::new();
    std::fs::File::open(&path).expect("opened").read_to_string(&mut text).expect("read");
    assert_eq!(text.lines().filter_map(Event::from_line).count(), 100);
}

#[test]
fn a_destination_in_no_directory_is_an_error_that_names_the_flag() {
    let destination =
        Destination::File { path: PathBuf::from("/nonexistent/events"), max_bytes: 1, files: 1 };
    let opened = Sink::open(destination, "n".to_owned(), Metrics::new().expect("metrics"));
    let error = opened.err().expect("refused").to_string();
    assert!(error.starts_with("--events-file /nonexistent/events: "), "{error}");
}
