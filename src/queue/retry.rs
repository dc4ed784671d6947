//! Queueing again what ran, or was to run, before.

use super::{Added, Queue, Request, add::add_again, journal};
use crate::{
    dir::StateDir,
    error::{Error, Result},
    job::{LaneRun, RunState, log::Logs},
    lock::Place,
};

/// Queues it again, as a new run at the end of its lane, with the environment and the working directory that it had. `None`
/// when it is not over.
///
/// # Errors
/// `NoSuchRun` when it is not known, or what it was to do is not kept any more.
pub(crate) fn retry(state: &StateDir, run: &LaneRun) -> Result<Option<Added>> {
    let no_such_run = |why: &str| Error::NoSuchRun { run: run.clone(), why: why.to_owned() };
    let unknown = || no_such_run(&format!("`triplock history {}` shows those there are", run.lane));
    let queue = Queue::open(state, &run.lane)?.ok_or_else(unknown)?;
    let view = queue.view(run.run)?.ok_or_else(unknown)?;
    if queue.pending()?.iter().any(|pending| pending.run == run.run) && view.state == RunState::Queued {
        return Ok(None);
    }
    let lane = queue.lane()?;
    if matches!(view.state, RunState::Unknown | RunState::Running) && lane.has_run(run.run.0)? {
        return Ok(None);
    }
    let logs = Logs::open(&queue.files().dir, &run.lane)?;
    let request = match &logs {
        Some(logs) => {
            let (dir, name) = logs.request(run.run);
            let place = Place { ticket: view.ticket.unwrap_or_default(), run: run.run.0 };
            let read = match Request::read(dir, &name) {
                // A power cut, since it started.
                Err(e @ Error::Corrupt { .. }) => match journal::find(&queue, run.run, place.ticket)? {
                    None => return Err(e),
                    found => found,
                },
                read => read?,
            };
            read.map(|request| request.must_be(&run.lane, place, || dir.path_of(&name))).transpose()?
        }
        None => None,
    };
    // Killed between the record of its start and the removal of its file, it has left that where it stood.
    let request = match (request, queue.pending()?.into_iter().find(|pending| pending.run == run.run)) {
        (None, Some(leftover)) => Request::of(&queue, leftover)?,
        (request, _) => request,
    };
    let gone = "what it was to do is not kept any more (--keep-runs), or it was not queued; queue it anew";
    let mut request = request.ok_or_else(|| no_such_run(gone))?;
    // What it followed is over.
    request.after.clear();
    add_again(state, &run.lane, request).map(Some)
}
