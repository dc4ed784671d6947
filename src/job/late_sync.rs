//! The sync of a start while its command runs.
//!
//! A start that was not synced before its command goes to disk with the end, in one sync, when the command is as short as
//! most are. If it still runs after a millisecond, the start is synced meanwhile, so that a power cut does not take all
//! trace of a long run. By a thread: a slow disk must not delay signals and limits.

use std::{
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use super::ledger::Appended;
use crate::error::{Error, Result};

/// How long a command may run before its start is synced for itself.
const DELAY: Duration = Duration::from_millis(1);

/// The thread makes one system call, and a message if that fails.
const STACK: usize = 64 * 1024;

/// A start that is on disk, or on its way there.
#[derive(Debug, Default)]
pub(crate) struct LateSync {
    state: State,
    due: Option<Instant>,
}

// There is one, and it is moved once.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Default)]
enum State {
    #[default]
    Done,
    Pending(Appended),
    Syncing(JoinHandle<Result<()>>),
    Failed(Error),
}

impl LateSync {
    /// Of a start that was appended, and not synced.
    pub(super) fn of(start: Appended) -> Self {
        Self { state: State::Pending(start), due: None }
    }

    /// The command runs since then.
    pub(super) fn arm(&mut self, since: Instant) {
        if matches!(self.state, State::Pending(_)) && self.due.is_none() {
            self.due = since.checked_add(DELAY);
        }
    }

    /// How long until it is time to begin; `None` when there is nothing to begin.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Begins when it is time.
    pub(super) fn begin_if_due(&mut self) {
        if self.due().is_some_and(|due| due.is_zero()) {
            self.begin();
        }
    }

    /// Begins, unless it has.
    pub(super) fn begin(&mut self) {
        self.due = None;
        match std::mem::take(&mut self.state) {
            State::Pending(start) => {
                let sync = start.later();
                let thread = Builder::new().stack_size(STACK).spawn(sync);
                self.state = match thread {
                    Ok(thread) => State::Syncing(thread),
                    // Where no thread may be made, late signals are the lesser evil.
                    Err(_) => start.sync().map_or_else(State::Failed, |()| State::Done),
                };
            }
            other => self.state = other,
        }
    }

    /// Returns when it is on disk.
    pub(super) fn finish(&mut self) {
        self.begin();
        self.state = match std::mem::take(&mut self.state) {
            State::Syncing(thread) => {
                let synced = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                synced.map_or_else(State::Failed, |()| State::Done)
            }
            other => other,
        };
    }

    /// At the end. `end`: the lines after it were appended, and are synced here, together with it if it has not
    /// been yet; nothing, when they are on disk already. The first error is of the start, the second of the end.
    pub(super) fn conclude(mut self, end: Result<Option<Appended>>) -> (Result<()>, Result<()>) {
        match (&self.state, &end) {
            // One sync does for both.
            (State::Pending(_), Ok(Some(_))) => self.state = State::Done,
            _ => self.finish(),
        }
        let start = if let State::Failed(e) = self.state { Err(e) } else { Ok(()) };
        (start, end.and_then(|end| end.map_or(Ok(()), |end| end.sync())))
    }
}
