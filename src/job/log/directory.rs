//! The logs of a job: `jobs/NAME.logs/`.

use std::{fs::File, path::PathBuf};

use super::{super::model::RunId, cut::Cut};
use crate::{
    dir::{Access, Dir, Stat},
    error::{Error, Result},
    lock::{Openers, other_openers},
    name::Name,
};

/// The directory of a job's logs.
#[derive(Debug)]
pub(crate) struct Logs {
    dir: Dir,
}

/// A log that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct LogFile {
    /// Whose.
    pub(crate) run: RunId,
    /// How many bytes it has; what was cut is not among them.
    pub(crate) bytes: u64,
    /// How many bytes were cut.
    pub(crate) cut: u64,
}

impl Logs {
    /// Those of that job, if it ever had any. `jobs`: the state directory's `jobs/`.
    pub(crate) fn open(jobs: &Dir, job: &Name) -> Result<Option<Self>> {
        Ok(jobs.subdirectory(&format!("{job}.logs"))?.map(|dir| Self { dir }))
    }

    /// The same, made when there are none.
    pub(crate) fn make(jobs: &Dir, job: &Name) -> Result<Self> {
        Ok(Self { dir: jobs.make_subdirectory(&format!("{job}.logs"))? })
    }

    /// Which runs have one, oldest first.
    pub(crate) fn runs(&self) -> Result<Vec<RunId>> {
        let mut runs: Vec<_> = self.dir.names()?.iter().filter_map(|name| run_of(name)).collect();
        runs.sort_unstable();
        Ok(runs)
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Result<Vec<LogFile>> {
        let mut logs = Vec::new();
        for run in self.runs()? {
            // One that was removed meanwhile is none.
            let Some((_, stat)) = self.open_log(run)? else { continue };
            let cut = self.cut_of(run, stat)?.map_or(0, Cut::length);
            logs.push(LogFile { run, bytes: stat.size.saturating_sub(cut), cut });
        }
        Ok(logs)
    }

    pub(super) fn path_of(&self, run: RunId) -> PathBuf {
        self.dir.path_of(&log_name(run))
    }

    /// Makes the log of a run. One of that number can be there only if a power cut took the ledger's end and not the
    /// log's: it belongs to a run that nobody knows any more.
    pub(super) fn create(&self, run: RunId) -> Result<File> {
        let name = log_name(run);
        if let Some(file) = self.dir.create_to_append(&name)? {
            return Ok(file);
        }
        self.remove(run)?;
        let file = self.dir.create_to_append(&name)?;
        file.ok_or_else(|| Error::cannot_create(self.dir.path_of(&name), std::io::ErrorKind::AlreadyExists))
    }

    /// A file for one, to be made while there is time for it.
    pub(super) fn make_unnamed(&self) -> Option<File> {
        self.dir.create_unnamed_to_append()
    }

    /// Makes that the log of a run; `None` when it cannot be.
    pub(super) fn give_name(&self, file: &File, run: RunId) -> Option<File> {
        self.dir.give_name(file, &log_name(run))
    }

    pub(super) fn open_log(&self, run: RunId) -> Result<Option<(File, Stat)>> {
        self.dir.open(&log_name(run), Access::Read)
    }

    /// The file that says what was cut from a run's log.
    pub(super) fn open_cut(&self, run: RunId) -> Result<Option<File>> {
        Ok(self.dir.open(&cut_name(run), Access::Read)?.map(|(file, _)| file))
    }

    pub(super) fn make_cut(&self, run: RunId) -> Result<File> {
        Ok(self.dir.open_or_create(&cut_name(run))?.0)
    }

    pub(super) fn cut_of(&self, run: RunId, log: Stat) -> Result<Option<Cut>> {
        match self.open_cut(run)? {
            Some(file) => Cut::read(&file, log, || self.dir.path_of(&cut_name(run))),
            None => Ok(None),
        }
    }

    pub(super) fn cut_path(&self, run: RunId) -> PathBuf {
        self.dir.path_of(&cut_name(run))
    }

    /// Removes the log unless somebody has it open, or nobody can tell. Whether it did.
    pub(super) fn remove_unopened(&self, run: RunId) -> Result<bool> {
        match self.open_log(run)? {
            Some((file, _)) if other_openers(&file) != Openers::None => Ok(false),
            _ => self.remove(run).map(|()| true),
        }
    }

    /// Removes all but the newest `keep`, except those that somebody has open. Where nobody can tell (another member
    /// of the group made it, or the file system knows no leases) the disk counts for more than a straggler.
    pub(super) fn retain(&self, keep: u32) -> Result<()> {
        let names = self.dir.names()?;
        let mut runs: Vec<_> = names.iter().filter_map(|name| run_of(name)).collect();
        runs.sort_unstable();
        let surplus = runs.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
        for run in &runs[..surplus] {
            match self.open_log(*run)? {
                Some((file, _)) if other_openers(&file) == Openers::Others => {}
                _ => self.remove(*run)?,
            }
        }
        // What was to be done is kept as long as what was printed. (Of runs that never started, nothing was.)
        let Some(newest) = surplus.checked_sub(1).map(|last| runs[last]) else { return Ok(()) };
        for run in names.iter().filter_map(|name| requested(name)).filter(|run| *run <= newest) {
            self.forget_request(run)?;
        }
        Ok(())
    }

    /// Takes in what a queued run was to do, so that it can be queued again for as long as its log would be kept.
    pub(crate) fn keep_request(&self, from: &Dir, name: &str, run: RunId) -> Result<()> {
        from.move_to(name, &self.dir, &request_name(run))
    }

    /// Forgets what that run was to do.
    fn forget_request(&self, run: RunId) -> Result<()> {
        self.dir.unlink(&request_name(run))
    }

    /// Where that is, and under which name.
    pub(crate) fn request(&self, run: RunId) -> (&Dir, String) {
        (&self.dir, request_name(run))
    }

    /// The log first: killed in between, a cut without a log is left, which the next log of that number removes. The
    /// other way round a reader would take the hole for the job's NULs.
    fn remove(&self, run: RunId) -> Result<()> {
        self.dir.unlink(&log_name(run))?;
        self.dir.unlink(&cut_name(run))?;
        self.forget_request(run)
    }
}

fn log_name(run: RunId) -> String {
    format!("{run}.log")
}

fn request_name(run: RunId) -> String {
    format!("{run}.json")
}

fn cut_name(run: RunId) -> String {
    format!("{run}.cut")
}

fn run_of(name: &str) -> Option<RunId> {
    numbered(name, ".log", log_name)
}

/// The run whose request it is.
fn requested(name: &str) -> Option<RunId> {
    numbered(name, ".json", request_name)
}

fn numbered(name: &str, suffix: &str, of: fn(RunId) -> String) -> Option<RunId> {
    let run = RunId(name.strip_suffix(suffix)?.parse().ok()?);
    // "007.log" and "+7.log" are not ours.
    (of(run) == name).then_some(run)
}
