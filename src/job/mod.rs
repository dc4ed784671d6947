//! Jobs: commands that must not overlap with themselves, and the ledger of their runs.

mod acquire;
mod admission;
mod backwards;
mod course;
pub(crate) mod definition;
mod fences;
#[cfg(test)]
mod fences_properties;
mod files;
mod history;
mod holding;
mod keeping;
mod lane_run;
mod late_sync;
mod leased;
mod ledger;
#[cfg(test)]
mod ledger_properties;
mod lifeline;
mod line;
pub(crate) mod log;
mod model;
mod options;
mod place;
mod presence;
mod remains;
mod run;
pub(crate) mod settings;
pub(crate) mod signal;
mod stop;
mod supervise;
mod totals;
mod verify;

pub use crate::crontab::Tick;
pub(crate) use admission::{Admission, Admitted, Standing};
pub(crate) use backwards::Backwards;
pub(crate) use fences::Fences;
pub(crate) use files::JobFiles;
pub(crate) use history::{RunState, RunView, Runs, optional_time};
pub(crate) use keeping::{Broken, Carried, Holding};
pub use lane_run::LaneRun;
pub(crate) use late_sync::LateSync;
pub(crate) use leased::{Guarded, Keeper, LeasedRun, Leases, Not, ServerEntries, ServerJob, ServerJobs, Want};
pub(crate) use ledger::{Appended, JobLedger};
pub(crate) use lifeline::{Lifeline, Terms};
pub(crate) use model::seconds;
pub use model::{EndRequest, Ended, Entry, Event, NotRun, Outcome, Queued, Request, RunId, Started, Stranded, Ticked};
pub use options::{Hold, Options, OutputMode, Policy, Retries};
pub(crate) use place::Place;
pub(crate) use presence::{Look, Presence, Slot};
pub(crate) use remains::remains;
pub(crate) use run::{Done, Run};
pub(crate) use stop::{StopCount, StopJob, stop};
pub(crate) use supervise::{Attempt, Cause, Supervisor};
pub use totals::{Counts, Last, LastTick, Running, Totals};
