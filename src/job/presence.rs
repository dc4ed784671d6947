//! Whether a job runs, derived from its locks and never from what its ledger says; takes no lock itself.
//!
//! The ledger tells which run a lock would belong to, the kernel whether it is held. They are read one after the
//! other, so a run may end in between, and the next one start. Therefore the ledger is read first, and again where it shows
//! a run whose lock is free, or kept by others than its wrapper: a wrapper records the end before it lets the lock go, so
//! a run that is still there then has lost it.

use super::{JobFiles, Place, Running, Totals};
use crate::{
    dir::FileId,
    error::{Error, Result},
    lock::Holder,
    process::{
        self,
        locks::{self, Keeper, LockTable},
    },
};

/// How often a job is looked at whose runs come and go faster than that.
const LOOKS: usize = 8;

/// What is in one of a job's slots.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Presence {
    /// Nobody has the lock.
    Free,
    /// A run, whose wrapper keeps the lock.
    Running(Running),
    /// The wrapper is gone, and what it started keeps the lock.
    Orphaned(Running, Vec<Keeper>),
    /// The ledger knows no run there, and somebody has the lock: a process that a run left behind, or a stranger.
    Kept(Vec<Keeper>),
    /// The run's wrapper is gone, the lock is free, and its end was never recorded.
    Lost(Running),
    /// Somebody on some host has its lease on a server: a run, unless it is about to start or has just ended.
    Leased(Option<Running>, Holder),
    /// It started where process ids mean something else, and its lock is not to be seen from here.
    Unknown(Running),
}

/// One slot, and the file whose lock decides.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slot {
    pub(crate) number: u32,
    pub(crate) file: Option<FileId>,
    pub(crate) presence: Presence,
}

/// The kernel's list of locks, and where its process ids mean something.
#[derive(Debug)]
pub(crate) struct Look {
    table: LockTable,
    place: Place,
}

impl Look {
    /// Reads the list. What it is compared with must have been read before.
    pub(crate) fn now() -> Result<Self> {
        let table = LockTable::read().map_err(|e| Error::io("read", "/proc/locks", e))?;
        Ok(Self { table, place: Place::current()? })
    }

    /// What is in each slot of a job whose sums were read before this look; and the sums, read again if need be.
    pub(crate) fn slots(&self, files: &JobFiles, totals: Totals, slots: &[u32]) -> Result<(Totals, Vec<Slot>)> {
        let mut totals = totals;
        let mut found = self.judge(files, &totals, slots)?;
        for _ in 0..LOOKS {
            let has_no_wrapper = |slot: &Slot| matches!(slot.presence, Presence::Lost(_) | Presence::Orphaned(..));
            if !found.iter().any(has_no_wrapper) {
                break;
            }
            let before = std::mem::replace(&mut totals, files.totals()?.unwrap_or_default());
            if totals.running == before.running {
                break;
            }
            let look = Self { table: Self::now()?.table, place: self.place.clone() };
            found = look.judge(files, &totals, slots)?;
        }
        Ok((totals, found))
    }

    /// Whether that run goes on; `None` when it cannot be told.
    pub(crate) fn runs(&self, files: &JobFiles, running: &Running) -> Result<Option<bool>> {
        Ok(match self.presence(file_of(files, running.slot, Some(running))?, Some(running))? {
            Presence::Running(_) | Presence::Orphaned(..) | Presence::Leased(..) => Some(true),
            Presence::Lost(_) | Presence::Kept(_) | Presence::Free => Some(false),
            Presence::Unknown(_) => None,
        })
    }

    /// Who keeps the lock on that file, as far as this user may see; `None` when it is free.
    pub(crate) fn keepers(&self, file: FileId) -> Result<Option<Vec<Keeper>>> {
        let is_locked = self.table.is_locked(file);
        // A lock whose taker is gone is not listed in a pid namespace of its own; its keepers show it.
        if !is_locked && self.table.is_complete() {
            return Ok(None);
        }
        let keepers = locks::keepers(file).map_err(|e| Error::io("list", "/proc", e))?.keepers;
        Ok(Some(keepers).filter(|keepers| is_locked || !keepers.is_empty()))
    }

    fn judge(&self, files: &JobFiles, totals: &Totals, slots: &[u32]) -> Result<Vec<Slot>> {
        let mut numbers: Vec<_> = slots.iter().copied().chain(totals.running.iter().map(|r| r.slot)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let slot = |number| {
            let running = totals.in_slot(number);
            let file = file_of(files, number, running)?;
            Ok(Slot { number, file, presence: self.presence(file, running)? })
        };
        numbers.into_iter().map(slot).collect()
    }

    fn presence(&self, file: Option<FileId>, running: Option<&Running>) -> Result<Presence> {
        let Some(running) = running else {
            let keepers = file.map(|file| self.keepers(file)).transpose()?.flatten();
            return Ok(keepers.map_or(Presence::Free, Presence::Kept));
        };
        let running = || running.clone();
        let Some(file) = file else { return Ok(Presence::Lost(running())) };
        if running().boot != self.place.boot {
            let keepers = self.keepers(file)?;
            return Ok(keepers.map_or_else(|| Presence::Lost(running()), Presence::Kept));
        }
        if !self.place.is_of(&running()) {
            return Ok(Presence::Unknown(running()));
        }
        // Where this user may not look, the kernel's word for who took it has to do.
        // (Nobody may look into a zombie, and it keeps nothing.)
        let may_live = || process::info(running().pid).is_none_or(|info| info.is_alive());
        let took_it = || self.table.may_have_been_taken(file, running().pid) && may_live();
        if locks::keeps(running().pid, file).unwrap_or_else(|_| took_it()) {
            return Ok(Presence::Running(running()));
        }
        // The kernel's list is read in pieces, between which it changes: on a busy machine it may lack a lock that is
        // held all the time. A run is called lost only when nobody has the descriptor either.
        let keepers = locks::keepers(file).map_err(|e| Error::io("list", "/proc", e))?.keepers;
        Ok(match Some(keepers).filter(|keepers| self.table.is_locked(file) || !keepers.is_empty()) {
            None => Presence::Lost(running()),
            Some(unseen) if unseen.is_empty() && took_it() => Presence::Running(running()),
            Some(keepers) => Presence::Orphaned(running(), keepers),
        })
    }
}

/// The file whose lock means that slot.
fn file_of(files: &JobFiles, slot: u32, running: Option<&Running>) -> Result<Option<FileId>> {
    match running.and_then(|running| running.file) {
        Some((device, inode)) => Ok(Some(FileId { device, inode })),
        None => Ok(files.dir.stat(&files.lock(slot))?.map(|stat| stat.id)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{clock::SystemClock, dir::StateDir, lock::Identity};

    #[test]
    fn a_run_that_ended_while_it_was_looked_at_has_not_lost_its_wrapper() {
        let directory = tempfile::tempdir().unwrap();
        let dir = JobFiles::make_directory(&StateDir::open(directory.path(), false).unwrap()).unwrap();
        let files = JobFiles::new(Arc::clone(&dir), "nightly".parse().unwrap());
        let place = Place::current().unwrap();
        let run = Running {
            run: crate::job::RunId(1),
            attempt: 1,
            slot: 1,
            fence: crate::lock::Fence(1),
            start: chrono::Utc::now(),
            // Nobody's.
            pid: 0,
            wait: 0.0,
            boot: place.boot,
            pid_namespace: place.pid_namespace,
            file: None,
            host: None,
            ending: None,
        };
        // So the ledger was. Now the run is over, and somebody else has the lock.
        let before = Totals { running: vec![run], ..Totals::default() };
        let lock = crate::lock::FileLock::in_dir(dir, Arc::new(Identity::current()), Arc::new(SystemClock));
        let _held = crate::lock::Lock::acquire(&lock, &files.job, crate::lock::Wait::No).unwrap();
        let (totals, slots) = Look::now().unwrap().slots(&files, before, &[1]).unwrap();
        assert_eq!(totals, Totals::default());
        assert!(matches!(slots[0].presence, Presence::Kept(_)), "{slots:?}");
    }
}
