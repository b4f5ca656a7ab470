//! The kubelet's own server: `/healthz`, and `/containerLogs` for kube-apiserver, known by its client certificate.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};

use super::{
    Inner,
    logs::{Log, Query},
};
use crate::controlplane::ControlPlane;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a kubelet's server is told of certificates.
#[derive(Clone)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    /// The only client.
    client: CertificateDer<'static>,
}

/// The server's certificate, and the one client's.
pub(super) fn tls(cluster: &ControlPlane, node: &str) -> Result<Tls> {
    let files = cluster.server_certificate(&format!("kubelet-{node}"))?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cluster.authority())?)?;
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let chain = vec![CertificateDer::from_pem_file(&files.certificate)?];
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&files.key)?)?;
    let client = CertificateDer::from_pem_file(cluster.kubelet_client())?;
    Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(config)), client })
}

/// Serves for as long as the kubelet lives.
pub(super) async fn serve(inner: Arc<Inner>, listener: std::net::TcpListener, tls: Tls) {
    let listener =
        match listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener)) {
            Ok(listener) => listener,
            Err(error) => return inner.note(&format!("its server: {error}")),
        };
    while let Ok((stream, _)) = listener.accept().await {
        let (inner, tls) = (Arc::clone(&inner), tls.clone());
        tokio::spawn(async move {
            if let Err(error) = answer(&inner, stream, &tls).await {
                inner.note(&format!("its server: {error:#}"));
            }
        });
    }
}

async fn answer(inner: &Inner, stream: TcpStream, tls: &Tls) -> Result<()> {
    let stream = tokio::time::timeout(PATIENCE, tls.acceptor.accept(stream)).await??;
    let known = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) == Some(&tls.client);
    let mut stream = BufReader::new(stream);
    let target = tokio::time::timeout(PATIENCE, target(&mut stream)).await??;
    let mut stream = stream.into_inner();
    if !known {
        return close(stream, "403 Forbidden", "not kube-apiserver\n").await;
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    if path == "/healthz" {
        return close(stream, "200 OK", "ok\n").await;
    }
    let Some(["containerLogs", namespace, pod, container]) =
        path.strip_prefix('/').map(|path| path.split('/').collect::<Vec<_>>()).as_deref().map(|words| {
            let mut four = [""; 4];
            four.iter_mut().zip(words).for_each(|(to, word)| *to = word);
            four
        })
    else {
        return close(stream, "404 Not Found", "this kubelet serves no such path\n").await;
    };
    let query = match Query::parse(query, Timestamp::now()) {
        Ok(query) => query,
        Err(error) => return close(stream, "400 Bad Request", &format!("{error:#}\n")).await,
    };
    let Ok(run) = inner.pod(namespace, pod) else {
        return close(stream, "404 Not Found", &format!("pod \"{pod}\" not found\n")).await;
    };
    match run.log(container, query.previous) {
        Ok(log) => {
            head(&mut stream, "200 OK").await?;
            // Whoever follows may go at any time.
            let sent = send(&mut stream, &log, &query).await;
            let _ = stream.shutdown().await;
            if query.follow { Ok(()) } else { sent }
        }
        Err(error) => close(stream, "400 Bad Request", &format!("{error:#}\n")).await,
    }
}

/// The path and query of a request without a body.
async fn target(stream: &mut BufReader<TlsStream<TcpStream>>) -> Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split(' ');
    ensure!(words.next() == Some("GET"), "not a GET: {line}");
    let target = words.next().context("no path")?.to_owned();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if line.trim().is_empty() {
            return Ok(target);
        }
    }
}

async fn head(stream: &mut TlsStream<TcpStream>, status: &str) -> Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    Ok(stream.flush().await?)
}

async fn close(mut stream: TlsStream<TcpStream>, status: &str, text: &str) -> Result<()> {
    head(&mut stream, status).await?;
    stream.write_all(text.as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

async fn send(stream: &mut TlsStream<TcpStream>, log: &Log, query: &Query) -> Result<()> {
    let mut news = log.news();
    let mut open = news.borrow_and_update().1;
    let first = log.raw()?;
    let mut seen = first.len();
    stream.write_all(query.select(&first).as_bytes()).await?;
    stream.flush().await?;
    while query.follow && open {
        if news.changed().await.is_err() {
            break;
        }
        open = news.borrow_and_update().1;
        let all = log.raw()?;
        let new: String =
            all.get(seen..).unwrap_or_default().lines().filter_map(|line| query.show(line)).collect();
        seen = all.len();
        stream.write_all(new.as_bytes()).await?;
        stream.flush().await?;
    }
    Ok(())
}
