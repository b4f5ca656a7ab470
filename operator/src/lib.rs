//! Holdfast's operator: deploys the agent, tells all agents who holds which address, and says of each policy where it is
//! in force.
//!
//! Watches ([`watch`]) turn the API's objects into compact records ([`facts`]) that feed the [`index`]; [`plan`] makes of
//! it what is to be written; [`apply`] writes it; [`announce`] tells of it in Events; [`reconcile`] ties these together;
//! [`lease`] sees to it that only one replica writes; [`crds`] keeps the CRDs up to date; [`run`] starts and supervises it
//! all; [`check`] looks whether it works. `facts`, `index` and `plan` have neither client nor clock.

pub mod announce;
pub mod apply;
pub mod args;
pub mod check;
pub mod crds;
pub mod error;
pub mod facts;
pub mod index;
pub mod lease;
pub mod metrics;
pub mod plan;
pub mod reconcile;
pub mod run;
pub mod watch;
