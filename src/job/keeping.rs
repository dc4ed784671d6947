//! What a run is built on, whatever it is: the files of a state directory, or leases of a server.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    acquire::Locks,
    ledger::{Appended, JobLedger},
    lifeline::Lifeline,
    model::{Event, RunId, Totals},
    options::{Hold, Options},
    supervise::{Attempt, pause},
};
use crate::{
    error::Result,
    lock::FileGuard,
    process::{Signals, SpawnError},
};

/// The ledger of a job, for a run of it.
pub(super) trait Lines {
    /// The time that its lines have.
    fn now(&self) -> DateTime<Utc>;

    /// Appends what `decide` makes of the sums so far, all or nothing. It may be asked again, of later sums. Gives what is
    /// still to be synced.
    ///
    /// # Errors
    /// `LockLost`: this run is not its job's any more, and nothing was appended. Others as the ledger's.
    fn append(&self, decide: &mut dyn FnMut(&Totals) -> Vec<Event>) -> Result<Option<Appended>>;

    /// Appends what anybody may say, whoever holds the lock.
    fn observe(&self, decide: &mut dyn FnMut(&Totals) -> Vec<Event>) -> Result<()>;

    /// The sums so far.
    fn totals(&self) -> Result<Totals>;

    /// Whether somebody else has recorded that this run, which is over, had lost its lease.
    fn was_lost(&self, run: RunId) -> bool;

    /// Says that lines may not be on disk although they are synced.
    fn distrust(&self);
}

impl Lines for JobLedger {
    fn now(&self) -> DateTime<Utc> {
        self.now()
    }

    fn append(&self, decide: &mut dyn FnMut(&Totals) -> Vec<Event>) -> Result<Option<Appended>> {
        self.append(decide).map(Some)
    }

    fn observe(&self, decide: &mut dyn FnMut(&Totals) -> Vec<Event>) -> Result<()> {
        self.append(decide)?.sync()
    }

    fn totals(&self) -> Result<Totals> {
        self.totals()
    }

    /// Nobody has, while its lock was held.
    fn was_lost(&self, _: RunId) -> bool {
        false
    }

    fn distrust(&self) {
        self.distrust();
    }
}

/// How an attempt went wrong that came to no end of its own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Broken {
    /// There is no such command.
    NotFound,
    /// It cannot be executed, and why.
    NotExecutable(String),
    /// It cannot be started, and why.
    NotStarted(String),
    /// It could not be watched over any more, and was killed; and who is left of it.
    Unwatched(String, Vec<String>),
    /// Its lease was about to pass on, its guardian did not end it, and it was killed; and who is left of it.
    LeaseLost(Vec<String>),
}

impl From<SpawnError> for Broken {
    fn from(error: SpawnError) -> Self {
        match error {
            SpawnError::NotFound(_) => Self::NotFound,
            SpawnError::NotExecutable(e) => Self::NotExecutable(e.to_string()),
            SpawnError::Failed(e) => Self::NotStarted(e.to_string()),
        }
    }
}

/// What came of an attempt.
pub(crate) type Carried = Result<Attempt, Broken>;

/// What a run holds while it goes on.
pub(crate) trait Holding {
    /// Which of its job's slots it has.
    fn slot(&self) -> u32;

    /// How long it was waited for.
    fn waited(&self) -> Duration;

    /// What the command's environment says of it.
    fn environment(&self) -> Vec<(OsString, Option<OsString>)>;

    /// What the command inherits.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;

    /// Whether the command's end must be as certain as this machine can make it.
    fn wants_a_certain_end(&self, options: &Options) -> bool;

    /// Has an attempt carried out, here or in a guardian, which gives it its lifeline.
    fn carry_out(&self, attempt: &mut dyn FnMut(Option<&mut Lifeline>) -> Carried) -> Carried;

    /// Sleeps before the next attempt, unless a signal comes that ends things, or somebody asks for the end: that signal is
    /// given.
    fn rest(&self, signals: &Signals, time: Duration) -> io::Result<Option<i32>>;

    /// Lets it go.
    fn release(self, hold: Hold);
}

impl Holding for Locks {
    fn slot(&self) -> u32 {
        self.slot
    }

    fn waited(&self) -> Duration {
        self.waited
    }

    fn environment(&self) -> Vec<(OsString, Option<OsString>)> {
        vec![("TRIPLOCK_LOCK_FILE".into(), Some(self.job.path().into()))]
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.inherited.iter().map(AsFd::as_fd).collect()
    }

    fn wants_a_certain_end(&self, options: &Options) -> bool {
        // Only who sets a limit pays for it.
        options.time_limit.is_some()
    }

    fn carry_out(&self, attempt: &mut dyn FnMut(Option<&mut Lifeline>) -> Carried) -> Carried {
        attempt(None)
    }

    fn rest(&self, signals: &Signals, time: Duration) -> io::Result<Option<i32>> {
        pause(signals, time)
    }

    fn release(self, hold: Hold) {
        match hold {
            Hold::Command => drop(self),
            Hold::Tree => {
                self.named.into_iter().for_each(FileGuard::abandon);
                self.job.abandon();
            }
        }
    }
}
