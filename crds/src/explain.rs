//! May one workload reach another, make a system call, start a program, touch a file or use a capability: by which rule, and on which nodes by which mechanism.
//!
//! Pure but for the reading of files: a [`Scene`] is what files or an API server's objects describe, and the
//! answer is the reference verdict's (`holdfast_policy::decide`), at both ends of a flow, joined with what the nodes'
//! agents report. `holdfast-agent explain` and `kubectl holdfast explain` both ask here.

mod access;
mod answer;
mod args;
mod name;
mod nodes;
mod scene;

pub use access::{Access, AccessAsked};
pub use answer::{Answer, CallAnswer, CallAsked, Flow};
pub use args::QuestionArgs;
pub use nodes::{OnNode, State};
pub use scene::Scene;

use holdfast_policy::model::Protocol;

/// A flow that is asked for.
#[derive(Debug, Clone)]
pub struct FlowAsked {
    /// Who is reached: `NAMESPACE/NAME`, `NAMESPACE/KIND/NAME` or an address.
    pub to: String,
    /// At which port.
    pub port: u16,
    /// By which protocol.
    pub protocol: Protocol,
}

/// What is asked: at least one of a flow, a call and accesses.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who opens the flow and makes the call: `NAMESPACE/NAME`, `NAMESPACE/KIND/NAME` or, for a flow, an address.
    pub from: String,
    /// The flow.
    pub flow: Option<FlowAsked>,
    /// The call.
    pub call: Option<CallAsked>,
    /// What is started, done to a file, or used.
    pub accesses: Vec<AccessAsked>,
}

/// A question that has no answer in its scene. Displayed as one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unanswerable(String);

/// The namespace that an end names, as [`Scene::answer`] reads it; `None` for an address, and for what it cannot read.
#[must_use]
pub fn namespace_of<'a>(end: &'a str, namespace: &'a str) -> Option<&'a str> {
    if end.parse::<std::net::IpAddr>().is_ok() {
        return None;
    }
    name::Written::parse(end, Some(namespace)).ok().map(|name| name.namespace)
}

impl Scene {
    /// Answers a question. An end that names no namespace (`NAME` or `KIND/NAME`) is looked for in `namespace`, where
    /// there is one.
    ///
    /// # Errors
    /// When the question is about something that is not there.
    pub fn answer(&self, question: &Question, namespace: Option<&str>) -> Result<Answer, Unanswerable> {
        let mut answer = Answer::default();
        let from = answer::find(self, &question.from, namespace).map_err(Unanswerable)?;
        if let Some(FlowAsked { to, port, protocol }) = &question.flow {
            let to = answer::find(self, to, namespace).map_err(Unanswerable)?;
            answer.ask_flow(self, from, to, *protocol, *port).map_err(Unanswerable)?;
        }
        if let Some(call) = &question.call {
            answer.ask_call(self, from, call).map_err(Unanswerable)?;
        }
        for asked in &question.accesses {
            let answer::End::Subject(subject) = from else {
                return Err(Unanswerable(format!("{} runs nothing: name a workload", question.from)));
            };
            answer.ask_access(self, subject, asked).map_err(Unanswerable)?;
        }
        answer.conclude(self);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;
