//! What can go wrong with requests to the API server, and what is to be done about it.

use crate::plan::Failure;

/// A request to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server answered with an error, or could not be reached.
    #[error(transparent)]
    Kube(#[from] Box<kube::Error>),
    /// No answer came in time; the request may or may not have had its effect.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// This replica no longer leads, so nothing was sent.
    #[error("this replica no longer leads")]
    NotLeading,
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        Self::Kube(Box::new(error))
    }
}

impl ApiError {
    /// What is to be done about it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let Self::Kube(error) = self else { return Failure::Retry };
        match error.as_ref() {
            kube::Error::Api(status) => match status.code {
                404 | 409 | 410 => Failure::Conflict,
                400 | 413 | 422 => Failure::Invalid,
                _ => Failure::Retry,
            },
            _ => Failure::Retry,
        }
    }

    /// Whether the object is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Kube(error) if matches!(error.as_ref(), kube::Error::Api(status) if status.code == 404))
    }

    /// A short stable word, the `reason` label of metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::NotLeading => "not-leading",
            Self::Kube(error) => reason(error),
        }
    }
}

/// A short stable word for an error of the client, the `reason` label of metrics.
#[must_use]
pub fn reason(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) => match status.code {
            401 | 403 => "forbidden",
            404 => "not-found",
            409 => "conflict",
            410 => "gone",
            400 | 413 | 422 => "invalid",
            429 => "throttled",
            500..=599 => "server",
            _ => "api",
        },
        kube::Error::SerdeError(_) => "malformed",
        _ => "connection",
    }
}

/// Why the operator stopped, other than being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No way to reach an API server is configured.
    #[error("no kubeconfig, and not in a cluster")]
    NoCluster(#[source] Box<kube::config::InferConfigError>),
    /// The client could not be made of the configuration.
    #[error("the configuration of the API server's client cannot be used")]
    Client(#[source] Box<kube::Error>),
    /// The metrics address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
    /// The name of this replica cannot be made.
    #[error("cannot read a random identity for the Lease")]
    Identity(#[source] std::io::Error),
    /// The metrics could not be registered.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// A task ended that should not have.
    #[error("the task {0} ended unexpectedly")]
    TaskEnded(&'static str),
    /// A task panicked.
    #[error("the task {name} panicked")]
    TaskPanicked {
        /// The task.
        name: &'static str,
        /// What tokio says.
        source: tokio::task::JoinError,
    },
}
