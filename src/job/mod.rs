//! Jobs: commands that must not overlap with themselves, and the ledger of their runs.

mod backwards;
mod files;
mod ledger;
#[cfg(test)]
mod ledger_properties;
mod line;
mod model;
mod options;
mod place;
mod remains;

#[allow(unused_imports)]
pub(crate) use backwards::Backwards;
#[allow(unused_imports)]
pub(crate) use files::JobFiles;
#[allow(unused_imports)]
pub(crate) use ledger::{Appended, JobLedger};
pub use model::{
    Counts, EndRequest, Ended, Entry, Event, Last, NotRun, Outcome, Request, RunId, Running, Started, Totals,
};
pub use options::{Hold, Options, OutputMode, Policy, Retries};
#[allow(unused_imports)]
pub(crate) use place::Place;
#[allow(unused_imports)]
pub(crate) use remains::remains;
