//! Follows a log until its run is over.

use std::{
    io::{self, Write},
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{LogReader, Logs, limit};
use crate::{
    dir::{FileId, Watch},
    error::{Error, Result},
    job::{JobFiles, Place, ServerJobs, model::RunId},
    process::locks::{LockTable, keepers},
};

/// How often to look whether the run is over, whatever the log does.
const LOOK: Duration = Duration::from_millis(500);

/// A job that prints without pause is read this often: one read for many writes.
const REST: Duration = Duration::from_millis(10);

/// A log that is to be followed.
pub(crate) struct Follow<'f> {
    files: &'f JobFiles,
    logs: &'f Logs,
    run: RunId,
    /// Where the job's leases are.
    server: Option<&'f ServerJobs>,
}

impl<'f> Follow<'f> {
    pub(crate) fn new(files: &'f JobFiles, logs: &'f Logs, run: RunId, server: Option<&'f ServerJobs>) -> Self {
        Self { files, logs, run, server }
    }

    /// Copies what is there and what comes, until the run is over. The outer result is about the log, the inner one
    /// about `to`. `out` is where `to` writes: if it is a pipe that nobody reads any more, that is the end, also while
    /// the job prints nothing.
    pub(crate) fn copy(
        &self,
        mut reader: LogReader<'_>,
        to: &mut dyn Write,
        out: BorrowedFd<'_>,
    ) -> Result<io::Result<()>> {
        // Before the first read, or what is printed in between would be told by nobody. Without a watch (a user has
        // only so many) the clock does.
        let watch = limit::watch(self.logs, self.run).ok();
        loop {
            // Asked before the log is read, so that nothing printed before the end is missed.
            let is_over = self.is_over()?;
            let looked = Instant::now();
            loop {
                if let Err(e) = reader.copy(to)? {
                    return Ok(Err(e));
                }
                if is_over {
                    return Ok(Ok(()));
                }
                let left = LOOK.saturating_sub(looked.elapsed());
                if left.is_zero() {
                    break;
                }
                if self.wait(watch.as_ref(), out, left)? {
                    return Ok(Ok(()));
                }
            }
        }
    }

    /// Until there may be more, or the time is over. Whether nobody reads `out` any more.
    fn wait(&self, watch: Option<&Watch>, out: BorrowedFd<'_>, time: Duration) -> Result<bool> {
        std::thread::sleep(REST.min(time));
        let mut fds = vec![PollFd::from_borrowed_fd(out, PollFlags::empty())];
        fds.extend(watch.map(|watch| PollFd::new(watch, PollFlags::IN)));
        let timeout = Timespec::try_from(time).expect("less than a second");
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::io("watch", self.logs.path_of(self.run), errno)),
        }
        let is_unread = fds[0].revents().contains(PollFlags::ERR);
        if let Some(watch) = watch {
            watch.drain();
        }
        Ok(is_unread)
    }

    /// The ledger says so, or its wrapper was killed and nobody has its lock any more.
    fn is_over(&self) -> Result<bool> {
        if let Some(server) = self.server {
            return Ok(server.job(&self.files.job)?.is_none_or(|job| !job.runs(self.run)));
        }
        let totals = self.files.totals()?.unwrap_or_default();
        let Some(running) = totals.running.iter().find(|running| running.run == self.run) else { return Ok(true) };
        let lock = match running.file {
            Some((device, inode)) => Some(FileId { device, inode }),
            None => self.files.dir.stat(&self.files.lock(running.slot))?.map(|stat| stat.id),
        };
        let Some(lock) = lock else { return Ok(false) };
        let failed = |e| Error::io("read the locks in", "/proc", e);
        let locks = LockTable::read().map_err(failed)?;
        if locks.is_complete() || locks.is_locked(lock) {
            return Ok(!locks.is_locked(lock));
        }
        // In a container not every lock is shown; but a run of the same one can be seen there.
        let place = Place::current()?;
        let keepers = keepers(lock).map_err(failed)?;
        Ok(place.is_of(running) && keepers.keepers.is_empty() && keepers.unreadable == 0)
    }
}
