//! The runs that a ledger's lines tell of, the newest first.
//!
//! A run's first line (its first start, or that it was not run) gives it its number, so first lines stand in the order
//! of the numbers. Read backwards, a run is whole when its first line is met, and the lines of runs whose first line is
//! still to come (several slots run at once) wait. The newest 20 runs cost what 20 runs cost.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    Backwards, Ended, Entry, Event, JobFiles, LaneRun, Outcome, Request, RunId, ServerEntries, ServerJob, ServerJobs,
    Started, Totals,
};
use crate::{
    error::Result,
    lock::{Fence, Holder},
    name::Name,
};

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunState {
    /// It runs: its lock says so.
    Running,
    /// It is over.
    Ended,
    /// It never began.
    NotRun,
    /// It stands in its lane: its lane says whether its process is there.
    Queued,
    /// It stands in its lane, and its process is gone: `queue resume` starts another.
    Stranded,
    /// It started, and only its lock knows whether it is over.
    Unknown,
}

/// A run or a non-run, as `history --json` prints it. Durations are in seconds, memory in bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunView {
    pub(crate) job: Name,
    pub(crate) run: RunId,
    pub(crate) state: RunState,
    /// What came of it, once it is over.
    pub(crate) outcome: Option<Outcome>,
    /// When the first attempt started.
    #[serde(serialize_with = "optional_time::serialize")]
    pub(crate) start: Option<DateTime<Utc>>,
    /// When the last one ended; of a non-run, when it was recorded.
    #[serde(serialize_with = "optional_time::serialize")]
    pub(crate) end: Option<DateTime<Utc>>,
    /// When it came to stand in its lane.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time::serialize")]
    pub(crate) queued: Option<DateTime<Utc>>,
    /// Its place there.
    #[serde(skip)]
    pub(crate) ticket: Option<u64>,
    /// The runs that must be over first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) after: Vec<LaneRun>,
    /// Whether those may have failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) even_if_failed: bool,
    /// From start to end, pauses between attempts included.
    pub(crate) duration: Option<f64>,
    /// How long the lock was waited for.
    pub(crate) wait: f64,
    pub(crate) exit: Option<u8>,
    pub(crate) signal: Option<i32>,
    #[serde(skip)]
    pub(crate) code: Option<u8>,
    /// Of all attempts.
    pub(crate) user: f64,
    pub(crate) system: f64,
    /// Of the largest attempt.
    pub(crate) peak_memory: u64,
    pub(crate) fence: Option<Fence>,
    /// For which time of `--tick` it is.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time::serialize")]
    pub(crate) tick: Option<DateTime<Utc>>,
    pub(crate) slot: Option<u32>,
    pub(crate) host: String,
    /// The triplock process.
    pub(crate) pid: u32,
    /// Which start of a unit it belonged to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) invocation_id: Option<String>,
    pub(crate) command: Option<String>,
    pub(crate) reason: Option<String>,
    /// Of a non-run: who held the lock, and since when.
    pub(crate) holder: Option<Holder>,
    /// Somebody asked for its end.
    pub(crate) end_requested: Option<Request>,
    pub(crate) attempts: Vec<Attempt>,
}

/// One attempt of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Attempt {
    attempt: u32,
    outcome: Option<Outcome>,
    #[serde(with = "crate::clock::as_rfc3339")]
    start: DateTime<Utc>,
    #[serde(serialize_with = "optional_time::serialize")]
    end: Option<DateTime<Utc>>,
    duration: Option<f64>,
    exit: Option<u8>,
    signal: Option<i32>,
    user: f64,
    system: f64,
    peak_memory: u64,
    reason: Option<String>,
}

impl RunView {
    /// What is known before any line was read.
    fn new(job: Name, run: RunId) -> Self {
        Self {
            job,
            run,
            state: RunState::Unknown,
            outcome: None,
            start: None,
            end: None,
            queued: None,
            ticket: None,
            after: Vec::new(),
            even_if_failed: false,
            duration: None,
            wait: 0.0,
            exit: None,
            signal: None,
            code: None,
            user: 0.0,
            system: 0.0,
            peak_memory: 0,
            fence: None,
            tick: None,
            slot: None,
            host: String::new(),
            pid: 0,
            invocation_id: None,
            command: None,
            reason: None,
            holder: None,
            end_requested: None,
            attempts: Vec::new(),
        }
    }

    /// When it started, or was not run: what histories are ordered by.
    pub(crate) fn time(&self) -> Option<DateTime<Utc>> {
        self.start.or(self.end).or(self.queued)
    }

    /// What the lock says of a run whose end is not in the ledger.
    pub(crate) fn settle(&mut self, runs: Option<bool>) {
        if self.state != RunState::Unknown {
            return;
        }
        match runs {
            Some(true) => self.state = RunState::Running,
            Some(false) => {
                self.state = RunState::Ended;
                self.outcome = Some(self.end_requested.map_or(Outcome::Lost, Request::outcome));
                self.reason.get_or_insert_with(|| "its end was never recorded".to_owned());
            }
            None => {}
        }
    }

    /// What its lane says of a run that stands there.
    pub(crate) fn settle_queued(&mut self, is_live: bool) {
        if self.state == RunState::Queued && !is_live {
            self.state = RunState::Stranded;
            self.reason.get_or_insert_with(|| "its process is gone".to_owned());
        }
    }

    /// The same of a lease, which tells where it runs, or that it is over.
    fn settle_by_lease(&mut self) {
        self.state = RunState::Ended;
        self.outcome = Some(self.end_requested.map_or(Outcome::LeaseLost, Request::outcome));
        self.reason.get_or_insert_with(|| "its lease is over, and its end was never recorded".to_owned());
    }

    /// What the lease says of a run whose end is not in the ledger.
    pub(crate) fn settle_lease(&mut self, goes_on: bool) {
        match self.state {
            RunState::Unknown if goes_on => self.state = RunState::Running,
            RunState::Unknown => self.settle_by_lease(),
            _ => {}
        }
    }

    /// Takes the next of the run's lines, the oldest first.
    fn take(&mut self, entry: Entry) {
        match entry.event {
            Event::Started(started) => {
                self.start.get_or_insert(entry.time);
                (self.state, self.reason) = (RunState::Unknown, None);
                (self.host, self.pid, self.invocation_id) = (entry.host, entry.pid, entry.invocation_id);
                self.begin(entry.time, started);
            }
            Event::Ended(ended) => {
                if self.host.is_empty() {
                    (self.host, self.pid) = (entry.host, entry.pid);
                }
                self.finish(entry.time, ended);
            }
            Event::NotRun(not_run) => {
                (self.host, self.pid, self.invocation_id) = (entry.host, entry.pid, entry.invocation_id);
                self.state = RunState::NotRun;
                self.outcome = Some(not_run.outcome);
                self.end = Some(entry.time);
                self.wait = not_run.wait;
                self.command = Some(not_run.command);
                self.reason = Some(not_run.reason);
                self.holder = not_run.holder;
            }
            Event::EndRequested(asked) => self.end_requested = Some(asked.request),
            Event::Queued(queued) => {
                (self.host, self.pid, self.invocation_id) = (entry.host, entry.pid, entry.invocation_id);
                self.state = RunState::Queued;
                self.queued = Some(entry.time);
                self.ticket = Some(queued.ticket);
                self.after = queued.after;
                self.even_if_failed = queued.even_if_failed;
                self.command = Some(queued.command);
            }
            Event::Stranded(stranded) => self.reason = Some(stranded.reason),
        }
    }

    fn begin(&mut self, time: DateTime<Utc>, started: Started) {
        let Started { attempt, fence, slot, wait, command, tick, .. } = started;
        self.tick = self.tick.or(tick.map(|tick| tick.time));
        (self.fence, self.slot, self.wait, self.command) = (Some(fence), Some(slot), wait, Some(command));
        self.attempts.push(Attempt::new(attempt, time));
    }

    fn finish(&mut self, time: DateTime<Utc>, ended: Ended) {
        let several = ended.attempt > 1;
        if !ended.again {
            self.state = RunState::Ended;
            self.outcome = Some(ended.outcome);
            self.end = Some(time);
            self.fence = Some(ended.fence);
            self.wait = ended.wait;
            (self.exit, self.signal, self.code) = (ended.exit, ended.signal, ended.code);
            self.reason.clone_from(&ended.reason);
            // The ledger may begin amid the run.
            let start = *self.start.get_or_insert(ended.start);
            let elapsed = (time - start).to_std().unwrap_or_default().as_secs_f64();
            self.duration = Some(if several { elapsed } else { ended.duration });
        }
        self.user += ended.user;
        self.system += ended.system;
        self.peak_memory = self.peak_memory.max(ended.peak_memory);
        let at = self.attempts.iter().position(|attempt| attempt.attempt == ended.attempt).unwrap_or_else(|| {
            self.attempts.push(Attempt::new(ended.attempt, ended.start));
            self.attempts.len() - 1
        });
        self.attempts[at].finish(time, ended);
    }
}

impl Attempt {
    fn new(attempt: u32, start: DateTime<Utc>) -> Self {
        Self {
            attempt,
            outcome: None,
            start,
            end: None,
            duration: None,
            exit: None,
            signal: None,
            user: 0.0,
            system: 0.0,
            peak_memory: 0,
            reason: None,
        }
    }

    fn finish(&mut self, time: DateTime<Utc>, ended: Ended) {
        let Ended { outcome, start, duration, exit, signal, user, system, peak_memory, reason, .. } = ended;
        (self.outcome, self.start, self.end, self.duration) = (Some(outcome), start, Some(time), Some(duration));
        (self.exit, self.signal, self.reason) = (exit, signal, reason);
        (self.user, self.system, self.peak_memory) = (user, system, peak_memory);
    }
}

/// Where a ledger's entries come from, the newest first.
#[derive(Debug)]
enum Entries {
    Files(Box<Backwards>),
    Server(ServerEntries),
}

impl Iterator for Entries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        match self {
            Self::Files(entries) => entries.next(),
            Self::Server(entries) => entries.next(),
        }
    }
}

/// The runs of one job, the newest first.
#[derive(Debug)]
pub(crate) struct Runs {
    job: Name,
    entries: Entries,
    /// Lines of runs whose first line is still to come, the newest first.
    waiting: BTreeMap<u64, Vec<Entry>>,
    since: Option<DateTime<Utc>>,
    at_end: bool,
}

impl Runs {
    /// `since`: only those that were not over then, or that were asked for later.
    pub(crate) fn of(files: &JobFiles, since: Option<DateTime<Utc>>) -> Result<Self> {
        let entries = files.entries_backwards()?;
        let totals = entries.totals().clone();
        Ok(Self::new(files.job.clone(), Entries::Files(Box::new(entries)), &totals, since))
    }

    /// The same of a job on a server.
    pub(crate) fn of_server(server: &ServerJobs, job: &ServerJob, since: Option<DateTime<Utc>>) -> Self {
        Self::new(job.job.clone(), Entries::Server(server.entries(&job.job)), &job.totals, since)
    }

    fn new(job: Name, entries: Entries, totals: &Totals, since: Option<DateTime<Utc>>) -> Self {
        let still = totals.running.iter().map(|running| (running.run.0, Vec::new()));
        let waiting = if since.is_some() { still.collect() } else { BTreeMap::new() };
        Self { job, entries, waiting, since, at_end: false }
    }

    /// Damaged lines passed over so far.
    pub(crate) fn bad_lines(&self) -> u64 {
        match &self.entries {
            Entries::Files(entries) => entries.bad_lines(),
            Entries::Server(_) => 0,
        }
    }

    fn whole(&self, run: u64, lines: Vec<Entry>) -> RunView {
        let mut whole = RunView::new(self.job.clone(), RunId(run));
        lines.into_iter().rev().for_each(|entry| whole.take(entry));
        whole
    }
}

impl Iterator for Runs {
    type Item = Result<RunView>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.at_end {
            let entry = match self.entries.next() {
                Some(Ok(entry)) => entry,
                Some(Err(e)) => return Some(Err(e)),
                None => break,
            };
            let (RunId(run), is_first) = entry.event.run();
            if self.since.is_some_and(|since| entry.time < since) && !self.waiting.contains_key(&run) {
                if self.waiting.is_empty() {
                    break;
                }
                continue;
            }
            let lines = self.waiting.entry(run).or_default();
            lines.push(entry);
            if is_first {
                let lines = self.waiting.remove(&run).unwrap_or_default();
                return Some(Ok(self.whole(run, lines)));
            }
        }
        self.at_end = true;
        // Of these the ledger has lost the beginning.
        while let Some((run, lines)) = self.waiting.pop_last() {
            if lines.iter().any(|entry| !matches!(entry.event, Event::EndRequested(_))) {
                return Some(Ok(self.whole(run, lines)));
            }
        }
        None
    }
}

/// For `#[serde(with = …)]`: a time that may be missing.
pub(crate) mod optional_time {
    use chrono::{DateTime, Utc};
    use serde::Serializer;

    // serde's signature.
    #[allow(clippy::ref_option)]
    pub(crate) fn serialize<S: Serializer>(time: &Option<DateTime<Utc>>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => to.serialize_some(&crate::clock::rfc3339(*time)),
            None => to.serialize_none(),
        }
    }
}
