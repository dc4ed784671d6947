//! Jobs: commands that must not overlap with themselves, and the ledger of their runs.

mod acquire;
mod backwards;
mod course;
pub(crate) mod definition;
mod files;
mod holding;
mod ledger;
#[cfg(test)]
mod ledger_properties;
mod line;
pub(crate) mod log;
mod model;
mod options;
mod place;
mod remains;
mod run;
pub(crate) mod settings;
pub(crate) mod signal;
mod stop;
mod supervise;
mod verify;

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
pub(crate) use run::{Done, Run};
pub(crate) use stop::{StopJob, stop};
