//! The files of one lane's queue: `jobs/LANE.queue/`.
//!
//! ```text
//! 17-1764444444123456.json    run 17 stands in the lane with that ticket: what is to be run
//! 17-1764444444123456.left    the same, and it is recorded that its process is gone
//! 17-1764444444123456.gone    it is being taken out ([`super::cancel`])
//! requests-1000               what user 1000 queued, for after a power cut ([`super::journal`])
//! paused                      nothing of the queue starts
//! resuming                    the lock of who gives runs their processes again
//! ```
//!
//! A run's file is there from before `queue add` answers until its start is in the ledger, or that there will be none. So a
//! file whose ticket nobody has is a run that stands in line without a process. That a run has started, the ledger decides:
//! killed between that line and the removal of the file, the file is a leftover.
//!
//! What is queued, paused and taken out changes under `NAME.commit`, as the ledger does.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::pending::Pending;
use crate::{
    clock::{Clock as _, SystemClock, rfc3339},
    dir::{Dir, StateDir},
    error::{Error, Result},
    job::{JobFiles, JobLedger, LaneRun, RunId, RunState, RunView, Runs, log::Logs},
    lock::{HeldFile, Identity, Lane, Missing, Taken, Until},
    name::Name,
};

const RESUMING: &str = "resuming";

/// The queue of one lane.
pub(crate) struct Queue {
    pub(super) files: JobFiles,
    pub(super) ledger: JobLedger,
    pub(super) dir: Dir,
}

impl Queue {
    /// The queue of that lane, if it ever had one.
    pub(crate) fn open(state: &StateDir, lane: &Name) -> Result<Option<Self>> {
        let Some(jobs) = JobFiles::directory(state)? else { return Ok(None) };
        let files = JobFiles::new(jobs, lane.clone());
        Ok(files.dir.subdirectory(&files.queue())?.map(|dir| Self::new(files, dir)))
    }

    /// The same, made when it is missing.
    pub(crate) fn make(state: &StateDir, lane: &Name) -> Result<Self> {
        let files = JobFiles::new(JobFiles::make_directory(state)?, lane.clone());
        let dir = files.dir.make_subdirectory(&files.queue())?;
        Ok(Self::new(files, dir))
    }

    /// Every lane that has a queue, in byte order, or what is wrong with it.
    pub(crate) fn all(state: &StateDir) -> Result<Vec<Result<Self>>> {
        let Some(jobs) = JobFiles::directory(state)? else { return Ok(Vec::new()) };
        let queues = JobFiles::all(&jobs)?.into_iter().filter_map(|(files, _)| {
            let opened = jobs.subdirectory(&files.queue()).transpose()?;
            Some(opened.map(|dir| Self::new(files, dir)))
        });
        Ok(queues.collect())
    }

    pub(super) fn new(files: JobFiles, dir: Dir) -> Self {
        let ledger = JobLedger::new(files.clone(), Arc::new(Identity::current()), Arc::new(SystemClock));
        Self { files, ledger, dir }
    }

    pub(crate) fn name(&self) -> &Name {
        &self.files.job
    }

    pub(crate) fn files(&self) -> &JobFiles {
        &self.files
    }

    pub(crate) fn run(&self, run: RunId) -> LaneRun {
        LaneRun { lane: self.name().clone(), run }
    }

    /// Who stands in the lane, the first first.
    pub(crate) fn pending(&self) -> Result<Vec<Pending>> {
        let mut pending: Vec<_> = self.dir.names()?.iter().filter_map(|name| Pending::parse(name)).collect();
        pending.sort_unstable();
        Ok(pending)
    }

    /// The lane itself: who has which ticket.
    pub(crate) fn lane(&self) -> Result<Lane> {
        Lane::make(&self.files.dir, self.name().as_str())
    }

    /// Whether that run stands in the lane.
    pub(super) fn has(&self, pending: Pending) -> Result<bool> {
        for is_left in [false, true] {
            if self.dir.stat(&Pending { is_left, ..pending }.file_name())?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Marks it as being taken out: whoever has it does not start it any more.
    pub(super) fn begin_removal(&self, pending: Pending) -> Result<()> {
        for is_left in [false, true] {
            let name = Pending { is_left, ..pending }.file_name();
            if self.dir.stat(&name)?.is_some() {
                self.dir.rename(&name, &pending.gone())?;
            }
        }
        Ok(())
    }

    /// What became of one that was being taken out: gone for good if the ledger says so; otherwise who did it was killed, and it
    /// stands there again. To be asked under `NAME.commit`, under which it is taken out.
    pub(super) fn settle_removal(&self, pending: Pending) -> Result<()> {
        if self.dir.stat(&pending.gone())?.is_none() {
            return Ok(());
        }
        if self.waiting(&[pending])?.is_empty() {
            self.remove(pending)
        } else {
            self.dir.rename(&pending.gone(), &pending.file_name())
        }
    }

    /// Those that were being taken out, and perhaps still are.
    pub(super) fn going(&self) -> Result<Vec<Pending>> {
        let going = |name: &String| Pending::parse(&format!("{}.json", name.strip_suffix(".gone")?));
        Ok(self.dir.names()?.iter().filter_map(going).collect())
    }

    /// It stands there no more: what it was to do is kept beside its log.
    pub(super) fn remove(&self, pending: Pending) -> Result<()> {
        let logs = Logs::make(&self.files.dir, self.name())?;
        let names = [false, true].map(|is_left| Pending { is_left, ..pending }.file_name());
        for name in names.into_iter().chain([pending.gone()]) {
            match logs.keep_request(&self.dir, &name, pending.run) {
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                // Not to be kept, then.
                Err(_) => self.dir.unlink(&name)?,
                Ok(()) => break,
            }
        }
        Ok(())
    }

    /// Says in the file's name that it is recorded that the run's process is gone.
    pub(super) fn mark_left(&self, pending: Pending) -> Result<()> {
        self.dir.rename(
            &Pending { is_left: false, ..pending }.file_name(),
            &Pending { is_left: true, ..pending }.file_name(),
        )
    }

    /// Takes that back, if it says so.
    pub(super) fn mark_live(&self, pending: Pending) -> Result<()> {
        let left = Pending { is_left: true, ..pending }.file_name();
        if self.dir.stat(&left)?.is_none() {
            return Ok(());
        }
        self.dir.rename(&left, &Pending { is_left: false, ..pending }.file_name())
    }

    /// What the ledger tells of a run; `None` when it knows none of that number (any more).
    pub(crate) fn view(&self, run: RunId) -> Result<Option<RunView>> {
        view(&self.files, run)
    }

    /// The same of many: the ledger is read once.
    pub(super) fn views(&self, runs: impl IntoIterator<Item = RunId>) -> Result<BTreeMap<RunId, RunView>> {
        views(&self.files, runs.into_iter().collect())
    }

    /// The runs that the ledger says stand in the lane, of which there are so many.
    pub(super) fn queued(&self, count: u64) -> Result<Vec<Pending>> {
        let mut queued = Vec::new();
        for view in Runs::of(&self.files, None)? {
            let view = view?;
            if let (RunState::Queued, Some(ticket)) = (view.state, view.ticket) {
                queued.push(Pending { ticket, run: view.run, is_left: false });
            }
            if queued.len() as u64 >= count {
                break;
            }
        }
        Ok(queued)
    }

    /// Those of them that stand in the lane, as the ledger has it. The others have a file only: they started, and were killed
    /// before that was removed; or an `add` was killed before it queued them.
    pub(super) fn waiting(&self, pending: &[Pending]) -> Result<Vec<Pending>> {
        let views = self.views(pending.iter().map(|pending| pending.run))?;
        let is_waiting = |pending: &&Pending| {
            let view = views.get(&pending.run);
            view.is_some_and(|view| view.state == RunState::Queued && view.ticket == Some(pending.ticket))
        };
        Ok(pending.iter().filter(is_waiting).copied().collect())
    }

    pub(crate) fn is_paused(&self) -> Result<bool> {
        self.files.is_paused()
    }

    /// Nothing of the queue starts from the moment that this returns.
    ///
    /// # Errors
    /// `CannotCreate`, `Io`: it is not paused, or not for long if power fails.
    pub(crate) fn pause(&self) -> Result<()> {
        let mut paused = Ok(());
        // A start is recorded under the same lock.
        let _nothing = self.ledger.append(|_| {
            paused = self.dir.open_or_create(JobFiles::PAUSED).map(drop);
            Vec::new()
        })?;
        paused?;
        self.dir.sync()
    }

    /// Ends that.
    pub(super) fn unpause(&self) -> Result<()> {
        self.dir.unlink(JobFiles::PAUSED)?;
        self.dir.sync()
    }

    /// Whoever has it gives runs their processes again; and when that was done last.
    pub(super) fn turn_of_resuming(&self) -> Result<(HeldFile, Option<DateTime<Utc>>)> {
        match HeldFile::acquire(&self.dir, RESUMING, Missing::Create, Until::Never, None)? {
            Taken::Held(held) => {
                let mut noted = [0; 64];
                let noted = String::from_utf8_lossy(held.read(&mut noted).unwrap_or_default()).trim().to_owned();
                Ok((held, noted.parse().ok()))
            }
            _ => Err(Error::Reentrant(self.name().clone())),
        }
    }

    /// It is done now.
    pub(super) fn note_the_resumption(&self, turn: &HeldFile) -> Result<()> {
        let now = format!("{}\n", rfc3339(SystemClock.now()));
        turn.write(now.as_bytes()).map_err(|e| Error::io("write", self.dir.path_of(RESUMING), e))
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// What the ledger of a job tells of one run.
pub(crate) fn view(files: &JobFiles, run: RunId) -> Result<Option<RunView>> {
    Ok(views(files, BTreeSet::from([run]))?.remove(&run))
}

fn views(files: &JobFiles, mut wanted: BTreeSet<RunId>) -> Result<BTreeMap<RunId, RunView>> {
    let mut found = BTreeMap::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    for view in Runs::of(files, None)? {
        let view = view?;
        let run = view.run;
        // First lines stand in the order of the numbers; the rest are of runs that have lost theirs.
        let is_past = view.state != RunState::Unknown && wanted.first().is_some_and(|first| run < *first);
        if wanted.remove(&run) {
            found.insert(run, view);
        }
        if is_past || wanted.is_empty() {
            break;
        }
    }
    Ok(found)
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("lane", self.name()).finish_non_exhaustive()
    }
}
