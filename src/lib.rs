//! triplock
pub mod booking;
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
pub mod state;

pub use booking::{Change, Event, Refusal, Request};
pub use dir::StateDir;
pub use error::{Error, Result};
pub use lock::{Acquire, Wait};
pub use name::{Name, RequestId, Student};
pub use state::{Answer, Store};

/// The version of every file and every JSON object that this triplock writes.
pub(crate) const FORMAT: u64 = 1;
