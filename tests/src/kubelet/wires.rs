//! Ways between network namespaces, by listeners in one and connections in the other.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{io::copy_bidirectional, runtime::Handle, task::JoinHandle};

use super::Inner;
use crate::scenario::netns::NetNs;

/// How long a connection to a pod may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Lets 127.0.0.1 in a network namespace lead to kube-apiserver, at its own port, which its certificate is good for.
/// It ends when the task is aborted, or the runtime ends.
pub(super) fn to_api_server(runtime: &Handle, netns: &NetNs, port: u16) -> Result<JoinHandle<()>> {
    let listener = netns
        .within(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?))
        .context("the way to the API server")?;
    let _inside = runtime.enter();
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(runtime.spawn(async move {
        let mut ways = tokio::task::JoinSet::new();
        loop {
            let Ok((mut near, _)) = listener.accept().await else { return };
            // Those that have ended are forgotten.
            while ways.try_join_next().is_some() {}
            ways.spawn(async move {
                // While the API server is away the client's connection just ends.
                if let Ok(mut far) = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    }))
}

/// A listener on this machine's loopback whose connections go to a port of a pod, from its node.
pub(super) fn forward(inner: Arc<Inner>, namespace: String, pod: String, port: u16) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = inner.runtime.clone();
    let _inside = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    runtime.spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (inner, namespace, pod) = (Arc::clone(&inner), namespace.clone(), pod.clone());
            tokio::spawn(async move {
                let connected = tokio::task::spawn_blocking(move || {
                    let pod = inner.pod(&namespace, &pod)?;
                    let to = pod.network().context("no network yet")?.addresses()[0];
                    connect(inner.place.netns(), SocketAddr::new(to, port), CONNECT)
                });
                // What cannot be reached shows as a connection that ends at once.
                let Ok(Ok(far)) = connected.await else { return };
                if let Ok(mut far) = tokio::net::TcpStream::from_std(far) {
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    Ok(address)
}

/// Connects from within a network namespace; the socket does not block.
fn connect(netns: &NetNs, to: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let stream = netns.within(|| Ok(TcpStream::connect_timeout(&to, patience)?))?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
