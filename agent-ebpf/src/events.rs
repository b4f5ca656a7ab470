//! Events: from the kernel's ring buffers to lines of JSON, metrics and Kubernetes Events.
//!
//! [`reader`] takes records as they come, denials before audits; [`decode`] makes events of them with what [`book`] knows
//! of the kernel's numbers, and [`tally`] works out what each stands for; [`sink`] writes lines without ever making anybody
//! wait. What finds no room anywhere is counted, and said in the next line: lines, what they say is missing, and the
//! kernel's counters add up.

pub mod announce;
pub mod book;
pub mod decode;
pub mod file;
pub mod process;
pub mod reader;
pub mod sink;
pub mod tally;

pub use book::Book;
pub use reader::Reader;
pub use sink::Sink;
