//! Scenarios: written once, run on the host and inside the guests of [`crate::vm`], by the program `scenarios`.
//!
//! A scenario is a sentence and a function. It puts policies in force through the agent's own engine, lets real
//! processes in real cgroups and network namespaces do something, and holds four things against what was asked for: what
//! the process saw, what had an effect, what the kernel counted, and what the agent reports. Each has an allowed twin.

pub mod access;
pub mod agent;
pub mod attempt;
pub mod break_glass;
pub mod cgroup;
pub mod containers;
pub mod cost;
pub mod events;
pub mod house;
pub mod netlink;
pub mod netns;
pub mod network;
pub mod node;
pub mod process;
pub mod protocol;
pub mod rig;
pub mod sockets;
pub mod suite;
pub mod syscalls;
pub mod tamper;
pub mod worker;
