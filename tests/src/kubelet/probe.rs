//! Probes of a container: startup first, then liveness and readiness.

use std::{
    io::{Read, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{container, pod::PodRun};

/// Probes until the container must be ended, and says why. It never returns while all is well.
pub(super) async fn watch(pod: &Arc<PodRun>, index: usize, container: &Container, id: &str) -> String {
    if let Some(probe) = &container.startup_probe
        && let Some(why) = until_turned(pod, container, probe, id, true).await
    {
        return format!("failed startup probe: {why}");
    }
    pod.track(index, |track| {
        track.started = true;
        track.ready = container.readiness_probe.is_none();
    });
    let readiness = async {
        let Some(probe) = &container.readiness_probe else { return std::future::pending().await };
        loop {
            // An answer other than the last one, as often as it takes: ready, not ready, and so on.
            if until_turned(pod, container, probe, id, true).await.is_some() {
                continue;
            }
            pod.track(index, |track| track.ready = true);
            let why = until_turned(pod, container, probe, id, false).await.unwrap_or_default();
            pod.inner.note(&format!("{}/{} {}: not ready: {why}", pod.namespace, pod.name, container.name));
            pod.track(index, |track| track.ready = false);
        }
    };
    let liveness = async {
        let Some(probe) = &container.liveness_probe else { return std::future::pending().await };
        loop {
            if let Some(why) = until_turned(pod, container, probe, id, false).await {
                return format!("failed liveness probe: {why}");
            }
        }
    };
    tokio::select! {
        why = liveness => why,
        () = readiness => String::new(),
    }
}

/// Probes until so many successes in a row (`None`) or failures in a row (the last one's reason) have come; successes
/// end it only if `on_success`.
async fn until_turned(
    pod: &Arc<PodRun>,
    container: &Container,
    probe: &Probe,
    id: &str,
    on_success: bool,
) -> Option<String> {
    let number = |value: Option<i32>, usual: i32| u64::from(value.unwrap_or(usual).unsigned_abs().max(1));
    let period = Duration::from_secs(number(probe.period_seconds, 10));
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    if on_success {
        let delay = u64::from(probe.initial_delay_seconds.unwrap_or(0).unsigned_abs());
        tokio::time::sleep(Duration::from_secs(delay)).await;
    } else {
        ticks.reset();
    }
    let (mut successes, mut failures) = (0, 0);
    loop {
        ticks.tick().await;
        match once(pod, container, probe, id).await {
            Ok(()) => {
                (successes, failures) = (successes + 1, 0);
                if on_success && successes >= number(probe.success_threshold, 1) {
                    return None;
                }
            }
            Err(why) => {
                (successes, failures) = (0, failures + 1);
                if failures >= number(probe.failure_threshold, 3) {
                    return Some(format!("{why:#}"));
                }
            }
        }
    }
}

async fn once(pod: &Arc<PodRun>, container: &Container, probe: &Probe, id: &str) -> Result<()> {
    let timeout = Duration::from_secs(u64::from(probe.timeout_seconds.unwrap_or(1).unsigned_abs().max(1)));
    let own = pod.network().context("no address")?.addresses()[0];
    if let Some(exec) = &probe.exec {
        let words: Vec<&str> = exec.command.iter().flatten().map(String::as_str).collect();
        let mut command = tokio::process::Command::from(container::exec(&pod.inner, id, &words)?);
        let output = tokio::time::timeout(timeout, command.kill_on_drop(true).output()).await??;
        ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stdout));
        return Ok(());
    }
    let action: Box<dyn FnOnce(TcpStream) -> Result<()> + Send> = if let Some(action) = &probe.http_get {
        ensure!(action.scheme.as_deref().unwrap_or("HTTP") == "HTTP", "this kubelet probes over HTTP only");
        let action = action.clone();
        Box::new(move |stream| http(stream, &action))
    } else {
        Box::new(|_| Ok(()))
    };
    let (host, port) = match (&probe.http_get, &probe.tcp_socket) {
        (Some(action), _) => (action.host.clone(), &action.port),
        (None, Some(action)) => (action.host.clone(), &action.port),
        (None, None) => bail!("a probe of a kind that this kubelet does not know"),
    };
    let ip: IpAddr = host.map_or(Ok(own), |host| host.parse())?;
    let to = SocketAddr::new(ip, number(container, port)?);
    let pod = Arc::clone(pod);
    let probed = tokio::task::spawn_blocking(move || {
        let stream = pod
            .inner
            .place
            .netns()
            .within(|| TcpStream::connect_timeout(&to, timeout).with_context(|| to.to_string()))?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        action(stream)
    });
    tokio::time::timeout(timeout, probed).await.context("no answer in time")??
}

fn number(container: &Container, port: &IntOrString) -> Result<u16> {
    match port {
        IntOrString::Int(number) => Ok(u16::try_from(*number)?),
        IntOrString::String(name) => {
            let named =
                container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name.as_str()));
            Ok(u16::try_from(named.with_context(|| format!("no port is called {name}"))?.container_port)?)
        }
    }
}

fn http(mut stream: TcpStream, action: &HTTPGetAction) -> Result<()> {
    let path = action.path.as_deref().unwrap_or("/");
    let mut request =
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: kube-probe/1.37\r\n", stream.peer_addr()?);
    for header in action.http_headers.iter().flatten() {
        request.extend([header.name.as_str(), ": ", &header.value, "\r\n"]);
    }
    request += "Connection: close\r\n\r\n";
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(16 * 1024).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let code: u16 = answer.split(' ').nth(1).context("no HTTP answer")?.parse()?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    ensure!((200..400).contains(&code), "statuscode: {code}: {}", body.trim());
    Ok(())
}
