//! Questions about executables, files and capabilities.

use holdfast_policy::decide::{
    Executable, FileAccess, Judgement, decide_capability, decide_executable, decide_file,
};
use holdfast_policy::model::{Capability, Operation, RulePath, Workload};

use super::answer::{Answer, containers, title};
use super::nodes::Matter;
use super::scene::{Scene, Subject};

/// An access that is asked for.
#[derive(Debug, Clone)]
pub struct AccessAsked {
    /// What is accessed.
    pub access: Access,
    /// The container that does it; `None` = each of the workload's.
    pub container: Option<String>,
}

/// What is accessed, and how. Paths are as the workload has them, after symbolic links.
#[derive(Debug, Clone)]
pub enum Access {
    /// An executable is started.
    Executable {
        /// Its path.
        path: String,
        /// Whether it was in the container's image.
        in_image: bool,
    },
    /// Something is done to a file.
    File {
        /// Its path.
        path: String,
        /// What is done.
        operation: Operation,
        /// The program that does it; `None` = one that no rule excepts.
        running: Option<String>,
    },
    /// A capability is used, by its name without `CAP_`.
    Capability(String),
}

impl Access {
    fn title(&self) -> String {
        match self {
            Self::Executable { path, in_image: true } => format!("start of {path}"),
            Self::Executable { path, in_image: false } => format!("start of {path}, not in the image"),
            Self::File { path, operation, running: None } => format!("{operation} of {path}"),
            Self::File { path, operation, running: Some(running) } => {
                format!("{operation} of {path} by {running}")
            }
            Self::Capability(name) => format!("use of {name}"),
        }
    }

    /// The verdict; or what is wrong with the question.
    fn decide(&self, scene: &Scene, workload: &Workload) -> Result<Judgement, String> {
        let (policies, world) = (&scene.policies, &scene.world);
        Ok(match self {
            Self::Executable { path, in_image } => {
                let path = Some(resolved(path)?);
                let executable = Executable { path, in_image: *in_image };
                decide_executable(policies, world, workload, &executable)
            }
            Self::File { path, operation, running } => {
                let path = resolved(path)?;
                let executable = running.as_deref().map(resolved).transpose()?;
                let access = FileAccess { path, operation: *operation, executable };
                decide_file(policies, world, workload, &access)
            }
            Self::Capability(name) => {
                let capability = Capability::named(name)
                    .ok_or_else(|| format!("{name} is no known capability (without CAP_, in capitals)"))?;
                decide_capability(policies, world, workload, capability)
            }
        })
    }
}

/// A path as a workload has it.
fn resolved(path: &str) -> Result<Vec<u8>, String> {
    let is_resolved = path
        .strip_prefix('/')
        .is_some_and(|rest| rest.split('/').all(|name| !matches!(name, "" | "." | "..")));
    if !is_resolved {
        return Err(format!("{path:?} is no absolute path without //, . and .., nor one of a file"));
    }
    Ok(path.as_bytes().to_vec())
}

impl Answer {
    /// Asks whether a workload may do this.
    pub(super) fn ask_access(
        &mut self,
        scene: &Scene,
        subject: &Subject,
        asked: &AccessAsked,
    ) -> Result<(), String> {
        let what = asked.access.title();
        if self.question.is_empty() {
            self.question = format!("{}, {what}", title(subject));
        }
        for container in containers(subject, asked.container.as_ref())? {
            let mut workload = subject.workload.clone();
            workload.container = container.cloned();
            let verdict = asked.access.decide(scene, &workload)?;
            let by_process_rule =
                verdict.rule.as_ref().is_some_and(|rule| matches!(rule.path, RulePath::Process(_)));
            if by_process_rule && matches!(asked.access, Access::Executable { .. }) {
                self.note("a script is asked about twice: as itself, and as its interpreter");
            }
            self.answer_call(scene, subject, container, what.clone(), &verdict, Matter::Access);
        }
        Ok(())
    }
}
