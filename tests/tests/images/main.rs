//! The images: what is in them, and that they run. The operator's as its Deployment runs it, against a real API server
//! that it finds by name; the agent's as the DaemonSet that this very operator makes runs it, with its capabilities and
//! mounts and no other.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_tests::{
    controlplane::{ControlPlane, Options},
    images::{self, Image, Runtime, Spec},
    operator::{self, NAMESPACE},
    tools,
    wait::until,
};
use serde_json::Value;

mod agent;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const SOON: Duration = Duration::from_mins(1);
/// What an image may take, whatever the profile that its program was built with.
const SIZE: u64 = 40_000_000;
const PARTS: [&str; 2] = ["operator", "agent"];

fn image(part: &str) -> Result<Image> {
    Image::unpack(&images::build()?.join(format!("holdfast-{part}-v{VERSION}-amd64.tar")))
}

/// Files of an image, by their paths in it.
fn files(folder: &Path, below: &str, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{below}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            files(&entry.path(), &path, found)?;
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

#[test]
fn an_image_is_one_program_and_its_bill_of_materials() -> Result<()> {
    for (part, user) in [("operator", "65532:65532"), ("agent", "0:0")] {
        let image = image(part)?;
        assert_eq!(image.tag, format!("v{VERSION}"));
        assert!(image.size < SIZE, "the image of the {part} has {} bytes", image.size);
        let (config, program) = (&image.config["config"], format!("/holdfast-{part}"));
        assert_eq!(image.config["architecture"], "amd64");
        assert_eq!(image.config["os"], "linux");
        assert_eq!(config["User"], user);
        assert_eq!(image.entrypoint()?, std::slice::from_ref(&program));
        let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].clone();
        assert_eq!(label("title"), program.trim_start_matches('/'));
        assert_eq!(label("version"), VERSION);
        assert_eq!(label("licenses"), "Apache-2.0");
        for name in ["description", "revision", "vendor"] {
            assert!(label(name).as_str().is_some_and(|text| !text.is_empty()), "no label {name}: {config}");
        }
        let mut found = Vec::new();
        files(&image.rootfs(), "", &mut found)?;
        assert_eq!(found, [program.clone(), format!("{program}.cdx.json")]);
        let file = image.rootfs().join(program.trim_start_matches('/'));
        assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o7777, 0o755);
        let headers = Command::new("readelf").args(["-lW"]).arg(&file).output()?;
        let headers = String::from_utf8(headers.stdout)?;
        assert!(headers.contains("LOAD") && !headers.contains("INTERP"), "not static: {headers}");
    }
    Ok(())
}

#[test]
fn the_bill_of_materials_names_what_cargo_lock_pins() -> Result<()> {
    let lock = fs::read_to_string(tools::root().join("Cargo.lock"))?;
    for part in PARTS {
        let image = image(part)?;
        let path = image.rootfs().join(format!("holdfast-{part}.cdx.json"));
        let bill: Value = serde_json::from_slice(&fs::read(path)?)?;
        assert_eq!(
            (bill["bomFormat"].as_str(), bill["specVersion"].as_str()),
            (Some("CycloneDX"), Some("1.5"))
        );
        assert_eq!(bill["metadata"]["component"]["name"], format!("holdfast-{part}"));
        assert_eq!(bill["metadata"]["component"]["version"], VERSION);
        let components = bill["components"].as_array().context("no components")?;
        let mut names = Vec::new();
        for component in components {
            let (name, version) = (component["name"].as_str(), component["version"].as_str());
            let (name, version) = name.zip(version).context("a component without a name or version")?;
            let pinned = format!("name = \"{name}\"\nversion = \"{version}\"\n");
            assert!(lock.contains(&pinned), "{name} {version} is not what Cargo.lock has");
            names.push(name);
        }
        let own = if part == "agent" { ["aya", "holdfast-crds"] } else { ["kube-client", "holdfast-crds"] };
        for name in own.iter().chain(&["rustls", "tokio"]) {
            assert!(names.contains(name), "{name} is missing of the {part}'s {names:?}");
        }
        // Each dependency is named among the components.
        let known: Vec<&Value> = components.iter().map(|component| &component["bom-ref"]).collect();
        for row in bill["dependencies"].as_array().context("no dependencies")? {
            for needed in row["dependsOn"].as_array().context("no list")? {
                assert!(known.contains(&needed), "{needed} of {} is no component", row["ref"]);
            }
        }
    }
    Ok(())
}

#[test]
fn the_images_answer_version_and_wrong_flags() -> Result<()> {
    let runtime = Runtime::new()?;
    for part in PARTS {
        let image = image(part)?;
        let run = |words: &[&str]| {
            let spec =
                Spec { args: words.iter().map(|word| (*word).to_owned()).collect(), ..Spec::default() };
            runtime.run(&image, &spec)
        };
        let version = run(&["--version"])?;
        assert_eq!(String::from_utf8(version.stdout)?, format!("holdfast-{part} {VERSION}\n"), "{part}");
        let wrong = run(&["run", "--no-such-flag"])?;
        let said = String::from_utf8(wrong.stderr)?;
        assert_eq!((wrong.status.code(), said.trim().lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains("--no-such-flag"), "{said}");
    }
    Ok(())
}

/// Answers questions for the address of any name with 127.0.0.1, for as long as the test runs, and counts them.
struct Names {
    asked: Arc<AtomicU64>,
    address: SocketAddr,
}

impl Names {
    /// On a loopback address of its own: resolvers ask at port 53 only.
    fn start() -> Result<Self> {
        let address: SocketAddr = "127.77.0.53:53".parse()?;
        let socket = UdpSocket::bind(address)?;
        let asked = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut query = [0; 512];
            // An empty datagram ends it.
            while let Ok((size @ 1.., from)) = socket.recv_from(&mut query) {
                let Some(answer) = answer(&query[..size]) else { continue };
                counter.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send_to(&answer, from);
            }
        });
        Ok(Self { asked, address })
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
            let _ = socket.send_to(&[], self.address);
        }
    }
}

/// RFC 1035: the header with one question, the question again, and for type A one answer.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)? + 5;
    let is_v4 = query.get(end - 4..end)? == [0, 1, 0, 1];
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
    answer.extend(query.get(12..end)?);
    if is_v4 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

/// The operator's image as a pod: a service account where every pod has its own, and a resolver.
fn operator_spec(cluster: &ControlPlane, runtime: &Runtime, names: &Names) -> Result<Spec> {
    let folder = runtime.folder().join("etc");
    fs::create_dir_all(&folder)?;
    let token = cluster.kubectl(&["create", "token", "--namespace", NAMESPACE, "holdfast-operator"])?;
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mut mounts = Vec::new();
    for (name, text, to) in [
        ("token", token.trim().to_owned(), format!("{account}/token")),
        ("namespace", NAMESPACE.to_owned(), format!("{account}/namespace")),
        ("ca.crt", fs::read_to_string(cluster.authority())?, format!("{account}/ca.crt")),
        ("resolv.conf", format!("nameserver {}\n", names.address.ip()), "/etc/resolv.conf".to_owned()),
    ] {
        fs::write(folder.join(name), text)?;
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o644))?;
        mounts.push((folder.join(name), to, false));
    }
    // The way to a file of the pod must be open to its user.
    for path in [runtime.folder(), &folder] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let args = [
        "run",
        "--namespace",
        NAMESPACE,
        "--agent-image-repository",
        "registry.test/agent",
        "--installation",
        "holdfast-operator",
        "--metrics-addr",
        "127.0.0.1:0",
        "--lease-duration",
        "3",
    ];
    Ok(Spec {
        args: args.map(str::to_owned).into(),
        env: vec![
            // The name that the certificate of the API server is for.
            "KUBERNETES_SERVICE_HOST=localhost".to_owned(),
            format!("KUBERNETES_SERVICE_PORT={}", cluster.port()),
        ],
        mounts,
        ..Spec::default()
    })
}

/// The pod of the agent, as the operator's image makes it of a NodeAgent; asked for once.
async fn agent_pod() -> Result<Value> {
    static POD: tokio::sync::OnceCell<Value> = tokio::sync::OnceCell::const_new();
    let made = async || {
        let cluster = ControlPlane::start(Options::default()).await?;
        operator::prepare(&cluster)?;
        let (runtime, names) = (Runtime::new()?, Names::start()?);
        let image = image("operator")?;
        let mut operator = runtime.start(&image, &operator_spec(&cluster, &runtime, &names)?)?;
        let agent = "apiVersion: holdfast.dev/v1alpha1\nkind: NodeAgent\nmetadata: {name: default}\nspec: {imageTag: v1}\n";
        operator::apply(&cluster, agent)?;
        let pod = until(SOON, "the operator's image makes a DaemonSet", async || {
            operator.check()?;
            let set = cluster.kubectl_output(
                &["get", "daemonset", "holdfast-agent-default", "--namespace", NAMESPACE, "-o", "json"],
                "",
            )?;
            if !set.status.success() {
                return Ok(None);
            }
            let set: Value = serde_json::from_slice(&set.stdout)?;
            Ok(Some(set["spec"]["template"]["spec"].clone()))
        })
        .await
        .with_context(|| runtime.log())?;
        ensure!(names.asked.load(Ordering::Relaxed) > 0, "the API server's name was not asked for");
        Ok(pod)
    };
    POD.get_or_try_init(made).await.cloned()
}

#[tokio::test]
async fn the_operators_image_finds_the_api_server_by_name_and_installs_the_agent() -> Result<()> {
    let pod = agent_pod().await?;
    assert_eq!(pod["containers"][0]["image"], "registry.test/agent:v1");
    Ok(())
}

#[test]
fn the_kernel_programs_compile_for_arm64() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sources = fs::read_dir(tools::root().join("agent-ebpf/bpf"))?;
    let mut count = 0;
    for source in sources {
        let source = source?.path();
        if !source.to_string_lossy().ends_with(".bpf.c") {
            continue;
        }
        count += 1;
        let compiled = |arch: &str| -> Result<Vec<u8>> {
            let object = folder.path().join(format!("{count}-{arch}.o"));
            // As agent-ebpf/build.rs has it.
            let output = Command::new("clang")
                .args(["-O2", "-g", "-target", "bpf", "-Wall", "-Werror", "-c"])
                .arg(format!("-D__TARGET_ARCH_{arch}"))
                .arg("-I/usr/include/x86_64-linux-gnu")
                .arg(&source)
                .arg("-o")
                .arg(&object)
                .output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{} for {arch}: {said}", source.display());
            Ok(fs::read(object)?)
        };
        let (arm, x86) = (compiled("arm64")?, compiled("x86")?);
        // Programs that read a task's registers are not the same.
        if source.ends_with("syscall.bpf.c") {
            ensure!(arm != x86, "{} is the same for both", source.display());
        }
    }
    ensure!(count >= 4, "{count} sources");
    Ok(())
}

#[test]
fn the_dockerfile_builds_this_version_with_the_pinned_toolchain() -> Result<()> {
    let dockerfile = fs::read_to_string(tools::root().join("Dockerfile"))?;
    let toolchain = fs::read_to_string(tools::root().join("rust-toolchain.toml"))?;
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'));
    let channel = channel.context("no channel")?;
    ensure!(
        dockerfile.contains(&format!("docker.io/library/rust:{channel}-bookworm AS builder")),
        "another Rust"
    );
    ensure!(dockerfile.contains(&format!("RUSTUP_TOOLCHAIN={channel} ")), "another toolchain");
    let versions = dockerfile.matches(&format!("ARG VERSION={VERSION}\n")).count();
    ensure!(versions == PARTS.len(), "another version");
    Ok(())
}
