//! Every command of the documents is run, in the order of each page, against a real control plane and a node with a
//! kubelet, and prints what the page shows. What cannot run here says why in the page, and is looked at: its flags exist.

mod pages;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use holdfast_tests::{
    builds,
    controlplane::{ControlPlane, Options},
    kubelet::{Kubelet, NodeOptions},
    tools,
};
use pages::{Action, Block};

/// Pages in the order in which they are run, all on one cluster: what one leaves behind the next finds.
const PAGES: [&str; 15] = [
    "docs/install.md",
    "docs/first-policy.md",
    "docs/runbooks.md",
    "docs/kubectl.md",
    "docs/events.md",
    "docs/network-policies.md",
    "docs/policy-reference.md",
    "docs/chart-values.md",
    "docs/metrics.md",
    "docs/kernel-support.md",
    "docs/threat-model.md",
    "docs/comparison.md",
    "docs/commands.md",
    "docs/operations.md",
    "README.md",
];
/// So many blocks may not be run.
const NOT_RUN: usize = 20;
/// How long a page may take to show what it says: what it asks for may still be on its way.
const SETTLED: Duration = Duration::from_secs(45);
/// Commands that change nothing, and so can be asked again until things have settled.
const READS: [&str; 8] = [
    "kubectl get ",
    "kubectl describe ",
    "kubectl logs ",
    "kubectl explain ",
    "kubectl auth ",
    "kubectl holdfast ",
    "holdfast-agent status",
    "helm status ",
];

/// What tells why a page failed.
const STATE: &str = "kubectl get pods,holdfast -A -o wide; kubectl get wlp -A -o yaml | tail -n 60
for pod in $(kubectl get pods -A --no-headers -o custom-columns=A:.metadata.namespace,B:.metadata.name | tr -s ' ' /); do
  echo \"== $pod\"; kubectl logs -n \"${pod%/*}\" \"${pod#*/}\" --tail=12
done";

fn read(page: &str) -> Result<String> {
    fs::read_to_string(tools::root().join(page)).with_context(|| page.to_owned())
}

fn blocks(page: &str) -> Result<Vec<Block>> {
    pages::blocks(&read(page)?).with_context(|| page.to_owned())
}

/// A folder like a checkout, and an environment like a reader's.
struct Reader {
    folder: tempfile::TempDir,
    path: String,
    kubeconfig: PathBuf,
}

impl Reader {
    fn new(kubeconfig: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("holdfast-docs-").tempdir()?;
        for name in ["charts", "docs", "crds"] {
            std::os::unix::fs::symlink(tools::root().join(name), folder.path().join(name))?;
        }
        let (bin, built, fetched) = (folder.path().join("bin"), programs()?, tools::directory().join("bin"));
        fs::create_dir(&bin)?;
        for name in ["holdfast-agent", "holdfast-operator", "kubectl-holdfast"] {
            fs::copy(built.join(name), bin.join(name)).with_context(|| name.to_owned())?;
        }
        for name in ["kubectl", "helm", "promtool"] {
            let path = fetched.join(name);
            ensure!(path.is_file(), "{name} is missing: run `make setup`");
            std::os::unix::fs::symlink(path, bin.join(name))?;
        }
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", bin.display());
        Ok(Self { folder, path, kubeconfig: kubeconfig.to_path_buf() })
    }

    /// Runs one command in the shell of a reader; variables that it sets are there for the next.
    fn run(&self, command: &str, node: Option<&Kubelet>) -> Result<Output> {
        // Whoever enters another mount namespace stands at its root.
        let home = self.folder.path().display();
        let script = format!(
            "cd {home} || exit 99\nset -a -o pipefail\n[ -f .state ] && . ./.state\n{{ {command}\n}}\nstatus=$?\nexport -p >.state\nexit $status\n"
        );
        let mut shell = match node {
            Some(node) => node.command(Path::new("/bin/bash"))?,
            None => Command::new("/bin/bash"),
        };
        let folder = self.folder.path();
        shell.args(["-c", &script]).current_dir(folder).stdin(Stdio::null());
        shell.env("PATH", &self.path).env("HOME", folder).env("KUBECONFIG", &self.kubeconfig);
        if let Some(node) = node {
            shell.env("HOLDFAST_STATE_DIR", node.host_path(Path::new("/var/lib/holdfast")));
            shell.env("HOLDFAST_NODE_NAME", node.name());
        }
        shell.output().context("cannot run bash")
    }

    /// Runs one command until it ends as it should and prints what the page shows.
    fn follow(&self, command: &str, shown: &str, exit: i32, node: Option<&Kubelet>) -> Result<()> {
        let began = Instant::now();
        loop {
            let output = self.run(command, node)?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (printed, said) = (text(&output.stdout), text(&output.stderr));
            let judged = if output.status.code() == Some(exit) {
                pages::same_shape(shown, &format!("{printed}{said}"))
                    .or_else(|error| pages::same_shape(shown, &printed).map_err(|_also| error))
            } else {
                Err(anyhow::anyhow!("it ended with {}", output.status))
            };
            let may_settle = READS.iter().any(|read| command.starts_with(read));
            match judged {
                Ok(()) => {
                    eprintln!("$ {command}\n{printed}{said}");
                    return Ok(());
                }
                Err(_) if may_settle && began.elapsed() < SETTLED => {
                    std::thread::sleep(Duration::from_millis(500));
                }
                Err(error) => bail!("$ {command}\n{error}\nstdout:\n{printed}\nstderr:\n{said}"),
            }
        }
    }

    /// Follows a page from its beginning to its end.
    fn follow_page(&self, page: &str, node: &Kubelet) -> Result<()> {
        for Block { line, action, exit } in blocks(page)? {
            let at = || format!("{page}, line {line}");
            match action {
                Action::Save(name, text) => {
                    fs::write(self.folder.path().join(name), text).with_context(at)?;
                }
                Action::Run { commands, on_node } => {
                    let last = commands.len();
                    for (number, (command, shown)) in commands.iter().enumerate() {
                        let exit = if number + 1 == last { exit } else { 0 };
                        self.follow(command, shown, exit, on_node.then_some(node)).with_context(at)?;
                    }
                }
                Action::NotRun { .. } => {}
            }
        }
        Ok(())
    }
}

/// The folder of the programs of this tree, which are built by this.
fn programs() -> Result<PathBuf> {
    let agent = builds::program("holdfast-agent")?;
    Ok(agent.parent().context("a program without a folder")?.to_path_buf())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_pages_does_what_its_page_says() -> Result<()> {
    let cluster = ControlPlane::start(Options::whole()).await?;
    let node = Kubelet::start(&cluster, NodeOptions::named("node-1")).await?;
    let reader = Reader::new(&cluster.kubeconfig("admin", Some("system:masters"))?)?;
    let only = std::env::var("DOCS_ONLY").ok();
    let mut failed = Vec::new();
    for page in PAGES {
        if only.as_ref().is_some_and(|only| !only.split(',').any(|part| page.ends_with(part))) {
            continue;
        }
        eprintln!("==> {page}");
        if let Err(error) = reader.follow_page(page, &node) {
            failed.push(format!("{error:#}"));
            let seen = reader.run(STATE, None)?;
            eprintln!("{}", String::from_utf8_lossy(&[seen.stdout, seen.stderr].concat()));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}

#[test]
fn every_page_is_run() -> Result<()> {
    let mut pages: Vec<String> = vec!["README.md".to_owned()];
    for entry in fs::read_dir(tools::root().join("docs"))? {
        let name = entry?.file_name().into_string().ok().context("a name that is no text")?;
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            pages.push(format!("docs/{name}"));
        }
    }
    let unknown: Vec<&String> = pages.iter().filter(|page| !PAGES.contains(&page.as_str())).collect();
    assert!(unknown.is_empty(), "not run by this suite: {unknown:?}");
    Ok(())
}

/// The help of a program's command, once for each.
#[derive(Default)]
struct Helps(BTreeMap<String, String>);

impl Helps {
    fn of(&mut self, reader: &Reader, command: &str) -> Result<&str> {
        if !self.0.contains_key(command) {
            let output = reader.run(&format!("{command} --help"), None)?;
            ensure!(output.status.success(), "there is no {command}");
            let text = [output.stdout, output.stderr].concat();
            self.0.insert(command.to_owned(), String::from_utf8_lossy(&text).into_owned());
        }
        Ok(self.0.get(command).map_or("", String::as_str))
    }
}

/// That a command that is not run could be: the shell understands it, and its program has its subcommand and its flags.
fn parses(reader: &Reader, helps: &mut Helps, command: &str) -> Result<()> {
    let syntax = Command::new("/bin/bash").args(["-n", "-c", command]).output()?;
    ensure!(syntax.status.success(), "{}", String::from_utf8_lossy(&syntax.stderr));
    let joined = command.replace("\\\n", " ");
    let words = joined.split_whitespace().skip_while(|word| *word == "sudo");
    let words: Vec<&str> = words.take_while(|word| !word.starts_with('#')).collect();
    // What stands behind `--` is another command.
    let (words, inner) = match words.iter().position(|word| *word == "--") {
        Some(at) => (&words[..at], words[at + 1..].join(" ")),
        None => (&words[..], String::new()),
    };
    if !inner.is_empty() {
        parses(reader, helps, inner.trim_start_matches('/'))?;
    }
    let program = words.first().copied().unwrap_or_default();
    if program == "make" {
        let makefile = read("Makefile")?;
        for target in words.iter().skip(1).filter(|word| !word.contains('=')) {
            ensure!(makefile.contains(&format!("\n{target}:")), "there is no target {target}");
        }
        return Ok(());
    }
    if !["kubectl", "helm", "holdfast-agent", "holdfast-operator", "kubectl-holdfast"].contains(&program) {
        return Ok(());
    }
    let is_name = |word: &str| word.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-');
    let mut path = program.to_owned();
    for word in words.iter().skip(1).take_while(|word| is_name(word) && !word.starts_with('-')).take(2) {
        let longer = format!("{path} {word}");
        if path == program || helps.of(reader, &longer).is_ok() {
            path = longer;
        }
    }
    let mut text = helps.of(reader, &path)?.to_owned();
    if program == "kubectl" {
        text.push_str(helps.of(reader, "kubectl options")?);
    }
    for word in words {
        if let Some(flag) = word.strip_prefix("--") {
            let flag = flag.split('=').next().unwrap_or_default();
            ensure!(text.contains(&format!("--{flag}")), "{path} has no flag --{flag}");
        }
    }
    Ok(())
}

#[test]
fn what_is_not_run_parses_and_is_not_much() -> Result<()> {
    let reader = Reader::new(Path::new("/nonexistent"))?;
    let mut helps = Helps::default();
    let mut count = 0;
    for page in PAGES {
        for Block { line, action, .. } in blocks(page)? {
            let Action::NotRun { commands, reason } = action else { continue };
            assert!(reason.len() > 10, "{page}, line {line}: why?");
            count += 1;
            for command in commands {
                parses(&reader, &mut helps, &command)
                    .with_context(|| format!("{page}, line {line}: {command}"))?;
            }
        }
    }
    assert!(count <= NOT_RUN, "{count} blocks are not run, more than {NOT_RUN}");
    // It can fail.
    for wrong in ["kubectl get --colour", "holdfast-agent fly", "make coffee", "holdfast-agent status --loud"]
    {
        assert!(parses(&reader, &mut helps, wrong).is_err(), "{wrong}");
    }
    Ok(())
}
