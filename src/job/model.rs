//! What a job's ledger says. Pure: no I/O.
//!
//! Each line of `NAME.jsonl` is an [`Entry`] and the [`super::Totals`] after it, so the last line alone answers what `status`
//! asks, whatever the ledger's length.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::lane_run::LaneRun;
pub(super) use super::totals::{LastTick, Running, Totals};
use crate::lock::{Fence, Holder};

/// The number of a run or a non-run of its job, from 1, in the order of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub u64);

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What came of a run, or why there was none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The command ended with an exit code that counts as success.
    Succeeded,
    /// It ended with another one, or by a signal that triplock did not send.
    Failed,
    /// It reached its time limit and was ended.
    TimedOut,
    /// Somebody stopped it: `triplock stop`, or TERM, INT or QUIT to its wrapper.
    Stopped,
    /// A later run with `--policy replace` ended it.
    Replaced,
    /// Its wrapper was killed, so nobody knows how it ended.
    Lost,
    /// Its lease on a server was lost, and it was ended before somebody else could have it.
    LeaseLost,
    /// Not run: somebody held the lock.
    Skipped,
    /// Not run: an ancestor holds the lock, so waiting would never end.
    Refused,
    /// Not run: it succeeded within its `--once-per`.
    NotDue,
    /// Not run: the command cannot be executed, or something that the run needs failed.
    NotStarted,
    /// Not run: a signal ended the wait.
    Interrupted,
    /// Not run: somebody took it out of its lane.
    Cancelled,
    /// Not run: the run that it was to follow came to something else than success.
    DependencyFailed,
}

impl Outcome {
    /// Every outcome, runs first.
    pub const ALL: [Self; 14] = [
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Stopped,
        Self::Replaced,
        Self::Lost,
        Self::LeaseLost,
        Self::Skipped,
        Self::Refused,
        Self::NotDue,
        Self::NotStarted,
        Self::Interrupted,
        Self::Cancelled,
        Self::DependencyFailed,
    ];

    /// The word, as in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Stopped => "stopped",
            Self::Replaced => "replaced",
            Self::Lost => "lost",
            Self::LeaseLost => "lease_lost",
            Self::Skipped => "skipped",
            Self::Refused => "refused",
            Self::NotDue => "not_due",
            Self::NotStarted => "not_started",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
            Self::DependencyFailed => "dependency_failed",
        }
    }

    /// Whether `history --failed` shows it: something went wrong that nobody asked for.
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::Failed
                | Self::TimedOut
                | Self::Lost
                | Self::LeaseLost
                | Self::Refused
                | Self::NotStarted
                | Self::DependencyFailed
        )
    }

    /// Whether a command was run.
    pub const fn has_run(self) -> bool {
        matches!(
            self,
            Self::Succeeded
                | Self::Failed
                | Self::TimedOut
                | Self::Stopped
                | Self::Replaced
                | Self::Lost
                | Self::LeaseLost
        )
    }
}

/// A duration as the ledger writes it: seconds, to the microsecond.
pub(crate) fn seconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

/// One line of a ledger, without its sums.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When the line was written.
    #[serde(with = "crate::clock::as_rfc3339")]
    pub time: DateTime<Utc>,
    /// Node name of the machine.
    pub host: String,
    /// The triplock process that wrote it.
    pub pid: u32,
    /// `$INVOCATION_ID` of that process: `journalctl _SYSTEMD_INVOCATION_ID=…` shows what the unit printed. Only of the
    /// first line of an attempt or a non-run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation_id: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An attempt is about to start.
    Started(Started),
    /// An attempt ended.
    Ended(Ended),
    /// A run that was asked for and did not happen.
    NotRun(NotRun),
    /// Somebody is about to end a run.
    EndRequested(EndRequest),
    /// A run stands in its lane.
    Queued(Queued),
    /// The process of a run that stands in its lane is gone, and the run goes on standing there.
    Stranded(Stranded),
}

impl Event {
    /// Which run it is about, and whether it is the first that is told of it.
    pub(crate) fn run(&self) -> (RunId, bool) {
        match self {
            Self::Started(started) => (started.run, started.attempt <= 1 && !started.queued),
            Self::Ended(ended) => (ended.run, false),
            Self::NotRun(not_run) => (not_run.run, !not_run.queued),
            Self::EndRequested(asked) => (asked.run, false),
            Self::Queued(queued) => (queued.run, true),
            Self::Stranded(stranded) => (stranded.run, false),
        }
    }
}

/// An attempt is about to start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Which run.
    pub run: RunId,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The fence of the job's lock.
    pub fence: Fence,
    /// Which of the job's slots, from 1. A `flock --job` run takes none of their locks; so that it is not taken for
    /// the run of a slot, it has a number above [`Options::MAX_SLOTS`](super::Options::MAX_SLOTS), the lowest that no
    /// running one has (with shared locks there may be several).
    pub slot: u32,
    /// How long the lock was waited for, in seconds.
    pub wait: f64,
    /// The command line, shortened.
    pub command: String,
    /// The kernel's boot id: a run of another boot is over.
    pub boot: String,
    /// The inode of the pid namespace in which `pid` means something.
    pub pid_namespace: u64,
    /// Device and inode of the file that `flock --job` locked, instead of the job's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<(u64, u64)>,
    /// Fences up to this one are reserved from here on; 0 when this start reserves none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserved: u64,
    /// How long the run's lease on a server lasts from each renewal, in seconds; `None`: its lock is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<f64>,
    /// For which time it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick: Option<Box<Ticked>>,
    /// Whether it had stood in its lane, with the number that it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub queued: bool,
}

/// The time that a run is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticked {
    /// It.
    #[serde(with = "crate::clock::as_rfc3339")]
    pub time: DateTime<Utc>,
    /// The five fields of a crontab that name it.
    pub expression: String,
    /// How many times between the last run's and this one nobody ran.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
}

/// An attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Which run.
    pub run: RunId,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// What came of it.
    pub outcome: Outcome,
    /// Whether another attempt of the same run follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// The command's exit code, if it ended with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<u8>,
    /// The signal that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The exit code of `run`, where neither of those makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// When the attempt started.
    #[serde(with = "crate::clock::as_rfc3339")]
    pub start: DateTime<Utc>,
    /// How long it took, in seconds, by a clock that nobody sets. 0 of a lost run.
    pub duration: f64,
    /// Processor time in user mode of the command and the descendants it waited for, in seconds.
    pub user: f64,
    /// The same in system mode.
    pub system: f64,
    /// Peak resident memory of the largest of those, in bytes.
    pub peak_memory: u64,
    /// The fence of the job's lock.
    pub fence: Fence,
    /// How long the lock was waited for, in seconds.
    pub wait: f64,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A run that was asked for and did not happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotRun {
    /// The number that it takes.
    pub run: RunId,
    /// Why not.
    pub outcome: Outcome,
    /// The same for people.
    pub reason: String,
    /// Who held the lock, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// How long the lock was waited for, in seconds.
    pub wait: f64,
    /// The command line, shortened.
    pub command: String,
    /// Whether it had stood in its lane, with the number that it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub queued: bool,
}

/// A run stands in its lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// The number that it takes.
    pub run: RunId,
    /// Its place in the lane: the smaller, the sooner.
    pub ticket: u64,
    /// The runs that must be over first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<LaneRun>,
    /// Whether they may have failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub even_if_failed: bool,
    /// The command line, shortened.
    pub command: String,
}

/// The process of a run that stands in its lane is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranded {
    /// Which run.
    pub run: RunId,
    /// How that came.
    pub reason: String,
}

/// How somebody ends a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// `triplock stop`.
    Stop,
    /// `run --policy replace`.
    Replace,
}

impl Request {
    /// The outcome of the run that is ended so.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Stop => Outcome::Stopped,
            Self::Replace => Outcome::Replaced,
        }
    }
}

/// Somebody is about to end a run. Written before the first signal, so that the run, or whoever finds its remains,
/// knows what the signal meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRequest {
    /// Which run is to end.
    pub run: RunId,
    /// How.
    pub request: Request,
}

// As serde asks for it.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}
