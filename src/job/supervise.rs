//! One attempt: the command is started, signals are passed on, limits are kept, and its end is taken.
//!
//! Everything is one poll(2): the signals that are ours to pass on, the end of the command (SIGCHLD is one of them),
//! the log's growth, and the next deadline (the first may be that of the start's sync). How an attempt ends that is not
//! left alone:
//!
//! 1. At the time limit, or when TERM, INT or QUIT reaches the wrapper, the command's group gets the signal (and a
//!    CONT, since a stopped process would never see it).
//! 2. It has `kill_after` to go. HUP, USR1 and USR2 are passed on and start no such clock.
//! 3. Then KILL to every descendant (see `process::tree`). Descendants that outlive the command itself are
//!    waited for just as long: who left the group (setsid) never got the first signal, and may not stay.
//!
//! A command that ends by itself leaves its descendants alone: a job may start a daemon.
//!
//! In a guardian, the end of the lease is one more limit ([`super::lifeline`]): its KILL comes whatever `kill_after` says.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};

use super::{late_sync::LateSync, lifeline::Lifeline, log::Log, options::Options};
use crate::process::{Ended, Received, Signals, Status, Tree, wait_for};

/// What an attempt came to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) ended: Ended,
    pub(crate) duration: Duration,
    /// Why it did not end by itself.
    pub(crate) cause: Option<Cause>,
    /// KILL was sent, to the command itself or to what it left.
    pub(crate) killed: bool,
    /// Who could not be ended: pid and name.
    pub(crate) survivors: Vec<String>,
}

/// Why an attempt did not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// Its time was up.
    TimeLimit,
    /// A signal reached the wrapper, and was passed on.
    Signal(i32),
    /// The terminal interrupted the command and us alike.
    Interrupt,
    /// The lease was about to pass on, or has.
    LeaseLost,
}

/// Watches over one command.
pub(crate) struct Supervisor<'a> {
    pub(crate) options: &'a Options,
    pub(crate) signals: &'a Signals,
    pub(crate) log: Option<&'a mut Log>,
    /// The command is in our group, in a terminal's foreground: the terminal's signals reach it without us.
    pub(crate) foreground: bool,
    /// The run's start, on its way to the disk.
    pub(crate) recorded: &'a mut LateSync,
    /// Just before the command was started.
    pub(crate) started: Instant,
    /// Of a guardian: until when the job may live.
    pub(crate) lifeline: Option<&'a mut Lifeline>,
}

/// Where an attempt stands.
struct State {
    started: Instant,
    cause: Option<Cause>,
    /// The terminal has interrupted the command.
    interrupted: bool,
    /// When KILL is due.
    kill_at: Option<Instant>,
    killed: bool,
    survivors: Vec<String>,
    ended: Option<(Ended, Duration)>,
}

impl Supervisor<'_> {
    /// Sees the command to its end.
    pub(crate) fn watch(mut self, tree: &mut Tree) -> io::Result<Attempt> {
        let mut state = State {
            started: self.started,
            cause: None,
            interrupted: false,
            kill_at: None,
            killed: false,
            survivors: Vec::new(),
            ended: None,
        };
        self.recorded.arm(Instant::now());
        loop {
            self.take_end(tree, &mut state)?;
            if let Some((ended, duration)) = state.ended {
                // What it left is its own business, unless somebody wanted the end of it all.
                // (However long its grace: what it left behind may not outlive the lease.)
                let is_timed = state.kill_at.is_some() || state.cause == Some(Cause::LeaseLost);
                let must_end = state.cause.is_some() && is_timed && !state.killed;
                if !(must_end && tree.has_descendants()?) {
                    let State { killed, survivors, .. } = state;
                    let cause = state.cause.or(state.interrupted.then_some(Cause::Interrupt));
                    return Ok(Attempt { ended, duration, cause, killed, survivors });
                }
            }
            self.recorded.begin_if_due();
            self.sleep(&state)?;
            // First: of a command that has ended by itself, however long ago we slept through that, nothing is wanted.
            self.take_end(tree, &mut state)?;
            if state.ended.is_some() && state.cause.is_none() {
                continue;
            }
            while let Some(received) = self.signals.read() {
                self.pass_on(tree, received, &mut state)?;
            }
            self.keep_limits(tree, &mut state)?;
        }
    }

    /// Takes the command's end, if it has come, and the signals that have come besides: nobody reads them later.
    fn take_end(&self, tree: &mut Tree, state: &mut State) -> io::Result<()> {
        if state.ended.is_none() {
            state.ended = tree.reap()?.map(|ended| (ended, state.started.elapsed()));
        }
        if state.ended.is_some() && state.cause.is_none() {
            while let Some(received) = self.signals.read() {
                self.hear_late(received, state);
            }
        }
        Ok(())
    }

    /// Until something happens.
    fn sleep(&mut self, state: &State) -> io::Result<()> {
        let limit = self.options.time_limit.filter(|_| state.cause.is_none());
        let limit = limit.and_then(|limit| state.started.checked_add(limit));
        let now = Instant::now();
        // Once KILL is sent there is nothing left to do on time, however long the command takes to go.
        let kill_at = state.kill_at.filter(|_| !state.killed);
        let due = [limit, kill_at].into_iter().flatten().min().map(|at| at.saturating_duration_since(now));
        let rest = self.log.as_mut().and_then(|log| log.due());
        let timeout = [due, rest, self.recorded.due()].into_iter().flatten().min();
        let signals = PollFd::new(self.signals, PollFlags::IN);
        // While the log rests, its growth wakes nobody.
        let growth = self.log.as_ref().filter(|_| rest.is_none()).and_then(|log| log.watch());
        if let Some(lifeline) = &mut self.lifeline {
            lifeline.arm(match state.cause {
                _ if state.killed => None,
                Some(Cause::LeaseLost) => Some(lifeline.kill_due()),
                _ => Some(lifeline.end_due()),
            });
            let lines = lifeline.descriptors();
            let watched = growth.into_iter().chain(lines).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            let mut watched: Vec<_> = watched.chain([signals]).collect();
            wait_for(&mut watched, timeout)?;
            lifeline.listen();
        } else {
            match growth {
                Some(growth) => wait_for(&mut [signals, PollFd::from_borrowed_fd(growth, PollFlags::IN)], timeout)?,
                None => wait_for(&mut [signals], timeout)?,
            };
        }
        if let Some(log) = &mut self.log {
            log.enforce_limit();
        }
        Ok(())
    }

    fn pass_on(&mut self, tree: &mut Tree, received: Received, state: &mut State) -> io::Result<()> {
        let Received { signal, from_kernel, .. } = received;
        let reached_it_already = self.foreground && from_kernel;
        match signal {
            libc::SIGCHLD => {}
            _ if self.lifeline.as_ref().is_some_and(|lifeline| !lifeline.passes_on(&received)) => {}
            libc::SIGTSTP => {
                if !reached_it_already {
                    tree.signal(signal)?;
                }
                if self.lifeline.is_some() {
                    // A guardian does not sleep. Its wrapper does, so that the shell sees it.
                    return Ok(());
                }
                // Stopped, we sync nothing, for hours perhaps.
                self.recorded.finish();
                stop_ourselves()?;
            }
            libc::SIGTERM | libc::SIGINT | libc::SIGQUIT if !reached_it_already => {
                tree.signal(signal)?;
                self.begin_end(state, Cause::Signal(signal));
            }
            _ if reached_it_already => {
                // A command that handles Ctrl-C goes on: no clock is started.
                state.interrupted |= matches!(signal, libc::SIGINT | libc::SIGQUIT);
            }
            _ => tree.signal(signal)?,
        }
        Ok(())
    }

    /// A signal that is news only after the command's end. It may be what ended it: a key on the terminal, or somebody
    /// who signalled the command and us alike, as systemd does.
    fn hear_late(&self, received: Received, state: &mut State) {
        let Received { signal, from_kernel, .. } = received;
        let died_of_it = state.ended.is_some_and(|(ended, _)| ended.status == Status::Killed(signal));
        match signal {
            libc::SIGINT | libc::SIGQUIT if self.foreground && from_kernel => state.interrupted = true,
            libc::SIGTERM | libc::SIGINT | libc::SIGQUIT if died_of_it => self.begin_end(state, Cause::Signal(signal)),
            _ => {}
        }
    }

    fn begin_end(&self, state: &mut State, cause: Cause) {
        state.cause = Some(state.cause.unwrap_or(cause));
        if state.kill_at.is_none() && !self.options.grace().is_zero() {
            state.kill_at = Instant::now().checked_add(self.options.grace());
        }
    }

    fn keep_limits(&self, tree: &mut Tree, state: &mut State) -> io::Result<()> {
        let now = Instant::now();
        if let (Some(limit), None) = (self.options.time_limit, state.cause) {
            if state.ended.is_none() && now.duration_since(state.started) >= limit {
                tree.signal(self.options.signal)?;
                self.begin_end(state, Cause::TimeLimit);
            }
        }
        let mut is_over = false;
        if let Some(lifeline) = &self.lifeline {
            is_over = lifeline.job_must_be_dead();
            let goes_on = state.ended.is_none() || state.cause.is_some();
            if lifeline.job_must_end() && goes_on && state.cause != Some(Cause::LeaseLost) {
                tree.signal(self.options.signal)?;
                self.begin_end(state, Cause::LeaseLost);
                // Whatever it was to end for: what counts is that nobody may commit for it any more.
                state.cause = Some(Cause::LeaseLost);
            }
            is_over &= state.cause == Some(Cause::LeaseLost);
        }
        if (is_over || state.kill_at.is_some_and(|at| now >= at)) && !state.killed {
            state.killed = true;
            state.survivors = tree.kill_all()?.iter().map(ToString::to_string).collect();
        }
        Ok(())
    }
}

/// Sleeps, unless a signal comes that ends things: that one is given.
pub(super) fn pause(signals: &Signals, pause: Duration) -> io::Result<Option<i32>> {
    let until = Instant::now().checked_add(pause);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(None);
        }
        wait_for(&mut [PollFd::new(signals, PollFlags::IN)], left)?;
        if let Some(signal) = ending_signal(signals)? {
            return Ok(Some(signal));
        }
    }
}

/// The first of the signals that have come that ends a wait. A stop is obeyed, the others mean nothing while no
/// command runs.
pub(super) fn ending_signal(signals: &Signals) -> io::Result<Option<i32>> {
    while let Some(Received { signal, .. }) = signals.read() {
        match signal {
            libc::SIGTERM | libc::SIGINT | libc::SIGQUIT | libc::SIGHUP => return Ok(Some(signal)),
            libc::SIGTSTP => stop_ourselves()?,
            _ => {}
        }
    }
    Ok(None)
}

/// For the shell to see, until its `fg` or `bg` continues us.
pub(super) fn stop_ourselves() -> io::Result<()> {
    Ok(rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)?)
}
