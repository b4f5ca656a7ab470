//! The node that the demo plays on: this machine ([`Local`]), or a guest that QEMU boots ([`guest`]), which does the very
//! same by the very same code and is only asked over a wire.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{
    agent::{Agent, Mounts},
    attempt,
    node::{self, Node},
};

pub mod guest;

/// What a node is asked. The answer is a text.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// The boot id.
    BootId,
    /// The release of the kernel.
    Kernel,
    /// Run a pod.
    RunPod {
        /// Its name.
        name: String,
        /// The UID that the API server gave it.
        uid: String,
        /// What its addresses end with.
        number: u8,
    },
    /// Start the agent and wait until it is ready.
    StartAgent {
        /// The file of its kubeconfig; with the files of that, where the node has not got them: path and text.
        kubeconfig: PathBuf,
        /// Those files.
        files: Vec<(PathBuf, String)>,
    },
    /// What the agent's `probe` prints.
    Probe,
    /// [`attempt::tcp`].
    Tcp {
        /// From where.
        from: String,
        /// To where.
        to: String,
        /// To which port.
        port: u16,
        /// What should come of it.
        wanted: String,
    },
    /// [`attempt::open`]; the answer is the number of the connection.
    Open {
        /// From where.
        from: String,
        /// To where.
        to: String,
        /// To which port.
        port: u16,
    },
    /// [`attempt::say`].
    Say {
        /// From where.
        from: String,
        /// The connection.
        socket: u64,
        /// To where.
        to: String,
        /// What should come of it.
        wanted: String,
    },
    /// [`attempt::call`], about a folder of its own.
    Call {
        /// Where.
        pod: String,
        /// The call.
        call: String,
    },
    /// [`attempt::packet_socket`].
    PacketSocket {
        /// Where.
        pod: String,
    },
    /// The agent's metrics.
    Metrics,
    /// The end of the agent's log.
    Log,
}

/// Somebody who is asked.
pub trait Site {
    /// Does what is asked, and says what came of it.
    ///
    /// # Errors
    /// When it cannot be done.
    fn ask(&mut self, ask: Ask) -> Result<String>;
}

/// This machine.
pub struct Local {
    agent: Option<Agent>,
    mounts: Mounts,
    node: Node,
    folder: TempDir,
    folders: u32,
}

impl Local {
    /// Makes the node. `program` is the program `demo`, `agent` that of the agent.
    ///
    /// # Errors
    /// When the kernel refuses: it takes root.
    pub fn new(program: &Path, agent: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("holdfast-site-").tempdir()?;
        let node = Node::new(program).context("making the node")?;
        let mounts = Mounts::new(folder.path(), agent)?;
        Ok(Self { agent: None, mounts, node, folder, folders: 0 })
    }

    fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("no agent was started")
    }
}

impl Site for Local {
    fn ask(&mut self, ask: Ask) -> Result<String> {
        let node = &self.node;
        match ask {
            Ask::BootId => node::boot_id(),
            Ask::Kernel => Ok(node::kernel()),
            Ask::RunPod { name, uid, number } => self.node.run(&name, &uid, number).map(|()| String::new()),
            Ask::StartAgent { kubeconfig, files } => {
                for (path, text) in files {
                    fs::create_dir_all(path.parent().context("a file in no folder")?)?;
                    fs::write(&path, text).with_context(|| path.display().to_string())?;
                }
                let agent =
                    Agent::start(&self.mounts, &kubeconfig, &self.node.host_netns(), self.folder.path())?;
                self.agent.insert(agent).wait_ready().map(|_| String::new())
            }
            Ask::Probe => self.mounts.agent(&["probe", "-o", "json"]),
            Ask::Tcp { from, to, port, wanted } => attempt::tcp(node, &from, &to, port, &wanted),
            Ask::Open { from, to, port } => {
                attempt::open(node, &from, &to, port).map(|socket| socket.to_string())
            }
            Ask::Say { from, socket, to, wanted } => attempt::say(node, &from, socket, &to, &wanted),
            Ask::Call { pod, call } => {
                self.folders += 1;
                attempt::call(node, &pod, &call, &self.folder.path().join(format!("call-{}", self.folders)))
            }
            Ask::PacketSocket { pod } => attempt::packet_socket(node, &pod),
            Ask::Metrics => self.agent()?.metrics(),
            Ask::Log => Ok(self.agent()?.log_tail()),
        }
    }
}
