//! Requests, as anybody may send them.

use anyhow::{Context, Result};
use http::StatusCode;
use kube::Client;
use serde_json::Value;

/// A request, as somebody sends it.
pub(crate) struct Try {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    body: Value,
}

pub(crate) fn attempt_to(method: &'static str, path: impl Into<String>, body: Value) -> Try {
    Try { method, path: path.into(), body }
}

/// The status code of the answer, and the message of one that is no success.
pub(crate) async fn send(client: &Client, request: &Try) -> Result<(u16, String)> {
    let content = match request.method {
        "PATCH" if request.path.contains("fieldManager=") => "application/apply-patch+yaml",
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = if request.body.is_null() { Vec::new() } else { serde_json::to_vec(&request.body)? };
    let sent = http::Request::builder()
        .method(request.method)
        .uri(&request.path)
        .header("content-type", content)
        .body(body)?;
    match client.request_text(sent).await {
        Ok(_) => Ok((StatusCode::OK.as_u16(), String::new())),
        Err(kube::Error::Api(status)) => Ok((status.code, status.message.clone())),
        Err(error) => Err(error).with_context(|| format!("{} {}", request.method, request.path)),
    }
}

pub(crate) const CORE: &str = "/api/v1";
pub(crate) const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
pub(crate) const API: &str = "/apis/holdfast.dev/v1alpha1";
pub(crate) const EXTENSIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
