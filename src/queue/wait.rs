//! Waiting until a queued run is over, and what it came to.
//!
//! A run that waits for one that stands behind it would wait for ever, and everybody with it. `--after` names what was queued
//! before, so from those no circle comes; but a command can call `queue wait`. So before the wait, all that the run waits for
//! in its turn is gone through: its place behind others of its lane, and what it is to follow.

use std::collections::BTreeSet;

use super::{Queue, lane_queue::view};
use crate::{
    dir::StateDir,
    error::{Error, Result},
    held::Held,
    job::{JobFiles, LaneRun, Outcome, RunState, RunView, Runs},
    lock::{Lane, Until},
};

/// How a run ended, if it did.
#[derive(Debug)]
pub(crate) enum Ending {
    /// It is over, or will not be run.
    Over(RunView),
    /// It stands in its lane, and has no process.
    Stranded(RunView),
}

impl Ending {
    /// For the caller of the process: the run's own, and 125 where nothing ran.
    pub(crate) fn code(&self) -> u8 {
        use crate::exit::ExitCode;
        let Self::Over(view) = self else { return ExitCode::NotRun.code() };
        let by_signal = view.signal.map(|signal| 128 + u8::try_from(signal).unwrap_or_default());
        match view.outcome {
            Some(Outcome::Succeeded | Outcome::NotDue) => view.exit.unwrap_or_default(),
            _ => view.code.or(view.exit).or(by_signal).unwrap_or(ExitCode::NotRun.code()),
        }
    }
}

/// Sleeps until that run is over.
///
/// # Errors
/// `NoSuchRun`; `Nested` when it cannot end before this process does.
pub(crate) fn wait(state: &StateDir, run: &LaneRun) -> Result<Ending> {
    let no_such_run =
        || Error::NoSuchRun { run: run.clone(), why: format!("`triplock history {}` shows those there are", run.lane) };
    let files =
        JobFiles::directory(state)?.map(|jobs| JobFiles::new(jobs, run.lane.clone())).ok_or_else(no_such_run)?;
    let known = view(&files, run.run)?.ok_or_else(no_such_run)?;
    if known.queued.is_none() {
        let why = "it was not queued, and only who started it can wait for it";
        return Err(Error::NoSuchRun { run: run.clone(), why: why.to_owned() });
    }
    if !matches!(known.state, RunState::Ended | RunState::NotRun) {
        refuse_a_circle(state, run)?;
        if let Some(lane) = Lane::open(&files.dir, run.lane.as_str())? {
            lane.wait_for_run(run.run.0, Until::Never)?;
        }
    }
    let mut view = view(&files, run.run)?.ok_or_else(no_such_run)?;
    if view.state == RunState::Queued {
        view.settle_queued(false);
        return Ok(Ending::Stranded(view));
    }
    // It has no process any more: what is not recorded was lost.
    view.settle(Some(false));
    Ok(Ending::Over(view))
}

/// Whether that run cannot end before a run does that we belong to.
fn refuse_a_circle(state: &StateDir, run: &LaneRun) -> Result<()> {
    let held = Held::inherited(state.path());
    if held.is_empty() {
        return Ok(());
    }
    let (mut open, mut seen) = (vec![run.clone()], BTreeSet::new());
    while let Some(run) = open.pop() {
        if !seen.insert(run.clone()) {
            continue;
        }
        let Some(queue) = Queue::open(state, &run.lane)? else { continue };
        let pending = queue.pending()?;
        let Some(at) = pending.iter().position(|pending| pending.run == run.run) else {
            // It runs, and may be the one that we belong to.
            let totals = queue.files().totals()?.unwrap_or_default();
            if totals.running.iter().any(|r| r.run == run.run && held.contains(run.lane.as_str(), r.fence)) {
                return Err(Error::Nested(run.lane));
            }
            continue;
        };
        // Whoever has the lane's lock is before it.
        let totals = queue.files().totals()?.unwrap_or_default();
        if totals.running.iter().any(|running| held.contains(run.lane.as_str(), running.fence)) {
            return Err(Error::Nested(run.lane));
        }
        let ahead: BTreeSet<_> = pending[..=at].iter().map(|pending| pending.run).collect();
        for view in Runs::of(queue.files(), None)? {
            let view = view?;
            if ahead.contains(&view.run) {
                open.extend(view.after);
            }
            if ahead.first().is_some_and(|first| view.run <= *first) {
                break;
            }
        }
    }
    Ok(())
}
