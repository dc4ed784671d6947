//! What a run prints: `jobs/NAME.logs/42.log` is the stdout and stderr of run 42, and of each of its attempts.
//!
//! The job's stdout and stderr are one open file description of that file, with `O_APPEND`, and triplock is not in
//! between. So the order of both is exact whatever the job's buffers; a descendant that keeps the descriptor wedges
//! nobody, and may write after the run's end without losing a byte or getting SIGPIPE; and a killed wrapper loses
//! nothing. What that costs: a disk that is full is the job's own ENOSPC, and a job that opens `/dev/stderr` afresh
//! with `>` truncates its log, as it would under any redirection to a file.
//!
//! **The limit** ([`limit`]). A log that outgrows its limit keeps its beginning and its end: the middle's blocks are
//! given back to the file system (a hole), so no byte moves while the job appends. A job may print NULs itself, so
//! holes do not tell what was cut: `42.cut` does ([`cut`]).
//!
//! **Who is not disturbed** ([`directory`]). An open log is never removed, neither because it is empty nor because
//! newer ones push it out: unlinked, it would take what a daemon prints where nobody finds it, and grow where nobody
//! sees it. Truncating it first would only make the daemon start over. It stays in sight, and a later run removes it
//! once its writer (or reader) is gone.
//!
//! A log is never synced: after a power cut its end may be missing.

mod cut;
mod directory;
mod follow;
mod limit;
mod reader;

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

pub(crate) use directory::{LogFile, Logs};
pub(crate) use follow::Follow;
pub(crate) use reader::LogReader;

use self::limit::Limit;
use super::model::RunId;
use crate::{
    dir::{Dir, stat_file},
    error::{Error, Result},
    name::Name,
};

/// The file for a log, without a name, to be made before its run starts: to make a file takes longer than to name it, and a
/// run that waits has the time. Nobody sees it, and it goes with its process.
#[derive(Debug)]
pub(crate) struct UnnamedLog(File);

impl UnnamedLog {
    /// `None` where the file system has no such files; whatever is wrong besides is told when the log is needed.
    pub(crate) fn make(jobs: &Dir, job: &Name) -> Option<Self> {
        Logs::make(jobs, job).ok()?.make_unnamed().map(Self)
    }
}

/// The log of a run that goes on.
///
/// Its owner polls [`Log::watch`] for reading (when there is one), wakes when [`Log::due`] is over, and then calls
/// [`Log::enforce_limit`].
#[derive(Debug)]
pub(crate) struct Log {
    logs: Logs,
    run: RunId,
    file: File,
    limit: Limit,
}

impl Log {
    /// Makes the log of a run. `limit`: how many bytes of it to keep; `unnamed`: a file to make it of.
    pub(crate) fn create(jobs: &Dir, job: &Name, run: RunId, limit: u64, unnamed: Option<UnnamedLog>) -> Result<Self> {
        // Whoever has moved the directory away meanwhile finds the log in the new one.
        let logs = Logs::make(jobs, job)?;
        let named = unnamed.and_then(|UnnamedLog(file)| logs.give_name(&file, run));
        let file = named.map_or_else(|| logs.create(run), Ok)?;
        Ok(Self { logs, run, file, limit: Limit::new(limit) })
    }

    /// What the job gets as its stdout and its stderr.
    pub(crate) fn output(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// How soon to look; `None`: not before [`Log::watch`] is readable.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.limit.due()
    }

    /// What becomes readable when the job has printed; `None` while it is not to be asked, however much it prints.
    pub(crate) fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.limit.watch()
    }

    /// Keeps the log to its limit. Cheap, and does nothing before it is due, so that it may be called after every
    /// wake-up. What fails here does not fail the run: the log's end says so.
    pub(crate) fn enforce_limit(&mut self) {
        self.limit.look(&self.logs, self.run, &self.file);
    }

    /// Copies what was printed up to now, without holding it in memory. The outer result is about the log, the inner
    /// one about `to`.
    pub(crate) fn print(&mut self, to: &mut dyn Write) -> Result<io::Result<()>> {
        // A short run may have outgrown its limit before anybody looked.
        self.limit.enforce(&self.logs, self.run, &self.file);
        match LogReader::open(&self.logs, self.run)? {
            Some(mut reader) => reader.copy(to),
            // Somebody removed it.
            None => Ok(Ok(())),
        }
    }

    /// The run is over: removes an empty log of a success, and of the others all but the newest `keep` (0 keeps
    /// none).
    ///
    /// A watch costs the kernel milliseconds to take down. So this comes after the job's lock was released; two runs
    /// that tidy at once remove the same files.
    pub(crate) fn finish(mut self, keep: u32, succeeded: bool) -> Result<()> {
        self.limit_at_last();
        let size = stat_file(&self.file).map_err(|e| Error::io("stat", self.logs.path_of(self.run), e))?.size;
        // Before anybody is asked who else has it open.
        drop(self.file);
        if succeeded && size == 0 && self.logs.remove_unopened(self.run)? {
            // There are as many as there were.
            return Ok(());
        }
        self.logs.retain(keep)
    }

    /// The same of a queued run, whose log stays also when it is empty: whoever waits for it reads it then. Thousands come one
    /// after another and keep thousands, so the directory is not listed for each: each removes the one that is too old by now,
    /// and some look for those that were passed over.
    pub(crate) fn finish_queued(mut self, keep: u32) -> Result<()> {
        self.limit_at_last();
        let Self { logs, run, file, .. } = self;
        drop(file);
        if keep == 0 || run.0 % SWEEP == 0 {
            return logs.retain(keep);
        }
        match run.0.checked_sub(keep.into()) {
            Some(old) => logs.remove_unopened(RunId(old)).map(drop),
            None => Ok(()),
        }
    }

    fn limit_at_last(&mut self) {
        self.limit.enforce(&self.logs, self.run, &self.file);
        if let Some(why) = self.limit.failure() {
            // On a disk that is full there is no place to say so either.
            let _ = self.file.write_all(format!("\n[triplock: the log is over its limit: {why}]\n").as_bytes());
        }
    }
}

/// Every so many queued runs of a lane, their directory is listed.
const SWEEP: u64 = 64;

#[cfg(test)]
mod tests;
