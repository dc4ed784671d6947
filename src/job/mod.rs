//! Jobs: commands that must not overlap with themselves, and the ledger of their runs.

pub(crate) mod definition;
mod model;
mod options;
pub(crate) mod settings;
pub(crate) mod signal;

pub use model::{
    Counts, EndRequest, Ended, Entry, Event, Last, NotRun, Outcome, Request, RunId, Running, Started, Totals,
};
pub use options::{Hold, Options, OutputMode, Policy, Retries};
