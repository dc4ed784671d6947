//! Waiting for a run that another is to follow.

use super::lane_queue::view;
use crate::{
    dir::StateDir,
    error::Result,
    job::{JobFiles, LaneRun, Outcome, RunState},
    lock::{Lane, Until},
};

/// What it came to.
#[derive(Debug)]
pub(super) enum Dependency {
    Met,
    Failed(String),
    /// It stands in its lane, and its process is gone.
    Stranded,
}

impl Dependency {
    /// Sleeps until that run is over.
    pub(super) fn wait(state: &StateDir, run: &LaneRun, even_if_failed: bool) -> Result<Self> {
        let files = JobFiles::new(JobFiles::make_directory(state)?, run.lane.clone());
        if let Some(lane) = Lane::open(&files.dir, run.lane.as_str())? {
            lane.wait_for_run(run.run.0, Until::Never)?;
        }
        let view = view(&files, run.run)?;
        // It has no process any more, so what the ledger does not tell will not come.
        let outcome = match view {
            Some(view) if view.state == RunState::Queued => return Ok(Self::Stranded),
            Some(view) => view.outcome.unwrap_or(Outcome::Lost),
            None if even_if_failed => return Ok(Self::Met),
            None => return Ok(Self::Failed(format!("nothing is known any more of {run}, which it was to follow"))),
        };
        if outcome == Outcome::Succeeded || even_if_failed {
            return Ok(Self::Met);
        }
        Ok(Self::Failed(format!("{run}, which it was to follow, did not succeed: {}", outcome.word())))
    }
}
