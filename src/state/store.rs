//! The trips of a state directory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    answer::{Answer, TripView},
    commit::CommitMode,
    context::Context,
    draft::Prepared,
    files::TripFiles,
    group::{Answers, Committer, Group},
    locked::{LockedTrip, Opened, Together},
    read,
};
use crate::{
    booking::{Change, Request, Roster},
    clock::Clock,
    dir::StateDir,
    error::{Error, Result},
    lock::{Acquire, Holder, Until, Wait},
    name::Name,
};

/// A store of trips in a directory, shared by any number of processes and threads.
///
/// Threads that share one value also share one append and one sync: whoever comes first leads, and takes along who
/// came meanwhile.
#[derive(Debug)]
pub struct Store {
    context: Context,
    groups: Mutex<HashMap<Name, Arc<Group>>>,
}

impl Store {
    /// The store in that directory.
    pub fn open(state: StateDir) -> Self {
        Self { context: Context::new(state), groups: Mutex::default() }
    }

    /// The same with another source of time.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.context.clock = clock;
        self
    }

    /// The same with another commit protocol.
    #[must_use]
    pub fn with_commit_mode(mut self, mode: CommitMode) -> Self {
        self.context.mode = mode;
        self
    }

    /// The same, telling `announce` before it waits for a lock.
    #[must_use]
    pub fn announcing(mut self, announce: impl Fn(&Name, Option<&Holder>) + Send + Sync + 'static) -> Self {
        self.context.announce = Some(Box::new(announce));
        self
    }

    /// The same for a process that does one thing and ends: from an append on, TERM, INT and HUP wait for the answer;
    /// and the index is brought up to date by [`Store::tidy`], which the process calls once the answer is out.
    #[must_use]
    pub fn for_process(mut self) -> Self {
        self.context.for_process = true;
        self
    }

    /// Takes a trip's lock. [`LockedTrip`] is the only thing that can change the trip.
    ///
    /// # Errors
    /// `NoSuchTrip`, `Reentrant`, or what makes the state unusable.
    pub fn lock(&self, trip: &Name, wait: Wait) -> Result<Acquire<LockedTrip<'_>>> {
        // Any change that does not make the trip's files.
        match LockedTrip::open_for(&self.context, trip, &Change::Remove, wait.until())? {
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
        let committer = OnDisk { context: &self.context, trip };
        let answer = group.submit(&committer, trip, Prepared::one(request)?, wait.until());
        self.context.tidy_unless_asked_to();
        answer
    }

    /// Asks for many changes that stand or fall together under a crash: one lock, one append, one commit. The answers
    /// are in order; that one is refused does not keep the others back.
    ///
    /// # Errors
    /// As [`Store::submit`]; nothing of the batch is booked then, unless the error is `Uncertain`.
    pub fn submit_batch(&self, trip: &Name, requests: &[Request], wait: Wait) -> Result<Acquire<Vec<Answer>>> {
        let prepared = Prepared::all(requests)?;
        let locked = match self.lock(trip, wait)? {
            Acquire::Granted(locked) => locked,
            Acquire::Held(holder) => return Ok(Acquire::Held(holder)),
        };
        let answers = locked.submit_all(&prepared, Together::Batch)?.into_iter().collect::<Result<_>>();
        self.context.tidy_unless_asked_to();
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

    /// Every trip's sums, in byte order of the names, without taking a lock; or why one cannot be read.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Result<TripView>>> {
        let Some(dir) = self.context.trips()? else { return Ok(Vec::new()) };
        let view = |files: TripFiles| match read::totals(&files) {
            Ok(totals) => Some(Ok(TripView { trip: files.trip, totals })),
            // Removed.
            Err(Error::NoSuchTrip(_)) => None,
            Err(e) => Some(Err(e)),
        };
        Ok(TripFiles::all(&dir)?.into_iter().filter_map(view).collect())
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
        self.context.tidy();
    }

    fn existing(&self, trip: &Name) -> Result<TripFiles> {
        let dir = self.context.trips()?.ok_or_else(|| Error::NoSuchTrip(trip.clone()))?;
        Ok(TripFiles::new(dir, trip.clone()))
    }
}

/// Commits a group of requests for a trip of the directory.
struct OnDisk<'s> {
    context: &'s Context,
    trip: &'s Name,
}

impl Committer for OnDisk<'_> {
    fn is_held_here(&self) -> Result<bool> {
        let Some(dir) = self.context.trips()? else { return Ok(false) };
        self.context.lock_of(&TripFiles::new(dir, self.trip.clone())).is_held_here(self.trip)
    }

    fn commit(&self, own: &Prepared, until: Until, take: impl FnOnce() -> Vec<Prepared>) -> Result<Acquire<Answers>> {
        match LockedTrip::open_for(self.context, self.trip, &own.change, until)? {
            Opened::Granted(locked) => locked.submit_all(&take(), Together::Each).map(Acquire::Granted),
            Opened::Held(holder) => Ok(Acquire::Held(holder)),
            Opened::NoLock => Err(Error::NoSuchTrip(self.trip.clone())),
        }
    }
}
