//! Why there is no answer, in one line for people.

use std::path::PathBuf;

use holdfast_crds::document::DocumentError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The flags make no sense together.
    #[error("{0}")]
    Usage(String),
    /// There is no usable kubeconfig.
    #[error("the kubeconfig cannot be used: {0}")]
    Config(Box<dyn std::error::Error + Send + Sync>),
    /// The API server did not answer, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// What was named is not there.
    #[error("{0}")]
    NotFound(String),
    /// Files that do not hold what they should.
    #[error("the files are no good")]
    Documents(Vec<DocumentError>),
    /// The question has no answer.
    #[error(transparent)]
    Unanswerable(#[from] holdfast_crds::explain::Unanswerable),
    /// A file cannot be written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What was found cannot be written as JSON.
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Failure {
    /// One line, or one for each error of a file.
    pub(crate) fn lines(&self) -> String {
        match self {
            Self::Documents(errors) => {
                errors.iter().fold(String::new(), |text, error| text + &error.to_string() + "\n")
            }
            other => format!("error: {}\n", one_line(&other.to_string())),
        }
    }
}

/// A request that came to nothing. Displayed in one line that names what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {problem}")]
pub(crate) struct ApiError {
    /// What was asked for, such as `workloadpolicies of namespace shop`.
    pub(crate) what: String,
    /// How it failed.
    pub(crate) problem: Problem,
}

/// How a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// The user may not do that. The API server's own words.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// There is no such object, or no such kind of object.
    #[error("not found")]
    NotFound,
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// Anything else, in one line.
    #[error("{0}")]
    Other(String),
}

impl ApiError {
    /// Of what the client said.
    pub(crate) fn new(what: impl Into<String>, error: &kube::Error) -> Self {
        let problem = match error {
            kube::Error::Api(status) if status.code == 403 => Problem::Forbidden(one_line(&status.message)),
            kube::Error::Api(status) if status.code == 404 => Problem::NotFound,
            kube::Error::Api(status) => Problem::Other(one_line(&status.message)),
            other => Problem::Other(chain(other)),
        };
        Self { what: what.into(), problem }
    }

    /// Whether it is a matter of permissions.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self.problem, Problem::Forbidden(_))
    }

    /// Whether it is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.problem == Problem::NotFound
    }
}

/// An error and its causes, where they say more than it does.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = one_line(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let said = one_line(&cause.to_string());
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

/// Without line breaks.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
