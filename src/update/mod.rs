//! `update FILE -- FILTER`: a file that any number of processes change, one at a time and each as a whole.
//!
//! 1. The lock is `files/HASH.lock` in the state directory; the hash is of the file's canonical path. It is not on FILE
//!    itself: a rename replaces that inode, and who waited for the old one would hold a lock that nobody asks for. The
//!    filter inherits the lock's descriptor, so that it is kept while a filter runs whose triplock was killed.
//! 2. FILE is opened once: a regular file with one name. A symbolic link is refused (the rename would replace the link,
//!    not what it means), and so are further hard links (they would keep the old content under the other name).
//! 3. FILE is the filter's stdin and a fresh file its stdout, both directly. A filter that reads and writes in any
//!    order, or stops reading, cannot wedge anybody. The fresh file has one name, derived from FILE's, in the same
//!    directory; it is removed and made under the lock, so that kills leave no litter but the one that the next update
//!    removes.
//! 4. Nothing is replaced unless the filter exits 0 by itself, and no process that it left behind can still write to the
//!    fresh file.
//! 5. Mode, owner, attributes and access list are FILE's, or nothing is replaced.
//! 6. The fresh file is synced before the rename: after a power cut FILE is the old one or the new one, never an empty
//!    one. The directory is synced after it: success is answered when the new one stays.
//! 7. Right before the rename FILE must still be the file that was read, with its size and time. An editor that takes no
//!    lock is noticed, unless it writes between this look and the rename.

mod attributes;
mod filter;
mod fresh;
mod leased;
mod target;

use std::{ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

pub(crate) use filter::FilterEnd;
pub(crate) use target::Target;

use self::{filter::Filter, fresh::Fresh, leased::Leased};
use crate::{
    clock::SystemClock,
    dir::StateDir,
    error::Result,
    held::Held,
    lock::{Acquire, FileGuard, FileLock, Guard as _, Holder, Identity, Lock as _, Wait},
    store::StoreUrl,
};

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) file: PathBuf,
    pub(crate) filter: Vec<OsString>,
    /// The file may be missing.
    pub(crate) create: bool,
    pub(crate) wait: Wait,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) kill_after: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Updated {
    /// The file holds what the filter printed.
    Replaced,
    /// The filter did not succeed; the file is as it was.
    Failed(FilterEnd),
    /// Somebody else updates it.
    Busy(Option<Holder>),
    /// This process is part of a filter of the same file.
    Nested,
}

/// Where an update's lock and its note are.
const LOCKS: &str = "files";

impl Update {
    /// Does it. `announce` is told before a wait.
    pub(crate) fn run(
        &self,
        state: &StateDir,
        server: Option<&StoreUrl>,
        announce: &dyn Fn(Option<&Holder>),
    ) -> Result<Updated> {
        let target = Target::find(&self.file)?;
        let locks = Arc::new(state.make_subdirectory(LOCKS)?);
        let lock_path = locks.path_of(&format!("{}.lock", target.lock_name()));
        let locks = FileLock::in_dir(locks, Arc::new(Identity::current()), Arc::new(SystemClock));
        let mut held = Held::inherited(state.path());
        let entry = format!("{LOCKS}/{}", target.lock_name());
        let guard = match self.acquire(&locks, &target, |fence| held.contains(&entry, fence), announce)? {
            Ok(guard) => guard,
            Err(not) => return Ok(not),
        };
        // Shown to the filter, which may show it to another system.
        guard.persist_fence()?;
        held.add(&entry, guard.fence());
        let leased = match server {
            Some(url) => {
                held = Held::inherited_of_server(url.to_string(), state.path());
                let name = target.lock_name();
                match Leased::acquire(url, name, self.wait, self.kill_after, &held, announce)? {
                    Ok(leased) => Some(leased),
                    Err(not) => return Ok(not),
                }
            }
            None => None,
        };
        let fence = leased.as_ref().map_or(guard.fence(), |leased| leased.fence);
        if leased.is_some() {
            held.add(&entry, fence);
        }
        let mut environment = held.exported();
        environment.push(("TRIPLOCK_FENCE".into(), Some(fence.to_string().into())));
        environment.push(("TRIPLOCK_LOCK_FILE".into(), Some(lock_path.into())));

        let source = target.open(self.create)?;
        let fresh = Fresh::create(&target)?;
        let filter =
            Filter { command: &self.filter, environment, time_limit: self.time_limit, kill_after: self.kill_after };
        let end = filter.run(source.as_ref(), &fresh, &guard, leased.as_ref())?;
        if end != FilterEnd::Succeeded {
            return Ok(Updated::Failed(end));
        }
        if leased.as_ref().is_some_and(|leased| !matches!(leased.is_ours(), Ok(true))) {
            return Ok(Updated::Failed(FilterEnd::LeaseLost));
        }
        fresh.publish(source.as_ref())?;
        Ok(Updated::Replaced)
    }

    fn acquire(
        &self,
        locks: &FileLock,
        target: &Target,
        is_ours: impl Fn(crate::lock::Fence) -> bool,
        announce: &dyn Fn(Option<&Holder>),
    ) -> Result<Result<FileGuard, Updated>> {
        let holder = match locks.acquire(target.lock_name(), Wait::No)? {
            Acquire::Granted(guard) => return Ok(Ok(guard)),
            Acquire::Held(holder) => holder,
        };
        if holder.as_ref().is_some_and(|holder| is_ours(holder.fence)) {
            return Ok(Err(Updated::Nested));
        }
        if self.wait == Wait::No {
            return Ok(Err(Updated::Busy(holder)));
        }
        announce(holder.as_ref());
        Ok(match locks.acquire(target.lock_name(), self.wait)? {
            Acquire::Granted(guard) => Ok(guard),
            Acquire::Held(holder) => Err(Updated::Busy(holder)),
        })
    }
}
