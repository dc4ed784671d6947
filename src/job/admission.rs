//! What a queued run has that another does not: a number and a place in line, from before it started; and what may keep
//! it from starting that is no lock.

use std::time::Duration;

use super::model::{Outcome, RunId};
use crate::{error::Result, lock::Ticket};

/// A queued run on its way to its start.
pub(crate) trait Admission {
    /// Its number.
    fn run(&self) -> RunId;

    /// Its place in its lane.
    fn ticket(&self) -> &Ticket;

    /// How long it has waited since it was queued.
    fn waited(&self) -> Duration;

    /// Sleeps until nothing keeps it from starting but the locks. That may change again until its start is recorded.
    fn wait(&self) -> Result<Admitted>;

    /// How it stands. Asked under `NAME.commit`, under which that changes, so a start that is recorded in the same step was
    /// right.
    fn standing(&self) -> Result<Standing>;

    /// Whether somebody asked for its end (`stop`) while it had its job's lock and waited for another.
    fn is_stopped(&self) -> Result<bool>;

    /// Its start is recorded, or that it will not be run: it stands in its lane no more.
    fn leave(&self);
}

/// What a queued run's wait came to.
#[derive(Debug)]
pub(crate) enum Admitted {
    Yes,
    /// It is not to be run.
    No {
        outcome: Outcome,
        reason: String,
    },
    /// What it was to follow may yet be run, and nobody knows when. So its process ends and the run keeps its place, which
    /// is recorded.
    Stranded,
}

/// How a queued run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Wanted,
    /// Its lane was paused, or somebody stands before it again.
    Withheld,
    /// Somebody took it out of its lane, and recorded that.
    Gone,
}
