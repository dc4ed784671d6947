//! What runs and what waits in a lane, in order. Takes no lock.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Queue;
use crate::{
    error::Result,
    job::{JobFiles, LaneRun, Look, RunId, RunView, optional_time},
    lock::Lane,
};

/// A run that is not over, as `queue list --json` prints it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Listed {
    pub(crate) run: LaneRun,
    pub(crate) lane: crate::name::Name,
    pub(crate) number: RunId,
    pub(crate) state: Waits,
    /// When it started, or came to wait.
    #[serde(serialize_with = "optional_time::serialize")]
    pub(crate) since: Option<DateTime<Utc>>,
    /// When it was queued; of one that was not, `null`.
    #[serde(serialize_with = "optional_time::serialize")]
    pub(crate) queued: Option<DateTime<Utc>>,
    /// What must be over before it starts.
    pub(crate) after: Vec<LaneRun>,
    pub(crate) even_if_failed: bool,
    pub(crate) command: Option<String>,
    /// Why it has no process.
    pub(crate) note: Option<String>,
}

/// How a run stands that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Waits {
    Running,
    Waiting,
    /// It waits, and its lane is paused.
    Paused,
    /// It waits, and its process is gone.
    Stranded,
}

impl Waits {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Stranded => "stranded",
        }
    }
}

/// How many runs stand in the lane of that job without a process.
pub(crate) fn stranded(files: &JobFiles) -> Result<u64> {
    let Some(dir) = files.dir.subdirectory(&files.queue())? else { return Ok(0) };
    let queue = Queue::new(files.clone(), dir);
    let lane = Lane::open(&files.dir, files.job.as_str())?;
    let mut gone = Vec::new();
    for pending in queue.pending()? {
        let is_live = lane.as_ref().map_or(Ok(false), |lane| lane.is_live(pending.ticket))?;
        if !is_live {
            gone.push(pending);
        }
    }
    // What has started gave its ticket back, and what is over may have left its file.
    Ok(queue.waiting(&gone)?.len() as u64)
}

impl Queue {
    /// What runs, then what waits.
    pub(crate) fn list(&self) -> Result<Vec<Listed>> {
        // In this order: what starts meanwhile is listed twice rather than not at all, and then once.
        let pending = self.pending()?;
        let totals = self.files.totals()?.unwrap_or_default();
        let look = Look::now()?;
        let mut wanted = BTreeMap::new();
        for running in &totals.running {
            if look.runs(&self.files, running)? != Some(false) {
                wanted.insert(running.run, Waits::Running);
            }
        }
        let lane = Lane::open(&self.files.dir, self.name().as_str())?;
        let is_paused = self.is_paused()?;
        let started: Vec<_> = totals.running.iter().map(|running| running.run).collect();
        let pending: Vec<_> = pending.into_iter().filter(|pending| !started.contains(&pending.run)).collect();
        for pending in &pending {
            let is_live = lane.as_ref().map_or(Ok(false), |lane| lane.is_live(pending.ticket))?;
            let state = match (is_live, is_paused) {
                (false, _) => Waits::Stranded,
                (true, true) => Waits::Paused,
                (true, false) => Waits::Waiting,
            };
            wanted.insert(pending.run, state);
        }
        // One may be over by now.
        let views = self.views(wanted.keys().copied())?.into_values().filter(|view| view.outcome.is_none());
        let mut listed: Vec<_> =
            views.map(|view| (wanted[&view.run], view)).map(|(state, view)| self.listed(view, state)).collect();
        let place = |run: RunId| pending.iter().position(|pending| pending.run == run).map_or(0, |at| at + 1);
        listed.sort_by_key(|listed| (place(listed.number), listed.number));
        Ok(listed)
    }

    fn listed(&self, view: RunView, state: Waits) -> Listed {
        // One that has started since its lane was looked at gave its ticket back, and is not without a process.
        let state = if view.start.is_some() { Waits::Running } else { state };
        Listed {
            run: self.run(view.run),
            lane: self.name().clone(),
            number: view.run,
            state,
            since: view.start.or(view.queued),
            queued: view.queued,
            after: view.after,
            even_if_failed: view.even_if_failed,
            command: view.command,
            note: (state == Waits::Stranded).then(|| view.reason.unwrap_or_else(|| "its process is gone".to_owned())),
        }
    }
}
