//! triplock
mod cli;
pub mod clock;
#[doc(hidden)]
pub mod command;
pub mod dir;
pub mod error;
pub mod exit;
pub mod lock;
pub mod name;
mod output;
pub mod race;
/// The version of every file and every JSON object that this triplock writes.
pub(crate) const FORMAT: u64 = 1;
