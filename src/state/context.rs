//! What every operation of one store needs: where its trips are, who asks, what time it is, and how it commits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use chrono::{DateTime, Utc};

use super::{commit::CommitMode, files::TripFiles, index, kept::Kept, ledger::Ledger};
use crate::{
    clock::{Clock, SystemClock},
    dir::{Dir, StateDir},
    error::Result,
    lock::{FileLock, Holder, Identity, Until},
    name::Name,
};

/// Called before a wait: the trip, and who holds it.
pub(super) type Announce = Box<dyn Fn(&Name, Option<&Holder>) + Send + Sync>;

/// The surroundings of a store's operations.
pub(super) struct Context {
    state: StateDir,
    trips: OnceLock<Arc<Dir>>,
    identity: Arc<Identity>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) mode: CommitMode,
    pub(super) announce: Option<Announce>,
    /// A process that does one thing and ends: see [`super::Store::for_process`].
    pub(super) for_process: bool,
    /// Trips whose index may want a checkpoint: work that no answer waits for.
    untidy: Mutex<HashMap<Name, (TripFiles, Ledger, u64)>>,
    kept: Mutex<HashMap<Name, Kept>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("state", &self.state.path()).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Context {
    pub(super) fn new(state: StateDir) -> Self {
        Self {
            state,
            trips: OnceLock::new(),
            identity: Arc::new(Identity::current()),
            clock: Arc::new(SystemClock),
            mode: CommitMode::default(),
            announce: None,
            for_process: false,
            untidy: Mutex::default(),
            kept: Mutex::default(),
        }
    }

    /// The directory of trips, if any was ever made.
    pub(super) fn trips(&self) -> Result<Option<Arc<Dir>>> {
        if let Some(dir) = self.trips.get() {
            return Ok(Some(Arc::clone(dir)));
        }
        let dir = self.state.subdirectory("trips")?.map(Arc::new);
        Ok(dir.map(|dir| Arc::clone(self.trips.get_or_init(|| dir))))
    }

    pub(super) fn make_trips(&self) -> Result<Arc<Dir>> {
        let dir = Arc::new(self.state.make_subdirectory("trips")?);
        Ok(Arc::clone(self.trips.get_or_init(|| dir)))
    }

    pub(super) fn lock_of(&self, files: &TripFiles) -> FileLock {
        FileLock::in_dir(Arc::clone(&files.dir), Arc::clone(&self.identity), Arc::clone(&self.clock))
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The files that the last commit of the trip left open, for this one alone.
    pub(super) fn take_kept(&self, trip: &Name) -> Kept {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(trip).filter(Kept::is_ours).unwrap_or_default()
    }

    /// Leaves files open for the next commit. Of two commits at once the last one's are kept.
    pub(super) fn keep(&self, trip: &Name, kept: Kept) {
        if !self.for_process {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(trip.clone(), kept);
        }
    }

    pub(super) fn remember_untidy(&self, files: TripFiles, ledger: Ledger, durable: u64) {
        self.untidy.lock().unwrap_or_else(PoisonError::into_inner).insert(files.trip.clone(), (files, ledger, durable));
    }

    /// As [`super::Store::for_process`] says.
    pub(super) fn tidy_unless_asked_to(&self) {
        if !self.for_process {
            self.tidy();
        }
    }

    /// Brings the indexes of the trips that were changed up to date, where that is due.
    pub(super) fn tidy(&self) {
        let untidy = std::mem::take(&mut *self.untidy.lock().unwrap_or_else(PoisonError::into_inner));
        for (files, ledger, durable) in untidy.into_values() {
            // An index that is not written is a slower look-up, not an error; the next one tries again.
            let _ = index::checkpoint(&files, &ledger, durable, Until::Now);
        }
    }
}
