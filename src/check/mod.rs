//! Whether jobs are well: what a monitoring system asks every minute.
//!
//! [`judge`] is pure: it is given what is known of a job, what its owner takes for wrong, and the time. [`Check`] finds
//! that out without a lock and without reading a ledger: the last line's sums say all that is asked, so a look costs
//! the same after ten runs as after ten million.
//!
//! Clocks are set back, and then what happened "in the future" would look fresh for as long as the step was. So a time
//! that is yet to come proves nothing, and what it was to prove is unknown.

mod judge;
mod look;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    crontab::Tick,
    error::Error,
    job::{
        Last, Options, Presence, RunId, Totals,
        definition::{Alerts, Definition},
    },
    name::Name,
};

pub(crate) use judge::judge;
pub(crate) use look::Check;

/// How a job is, or all of them. The numbers are the exit codes of monitoring plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl State {
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// What is known to be wrong goes before what is not known, and that before what is well: neither may hide behind
    /// the other.
    pub(crate) const fn severity(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Unknown => 1,
            Self::Warning => 2,
            Self::Critical => 3,
        }
    }

    /// The worst of several; well when there are none.
    pub(crate) fn worst(states: impl Iterator<Item = Self>) -> Self {
        states.max_by_key(|state| state.severity()).unwrap_or(Self::Ok)
    }
}

/// What is taken for wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// No success ended for longer.
    pub(crate) expect_every: Option<Duration>,
    /// So many failures in a row.
    pub(crate) alert_after: u64,
    /// An attempt lasts longer.
    pub(crate) alert_running: Option<Duration>,
    /// So many skips in a row.
    pub(crate) alert_skips: Option<u64>,
}

impl Limits {
    /// What the line says, then the job's file, then the defaults.
    ///
    /// # Errors
    /// When the file's options contradict each other.
    pub(crate) fn of(line: &Alerts, definition: Option<&Definition>) -> Result<Self, Error> {
        let none = Alerts::default();
        let file = definition.map_or(&none, |definition| &definition.alerts);
        let options = definition.map(|definition| definition.settings.clone().lower()).transpose()?;
        let by_limit = || options.as_ref().and_then(longest_attempt);
        Ok(Self {
            expect_every: line.expect_every.or(file.expect_every),
            alert_after: line.alert_after.or(file.alert_after).unwrap_or(1).into(),
            alert_running: line.alert_running.or(file.alert_running).or_else(by_limit),
            alert_skips: line.alert_skips.or(file.alert_skips).map(u64::from),
        })
    }
}

/// How long an attempt can last that triplock ends in time, and the longest pause after it: until the next attempt
/// starts, the ledger shows this one.
fn longest_attempt(options: &Options) -> Option<Duration> {
    let retries = &options.retries;
    let pause = if retries.count > 0 { retries.pause_after(retries.count) } else { Duration::ZERO };
    Some(options.time_limit? + options.grace() + pause)
}

/// What is known of a job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Subject {
    pub(crate) job: Name,
    pub(crate) limits: Limits,
    pub(crate) totals: Totals,
    /// What is in each of its slots.
    pub(crate) slots: Vec<Presence>,
    /// When the file that defines it was last changed.
    pub(crate) defined: Option<DateTime<Utc>>,
    /// The times of `--tick` that the file gives.
    pub(crate) tick: Option<Tick>,
    /// How many runs stand in its lane without a process.
    pub(crate) stranded: u64,
}

/// How a job is.
#[derive(Debug)]
pub(crate) struct Judgement {
    /// The job's name, or the job file that could not be understood.
    pub(crate) subject: String,
    /// What is not well, the worst first.
    pub(crate) findings: Vec<Finding>,
    /// Unless nothing is known.
    pub(crate) figures: Option<Figures>,
}

impl Judgement {
    pub(crate) fn state(&self) -> State {
        State::worst(self.findings.iter().map(Finding::state))
    }

    /// Of a job of which nothing can be known.
    pub(crate) fn broken(subject: impl Into<String>, why: Error) -> Self {
        Self { subject: subject.into(), findings: vec![Finding::Broken(why)], figures: None }
    }
}

/// What the judgement rests on, in seconds and numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figures {
    pub(crate) limits: Limits,
    /// Since the last success ended.
    pub(crate) age: Option<f64>,
    /// In a row.
    pub(crate) failures: u64,
    /// In a row.
    pub(crate) skips: u64,
    /// How long the longest attempt has lasted, of those that run.
    pub(crate) running: Option<f64>,
}

/// The last of some failures in a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LastFailure {
    Known(Last),
    /// Its wrapper was killed, so it is not in the ledger yet.
    Lost,
    /// Something that is no failure came after it.
    Earlier,
}

/// Something that is not well.
#[derive(Debug)]
pub(crate) enum Finding {
    /// No success ended for so long.
    Late {
        every: Duration,
        since: DateTime<Utc>,
    },
    /// None ever did, and the job is known since then.
    NeverSucceeded {
        every: Duration,
        since: DateTime<Utc>,
    },
    /// So many failures in a row, and the last of them.
    Failing {
        failures: u64,
        is_critical: bool,
        last: LastFailure,
    },
    RunningLong {
        run: RunId,
        since: DateTime<Utc>,
        limit: Duration,
    },
    Skipping {
        skips: u64,
    },
    /// Times of `--tick` that no host ran: since the last one that some host ran, or before that.
    Missed {
        ticks: u64,
        /// The first of them; of those before, the one that was run then.
        first: DateTime<Utc>,
        is_critical: bool,
    },
    /// The run's wrapper is gone: nobody limits or records it any more.
    Orphaned {
        run: RunId,
        pid: Option<u32>,
    },
    /// So many runs stand in its lane without a process, and nothing will start them by itself.
    Stranded {
        runs: u64,
    },
    /// It should be over, and whether it is cannot be seen from this pid namespace.
    Unseen {
        run: RunId,
        since: DateTime<Utc>,
    },
    /// That is yet to come, so whether the job is late, or runs too long, cannot be told.
    Ahead {
        what: &'static str,
        time: DateTime<Utc>,
    },
    Broken(Error),
}

impl Finding {
    pub(crate) const fn state(&self) -> State {
        match self {
            Self::Late { .. }
            | Self::NeverSucceeded { .. }
            | Self::Failing { is_critical: true, .. }
            | Self::Missed { is_critical: true, .. }
            | Self::RunningLong { .. } => State::Critical,
            Self::Failing { .. }
            | Self::Missed { .. }
            | Self::Skipping { .. }
            | Self::Orphaned { .. }
            | Self::Stranded { .. } => State::Warning,
            Self::Unseen { .. } | Self::Ahead { .. } | Self::Broken(_) => State::Unknown,
        }
    }

    /// The stable word for it in JSON output.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Late { .. } => "late",
            Self::NeverSucceeded { .. } => "never_succeeded",
            Self::Failing { .. } => "failing",
            Self::RunningLong { .. } => "running_long",
            Self::Missed { .. } => "missed_ticks",
            Self::Skipping { .. } => "skipping",
            Self::Orphaned { .. } => "orphaned",
            Self::Stranded { .. } => "stranded",
            Self::Unseen { .. } => "unseen",
            Self::Ahead { .. } => "clock",
            Self::Broken(_) => "broken",
        }
    }
}
