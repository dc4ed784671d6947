//! The sums that every line of a job's ledger carries. Pure: no I/O.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::model::{EndRequest, Ended, Entry, Event, NotRun, Outcome, Request, RunId, Started, Ticked, is_zero};
use crate::lock::Fence;

/// A run that started and has not ended, as far as the ledger knows; whether it still runs, the lock says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Which run.
    pub run: RunId,
    /// Which attempt.
    pub attempt: u32,
    /// In which slot.
    pub slot: u32,
    /// Under which fence.
    pub fence: Fence,
    /// Since when.
    #[serde(with = "crate::clock::as_rfc3339")]
    pub start: DateTime<Utc>,
    /// Its wrapper.
    pub pid: u32,
    /// How long the lock was waited for, in seconds.
    pub wait: f64,
    /// The kernel's boot id when it started.
    pub boot: String,
    /// The pid namespace of `pid`.
    pub pid_namespace: u64,
    /// Device and inode of the file that `flock --job` locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<(u64, u64)>,
    /// On which host, of a run with a lease on a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Somebody asked for its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Request>,
}

/// The last run or non-run that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Last {
    /// Which.
    pub run: RunId,
    /// What came of it.
    pub outcome: Outcome,
    /// When it was over.
    #[serde(with = "crate::clock::as_rfc3339")]
    pub end: DateTime<Utc>,
    /// The command's exit code, if it ended with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<u8>,
    /// How long it took, in seconds; 0 when nothing ran.
    pub duration: f64,
}

/// How many runs and non-runs came to each outcome. Outcomes that never happened are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(pub BTreeMap<Outcome, u64>);

impl Counts {
    /// How many came to that outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.0.get(&outcome).copied().unwrap_or_default()
    }
}

/// The sums of all lines up to one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// The number of the last run or non-run; 0 when there was none.
    pub last_run: u64,
    /// The highest fence that a run had.
    pub fence: u64,
    /// Up to which fence they are reserved: a run may have shown any of them before a power cut took its lines.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserved: u64,
    /// How many came to each outcome.
    pub counts: Counts,
    /// Runs without an end, in the order of their slots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running: Vec<Running>,
    /// The last run that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Last>,
    /// The last of all that was asked for and did not run, when that was later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_not_run: Option<Last>,
    /// When the last success started, in microseconds since 1970: what `--once-per` counts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<i64>,
    /// When the last success ended, likewise: what `check` counts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_end: Option<i64>,
    /// When the first of all lines was written, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<i64>,
    /// How many runs and non-runs went wrong since the last success ([`Outcome::is_failure`]). What somebody wished
    /// (stopped, replaced, interrupted) and what was not to be (skipped, not due) says nothing about the job's health.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures_in_a_row: u64,
    /// How many starts were skipped since the last one that had the lock.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skips_in_a_row: u64,
    /// The last time of `--tick` that was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick: Option<Box<LastTick>>,
    /// How many runs stand in the lane.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub queued: u64,
}

/// A time of `--tick` that was run, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTick {
    /// It.
    #[serde(with = "crate::clock::as_rfc3339")]
    pub time: DateTime<Utc>,
    /// The five fields of a crontab that name it.
    pub expression: String,
    /// How many times between the one before and this one nobody ran.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
    /// On which host.
    pub host: String,
    /// As which run.
    pub run: RunId,
}

impl Totals {
    /// The number of the next run or non-run.
    pub fn next_run(&self) -> RunId {
        RunId(self.last_run.saturating_add(1))
    }

    /// The run without an end in that slot.
    pub fn in_slot(&self, slot: u32) -> Option<&Running> {
        self.running.iter().find(|running| running.slot == slot)
    }

    /// Who ran that time of `--tick`, or one soon after it: a clock that was set back has that time come twice. One that is
    /// far ahead proves nothing: it was run by a clock that was wrong.
    pub fn ran(&self, time: DateTime<Utc>) -> Option<&LastTick> {
        let soon = TimeDelta::hours(1);
        self.tick.as_deref().filter(|last| last.time >= time && last.time - time <= soon)
    }

    /// When the last success started.
    pub fn last_success(&self) -> Option<DateTime<Utc>> {
        self.last_success.and_then(DateTime::from_timestamp_micros)
    }

    /// When the last success ended; of a ledger whose lines did not say so yet, when it started.
    pub fn last_success_ended(&self) -> Option<DateTime<Utc>> {
        self.last_success_end.or(self.last_success).and_then(DateTime::from_timestamp_micros)
    }

    /// When the job was first asked for.
    pub fn first(&self) -> Option<DateTime<Utc>> {
        self.first.and_then(DateTime::from_timestamp_micros)
    }

    /// The same, of a line of an earlier version with what it did not count yet, as far as its other sums tell: a job that
    /// failed before an upgrade has failed after it, and is not new.
    pub(crate) fn completed(mut self) -> Self {
        if self.first.is_some() {
            return self;
        }
        let over = [&self.last, &self.last_not_run].map(Option::as_ref).into_iter().flatten();
        let ends = over.clone().map(|last| last.end);
        let times = ends.chain(self.running.iter().map(|running| running.start)).chain(self.last_success());
        self.first = times.min().map(|time| time.timestamp_micros());
        let in_a_row =
            |last: &&Last| last.outcome.is_failure() && self.last_success().is_none_or(|then| then < last.end);
        self.failures_in_a_row = over.filter(in_a_row).count() as u64;
        self
    }

    /// The sums after one more entry.
    #[must_use]
    pub fn after(mut self, entry: &Entry) -> Self {
        self.first.get_or_insert(entry.time.timestamp_micros());
        match &entry.event {
            Event::Started(started) => self.start(entry, started),
            Event::Ended(ended) => self.end(entry, ended),
            Event::NotRun(not_run) => {
                self.last_run = self.last_run.max(not_run.run.0);
                self.queued = self.queued.saturating_sub(u64::from(not_run.queued));
                self.count(not_run.outcome);
                match not_run.outcome {
                    Outcome::Skipped => self.skips_in_a_row += 1,
                    // It had the lock, and did not want it.
                    Outcome::NotDue => self.skips_in_a_row = 0,
                    _ => {}
                }
                let NotRun { run, outcome, .. } = *not_run;
                self.last_not_run = Some(Last { run, outcome, end: entry.time, exit: None, duration: 0.0 });
            }
            Event::EndRequested(EndRequest { run, request }) => {
                if let Some(running) = self.running.iter_mut().find(|running| running.run == *run) {
                    running.ending = Some(*request);
                }
            }
            Event::Queued(queued) => {
                self.last_run = self.last_run.max(queued.run.0);
                self.queued += 1;
            }
            Event::Stranded(_) => {}
        }
        self
    }

    fn count(&mut self, outcome: Outcome) {
        *self.counts.0.entry(outcome).or_default() += 1;
        self.failures_in_a_row += u64::from(outcome.is_failure());
    }

    fn start(&mut self, entry: &Entry, started: &Started) {
        self.skips_in_a_row = 0;
        self.last_run = self.last_run.max(started.run.0);
        self.queued = self.queued.saturating_sub(u64::from(started.queued && started.attempt <= 1));
        self.fence = self.fence.max(started.fence.0);
        self.reserved = self.reserved.max(started.reserved);
        let before = self.running.iter().find(|running| running.run == started.run);
        let ending = before.and_then(|running| running.ending);
        // A slot holds one run: an earlier one in it is over, and whoever took the slot has said how.
        self.running.retain(|running| running.slot != started.slot && running.run != started.run);
        self.running.push(Running {
            run: started.run,
            attempt: started.attempt,
            slot: started.slot,
            fence: started.fence,
            start: entry.time,
            pid: entry.pid,
            wait: started.wait,
            boot: started.boot.clone(),
            pid_namespace: started.pid_namespace,
            file: started.file,
            host: started.lease.map(|_| entry.host.clone()),
            ending,
        });
        if let Some(ticked) = &started.tick {
            let Ticked { time, expression, missed } = Ticked::clone(ticked);
            let (host, run) = (entry.host.clone(), started.run);
            self.tick = Some(Box::new(LastTick { time, expression, missed, host, run }));
        }
        self.running.sort_by_key(|running| running.slot);
    }

    fn end(&mut self, entry: &Entry, ended: &Ended) {
        if ended.again {
            return;
        }
        self.running.retain(|running| running.run != ended.run);
        self.count(ended.outcome);
        if ended.outcome == Outcome::Succeeded {
            self.failures_in_a_row = 0;
            self.last_success_end = Some(entry.time.timestamp_micros());
            // Slots end in any order. A success in the future is of a clock that was wrong, and counts no longer.
            let before = self.last_success.filter(|success| *success <= entry.time.timestamp_micros());
            self.last_success = before.max(Some(ended.start.timestamp_micros()));
        }
        let Ended { run, outcome, exit, duration, .. } = *ended;
        self.last = Some(Last { run, outcome, end: entry.time, exit, duration });
    }
}
