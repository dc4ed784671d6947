//! The trips of a state directory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use super::{
    answer::{Answer, TripView},
    commit::CommitMode,
    files::TripFiles,
    group::Group,
    index,
    ledger::Ledger,
    locked::{LockedTrip, Opened, Prepared, Together},
    read,
};
use crate::{
    booking::{Change, Request, Roster},
    clock::{Clock, SystemClock},
    dir::{Dir, StateDir},
    error::{Error, Result},
    lock::{Acquire, FileLock, Holder, Identity, Missing, Until, Wait},
    name::Name,
};

/// Called before a wait: the trip, and who holds it.
type Announce = Box<dyn Fn(&Name, Option<&Holder>) + Send + Sync>;

/// A store of trips in a directory, shared by any number of processes and threads.
///
/// Threads that share one value also share one append and one sync: whoever comes first leads, and takes along who
/// came meanwhile.
pub struct Store {
    state: StateDir,
    trips: OnceLock<Arc<Dir>>,
    identity: Arc<Identity>,
    clock: Arc<dyn Clock>,
    mode: CommitMode,
    announce: Option<Announce>,
    for_process: bool,
    groups: Mutex<HashMap<Name, Arc<Group>>>,
    untidy: Mutex<Vec<(TripFiles, Ledger, u64)>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("state", &self.state.path()).finish_non_exhaustive()
    }
}

impl Store {
    /// The store in that directory.
    pub fn open(state: StateDir) -> Self {
        Self {
            state,
            trips: OnceLock::new(),
            identity: Arc::new(Identity::current()),
            clock: Arc::new(SystemClock),
            mode: CommitMode::default(),
            announce: None,
            for_process: false,
            groups: Mutex::default(),
            untidy: Mutex::default(),
        }
    }

    /// The same with another source of time.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// The same with another commit protocol.
    #[must_use]
    pub fn with_commit_mode(self, mode: CommitMode) -> Self {
        Self { mode, ..self }
    }

    /// The same, telling `announce` before it waits for a lock.
    #[must_use]
    pub fn announcing(self, announce: impl Fn(&Name, Option<&Holder>) + Send + Sync + 'static) -> Self {
        Self { announce: Some(Box::new(announce)), ..self }
    }

    /// The same for a process that does one thing and ends: from an append on, TERM, INT and HUP wait for the answer;
    /// and the index is brought up to date by [`Store::tidy`], which the process calls once the answer is out.
    #[must_use]
    pub fn for_process(self) -> Self {
        Self { for_process: true, ..self }
    }

    /// Takes a trip's lock. [`LockedTrip`] is the only thing that can change the trip.
    ///
    /// # Errors
    /// `NoSuchTrip`, `Reentrant`, or what makes the state unusable.
    pub fn lock(&self, trip: &Name, wait: Wait) -> Result<Acquire<LockedTrip<'_>>> {
        match self.open_trip(trip, Missing::GiveUp, wait.until())? {
            Opened::Granted(locked) if locked.totals().is_none() => Err(Error::NoSuchTrip(trip.clone())),
            Opened::Granted(locked) => Ok(Acquire::Granted(*locked)),
            Opened::Held(holder) => Ok(Acquire::Held(holder)),
            Opened::NoLock => Err(Error::NoSuchTrip(trip.clone())),
        }
    }

    /// Asks for one change of a trip and gives the answer when it is durable; busy when the trip stayed locked for as
    /// long as the wait allows.
    ///
    /// # Errors
    /// As [`Store::lock`] and [`LockedTrip::submit`].
    pub fn submit(&self, trip: &Name, request: &Request, wait: Wait) -> Result<Acquire<Answer>> {
        let group = {
            let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(groups.entry(trip.clone()).or_default())
        };
        let answer = group.submit(self, trip, Prepared::new(request)?, wait.until());
        self.tidy_unless_asked_to();
        answer
    }

    /// Asks for many changes that stand or fall together under a crash: one lock, one append, one commit. The answers
    /// are in order; that one is refused does not keep the others back.
    ///
    /// # Errors
    /// As [`Store::submit`]; nothing of the batch is booked then, unless the error is `Uncertain`.
    pub fn submit_batch(&self, trip: &Name, requests: &[Request], wait: Wait) -> Result<Acquire<Vec<Answer>>> {
        let prepared = requests.iter().map(Prepared::new).collect::<Result<Vec<_>>>()?;
        let locked = match self.lock(trip, wait)? {
            Acquire::Granted(locked) => locked,
            Acquire::Held(holder) => return Ok(Acquire::Held(holder)),
        };
        let answers = locked.submit_all(&prepared, Together::Batch)?.into_iter().collect::<Result<_>>();
        self.tidy_unless_asked_to();
        answers.map(Acquire::Granted)
    }

    /// The trip's sums, as far as they are durable, without taking a lock.
    ///
    /// # Errors
    /// `NoSuchTrip`; `Corrupt` or `NewerFormat` when it cannot be read.
    pub fn show(&self, trip: &Name) -> Result<TripView> {
        let files = self.existing(trip)?;
        let totals = read::totals(&files)?;
        Ok(TripView { trip: files.trip, totals })
    }

    /// Every trip's sums, in byte order of the names, without taking a lock.
    ///
    /// # Errors
    /// As [`Store::show`], for the first trip that fails.
    pub fn list(&self) -> Result<Vec<TripView>> {
        let Some(dir) = self.trips()? else { return Ok(Vec::new()) };
        let mut trips = Vec::new();
        for files in TripFiles::all(&dir)? {
            match read::totals(&files) {
                Ok(totals) => trips.push(TripView { trip: files.trip, totals }),
                Err(Error::NoSuchTrip(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(trips)
    }

    /// The trip with every durable booking, without taking a lock: reads the whole ledger.
    ///
    /// # Errors
    /// As [`Store::show`].
    pub fn roster(&self, trip: &Name) -> Result<Roster> {
        read::roster(&self.existing(trip)?)
    }

    /// Brings the indexes of the trips that were changed up to date, where that is due: work that no answer waits for.
    pub fn tidy(&self) {
        let untidy = std::mem::take(&mut *self.untidy.lock().unwrap_or_else(PoisonError::into_inner));
        for (files, ledger, durable) in untidy {
            // An index that is not written is a slower look-up, not an error; the next one tries again.
            let _ = index::checkpoint_if_due(&files, &ledger, durable);
        }
    }

    fn tidy_unless_asked_to(&self) {
        if !self.for_process {
            self.tidy();
        }
    }

    pub(super) fn remember_untidy(&self, files: TripFiles, ledger: Ledger, durable: u64) {
        self.untidy.lock().unwrap_or_else(PoisonError::into_inner).push((files, ledger, durable));
    }

    /// Locks a trip for that change: only [`Change::Add`] makes its files.
    pub(super) fn open_for(&self, trip: &Name, change: &Change, until: Until) -> Result<Opened<'_>> {
        let missing = if matches!(change, Change::Add { .. }) { Missing::Create } else { Missing::GiveUp };
        self.open_trip(trip, missing, until)
    }

    fn open_trip(&self, trip: &Name, missing: Missing, until: Until) -> Result<Opened<'_>> {
        let dir = match (self.trips()?, missing) {
            (Some(dir), _) => dir,
            (None, Missing::Create) => self.make_trips()?,
            (None, Missing::GiveUp) => return Ok(Opened::NoLock),
        };
        let files = TripFiles::new(dir, trip.clone());
        // A lock file that was removed by hand is made again, for a trip that is there.
        let missing = if missing == Missing::GiveUp && files.dir.stat(&files.ledger)?.is_some() {
            Missing::Create
        } else {
            missing
        };
        if let (Some(announce), true) = (&self.announce, until != Until::Now) {
            match LockedTrip::open(self, files.clone(), missing, Until::Now, false)? {
                Opened::Held(holder) => announce(trip, holder.as_ref()),
                opened => return Ok(opened),
            }
        }
        LockedTrip::open(self, files, missing, until, false)
    }

    fn trips(&self) -> Result<Option<Arc<Dir>>> {
        if let Some(dir) = self.trips.get() {
            return Ok(Some(Arc::clone(dir)));
        }
        let dir = self.state.subdirectory("trips")?.map(Arc::new);
        Ok(dir.map(|dir| Arc::clone(self.trips.get_or_init(|| dir))))
    }

    fn make_trips(&self) -> Result<Arc<Dir>> {
        let dir = Arc::new(self.state.make_subdirectory("trips")?);
        Ok(Arc::clone(self.trips.get_or_init(|| dir)))
    }

    fn existing(&self, trip: &Name) -> Result<TripFiles> {
        let dir = self.trips()?.ok_or_else(|| Error::NoSuchTrip(trip.clone()))?;
        Ok(TripFiles::new(dir, trip.clone()))
    }

    pub(super) fn lock_of(&self, files: &TripFiles) -> FileLock {
        FileLock::in_dir(Arc::clone(&files.dir), Arc::clone(&self.identity), Arc::clone(&self.clock))
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(super) fn commit_mode(&self) -> CommitMode {
        self.mode
    }

    pub(super) fn defers_signals(&self) -> bool {
        self.for_process
    }
}
