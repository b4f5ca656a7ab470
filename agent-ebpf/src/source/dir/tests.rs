//! With real directories: each test waits for facts until a deadline.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::source::{self, SourceKind, StateDir};

const DEADLINE: Duration = Duration::from_secs(10);

fn policy(name: &str) -> String {
    policy_for(name, "web")
}

fn policy_for(name: &str, app: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: {app}}}}}, network: {{ingress: {{}}}}}}\n"
    )
}

fn names(facts: &Facts) -> Vec<&str> {
    facts.policies.iter().map(|policy| policy.id.name.as_str()).collect()
}

/// A source that runs.
struct Running {
    facts: watch::Receiver<Facts>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), source::RunError>>,
}

impl Running {
    fn start(folder: &Path, state: Option<StateDir>) -> Self {
        let (out, facts) = watch::channel(Facts::default());
        let (stop, stopped) = oneshot::channel();
        let kind = SourceKind::Dir(folder.to_owned());
        let task = tokio::spawn(source::run(kind, "vm-17".to_owned(), state, out, async {
            let _ = stopped.await;
        }));
        Self { facts, stop, task }
    }

    async fn wait(&mut self, what: &str, condition: impl FnMut(&Facts) -> bool) -> Facts {
        let seen = tokio::time::timeout(DEADLINE, self.facts.wait_for(condition)).await;
        let seen = seen.map(|facts| facts.unwrap().clone()).ok();
        seen.unwrap_or_else(|| panic!("{what}: {:#?}", *self.facts.borrow()))
    }

    async fn wait_for(&mut self, expected: &[&str]) -> Facts {
        self.wait(&format!("{expected:?}"), |facts| facts.complete && names(facts) == expected).await
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

fn directory() -> (TempDir, PathBuf) {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("policies");
    fs::create_dir(&folder).unwrap();
    (above, folder)
}

#[tokio::test]
async fn files_that_come_and_change_and_go_are_seen() {
    let (_above, folder) = directory();
    fs::write(folder.join("a.yaml"), policy("a")).unwrap();
    let mut running = Running::start(&folder, None);
    running.wait_for(&["a"]).await;
    fs::write(folder.join("b.yml"), policy("b")).unwrap();
    running.wait_for(&["a", "b"]).await;
    fs::write(folder.join(".new"), policy("c")).unwrap();
    fs::rename(folder.join(".new"), folder.join("b.yml")).unwrap();
    running.wait_for(&["a", "c"]).await;
    fs::remove_file(folder.join("a.yaml")).unwrap();
    let facts = running.wait_for(&["c"]).await;
    assert_eq!(*facts.errors, []);
    running.stop().await;
}

#[tokio::test]
async fn a_policy_is_in_the_facts_a_few_milliseconds_after_it_was_written() {
    let (_above, folder) = directory();
    let mut running = Running::start(&folder, None);
    running.wait_for(&[]).await;
    let mut times: Vec<Duration> = Vec::new();
    for round in 0..50 {
        let app = format!("app-{round}");
        let began = Instant::now();
        fs::write(folder.join("a.yaml"), policy_for("a", &app)).unwrap();
        running
            .wait(&app, |facts| {
                facts.policies.first().is_some_and(|policy| policy.target.pods.match_labels["app"] == app)
            })
            .await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    // The median, as other tests run beside this one.
    assert!(times[25] < Duration::from_millis(25), "{times:?}");
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_a_policy_file_is_not_read() {
    let (_above, folder) = directory();
    let mut running = Running::start(&folder, None);
    for name in [".a.yaml.swp", "a.yaml~", "README.md", ".hidden.yaml"] {
        fs::write(folder.join(name), "a: [").unwrap();
    }
    fs::create_dir(folder.join("below.yaml")).unwrap();
    fs::write(folder.join("below.yaml/a.yaml"), policy("below")).unwrap();
    fs::write(folder.join("b.yaml"), policy("b")).unwrap();
    let facts = running.wait_for(&["b"]).await;
    assert_eq!(*facts.errors, []);
    running.stop().await;
}

#[tokio::test]
async fn a_bad_file_is_an_error_until_it_is_good_again() {
    let (_above, folder) = directory();
    fs::write(folder.join("a.yaml"), policy("a")).unwrap();
    let mut running = Running::start(&folder, None);
    running.wait_for(&["a"]).await;
    fs::write(folder.join("a.yaml"), policy("a").replace("selector", "selecter")).unwrap();
    let facts = running.wait("an error", |facts| !facts.errors.is_empty()).await;
    assert_eq!(names(&facts), ["a"]);
    assert!(facts.errors[0].place.ends_with("/a.yaml"));
    assert!(facts.errors.iter().any(|error| error.message.contains("spec.selecter")), "{:?}", facts.errors);
    fs::write(folder.join("a.yaml"), policy("b")).unwrap();
    running.wait("no error", |facts| facts.errors.is_empty() && names(facts) == ["b"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_mounted_config_map_changes_as_a_whole() {
    let (_above, folder) = directory();
    let version = |name: &str, policies: &[&str]| {
        fs::create_dir(folder.join(name)).unwrap();
        for policy_name in policies {
            fs::write(folder.join(name).join(format!("{policy_name}.yaml")), policy(policy_name)).unwrap();
        }
        symlink(name, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    version("..2026_1", &["a", "b"]);
    symlink("..data/a.yaml", folder.join("a.yaml")).unwrap();
    symlink("..data/b.yaml", folder.join("b.yaml")).unwrap();
    let mut running = Running::start(&folder, None);
    running.wait_for(&["a", "b"]).await;
    fs::create_dir(folder.join("..2026_2")).unwrap();
    fs::write(folder.join("..2026_2/a.yaml"), policy("a2")).unwrap();
    fs::write(folder.join("..2026_2/b.yaml"), policy("b2")).unwrap();
    symlink("..2026_2", folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    fs::remove_dir_all(folder.join("..2026_1")).unwrap();
    let facts = running.wait_for(&["a2", "b2"]).await;
    assert_eq!(*facts.errors, []);
    running.stop().await;
}

#[tokio::test]
async fn a_directory_that_vanishes_is_an_error_and_takes_nothing_with_it() {
    let (above, folder) = directory();
    fs::write(folder.join("a.yaml"), policy("a")).unwrap();
    let mut running = Running::start(&folder, None);
    running.wait_for(&["a"]).await;

    fs::rename(&folder, above.path().join("away")).unwrap();
    let facts = running.wait("an error", |facts| !facts.errors.is_empty()).await;
    assert_eq!(names(&facts), ["a"]);
    assert_eq!(facts.errors[0].place, folder.display().to_string());
    assert!(facts.errors[0].message.contains("stays in force"), "{:?}", facts.errors);

    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("b.yaml"), policy("b")).unwrap();
    running.wait("the new one", |facts| facts.errors.is_empty() && names(facts) == ["b"]).await;
    fs::write(folder.join("b.yaml"), policy("c")).unwrap();
    running.wait_for(&["c"]).await;

    fs::remove_dir_all(&folder).unwrap();
    let facts = running.wait("an error", |facts| !facts.errors.is_empty()).await;
    assert_eq!(names(&facts), ["c"]);
    running.stop().await;
}

#[tokio::test]
async fn a_link_to_a_directory_is_followed_when_it_points_elsewhere() {
    let (above, folder) = directory();
    let link = above.path().join("current");
    let other = above.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(folder.join("a.yaml"), policy("a")).unwrap();
    fs::write(other.join("b.yaml"), policy("b")).unwrap();
    symlink(&folder, &link).unwrap();
    let mut running = Running::start(&link, None);
    running.wait_for(&["a"]).await;
    symlink(&other, above.path().join("next")).unwrap();
    fs::rename(above.path().join("next"), &link).unwrap();
    running.wait_for(&["b"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_file_that_is_moved_leaves_no_gap() {
    let (_above, folder) = directory();
    fs::write(folder.join("a.yaml"), policy("p")).unwrap();
    let mut running = Running::start(&folder, None);
    running.wait_for(&["p"]).await;
    let watched = running.facts.clone();
    let observer = tokio::spawn(async move {
        let mut watched = watched;
        // Until the file's second policy is there, the first never goes.
        watched.wait_for(|facts| names(facts) != ["p"]).await.unwrap().clone()
    });
    // As an editor does: the old file aside, a new one in its place.
    fs::rename(folder.join("a.yaml"), folder.join("a.yaml~")).unwrap();
    fs::write(folder.join("a.yaml"), policy("p")).unwrap();
    fs::rename(folder.join("a.yaml"), folder.join("z.yaml")).unwrap();
    fs::write(folder.join("b.yaml"), policy("q")).unwrap();
    let next = tokio::time::timeout(DEADLINE, observer).await.unwrap().unwrap();
    assert_eq!(names(&next), ["p", "q"]);
    let facts = running.wait_for(&["p", "q"]).await;
    assert_eq!(*facts.errors, []);
    running.stop().await;
}

#[tokio::test]
async fn the_saved_state_is_in_force_before_the_directory_can_be_read() {
    let (above, folder) = directory();
    let state = StateDir::open(above.path().join("state")).unwrap();
    fs::write(folder.join("a.yaml"), policy("a")).unwrap();
    fs::write(folder.join("b.yaml"), policy("b")).unwrap();
    let mut running = Running::start(&folder, Some(state.clone()));
    running.wait_for(&["a", "b"]).await;
    running.stop().await;

    fs::rename(&folder, above.path().join("away")).unwrap();
    let mut running = Running::start(&folder, Some(state.clone()));
    let facts = running.wait("the saved state", |facts| names(facts) == ["a", "b"]).await;
    assert!(!facts.complete, "the directory was not read");
    assert_eq!(facts.errors.len(), 1, "{:?}", facts.errors);

    // One file was deleted while nobody looked, and one is bad now.
    fs::write(above.path().join("away/a.yaml"), "a: [").unwrap();
    fs::remove_file(above.path().join("away/b.yaml")).unwrap();
    fs::rename(above.path().join("away"), &folder).unwrap();
    let facts = running.wait_for(&["a"]).await;
    assert_eq!(facts.errors.len(), 1, "{:?}", facts.errors);
    running.stop().await;
}

#[tokio::test]
async fn a_corrupt_state_is_an_error_and_no_more() {
    let (above, folder) = directory();
    let state = StateDir::open(above.path().join("state")).unwrap();
    fs::write(state.path().join("directory.state"), "garbage").unwrap();
    fs::write(folder.join("a.yaml"), policy("a")).unwrap();
    let mut running = Running::start(&folder, Some(state.clone()));
    running.wait_for(&["a"]).await;
    running.stop().await;
    assert_eq!(fs::read(state.path().join("directory.corrupt")).unwrap(), b"garbage");
    assert!(state.path().join("directory.state").exists(), "a new one was saved");
}

#[tokio::test]
async fn a_hundred_files_at_once_are_all_there() {
    let (_above, folder) = directory();
    let mut running = Running::start(&folder, None);
    for number in 0..100 {
        fs::write(folder.join(format!("{number}.yaml")), policy(&format!("p{number:03}"))).unwrap();
    }
    let facts = running.wait("all", |facts| facts.policies.len() == 100).await;
    assert_eq!(*facts.errors, []);
    assert!(facts.policies.iter().map(|policy| &policy.id).is_sorted());
    let before = Arc::clone(&facts.policies);
    fs::write(folder.join("ignored.txt"), "x").unwrap();
    fs::write(folder.join("bad.yaml"), "a: [").unwrap();
    let facts = running.wait("an error", |facts| !facts.errors.is_empty()).await;
    assert!(Arc::ptr_eq(&before, &facts.policies));
    running.stop().await;
}

#[tokio::test]
async fn the_source_ends_when_nobody_listens() {
    let (_above, folder) = directory();
    let running = Running::start(&folder, None);
    drop(running.facts);
    let ended = tokio::time::timeout(DEADLINE, running.task).await.unwrap().unwrap();
    assert!(matches!(ended, Err(source::RunError::NoReceiver)));
}
