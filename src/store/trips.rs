//! The trips of a store on a server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{PATIENCE, Session, StoreUrl, connect};
use crate::{
    booking::{Request, Roster},
    error::{Error, Result, ServerTrouble},
    lock::{Acquire, Until, Wait},
    name::Name,
    state::{Answer, Answers, Committer, Group, Prepared, TripView, Trips},
};

/// The trips of a store on a server, shared by any number of hosts, processes and threads.
///
/// Threads that share one value also share transactions: whoever comes first leads, and takes along who came meanwhile.
/// Connections are made when they are needed, and kept.
///
/// ```no_run
/// use triplock::{Acquire, Change, Name, Request, ServerTrips, StoreUrl, Trips, Wait};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let url: StoreUrl = "postgres://db.example/bookings".parse()?;
/// let trips = ServerTrips::new(url);
/// let (trip, student): (Name, _) = ("1".parse()?, "7".parse()?);
/// match trips.submit(&trip, &Request::new(Change::Book { student, seats: 1 }), Wait::Forever)? {
///     Acquire::Granted(answer) => println!("{}", answer.outcome()),
///     Acquire::Held(holder) => println!("trip 1 is locked, try later: {holder:?}"),
/// }
/// # Ok(())
/// # }
/// ```
pub struct ServerTrips {
    url: StoreUrl,
    /// Connections that nobody uses just now.
    idle: Mutex<Vec<Box<dyn Session>>>,
    groups: Mutex<HashMap<Name, Arc<Group>>>,
}

impl ServerTrips {
    /// Those of that server; it is connected to when something is asked.
    pub fn new(url: StoreUrl) -> Self {
        Self { url, idle: Mutex::default(), groups: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Box<dyn Session>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, act: impl Fn(&mut dyn Session) -> Result<T>) -> Result<T> {
        let idle = self.idle().pop();
        if let Some(session) = idle {
            match self.try_with(session, &act) {
                // The server may have closed it long ago; a new one will tell.
                Err(error) if is_unreachable(&error) => {}
                done => return done,
            }
        }
        self.try_with(connect(&self.url, PATIENCE)?, act)
    }

    fn try_with<T>(&self, mut session: Box<dyn Session>, act: impl Fn(&mut dyn Session) -> Result<T>) -> Result<T> {
        let done = act(&mut *session)?;
        self.idle().push(session);
        Ok(done)
    }

    /// A connection: one that lay idle, or a new one.
    fn session(&self) -> Result<Box<dyn Session>> {
        let idle = self.idle().pop();
        idle.map_or_else(|| connect(&self.url, PATIENCE), Ok)
    }

    /// Commits those requests. When a connection breaks, and when it cannot be known what came of them, asks again over
    /// another one until the patience is over: their ids tell what has been committed. Only the first connection must
    /// come about at once, so that a wrong URL does not look like a server that restarts.
    fn commit(&self, trip: &Name, requests: &[Prepared], until: Until) -> Result<Acquire<Answers>> {
        let mut session = self.session()?;
        let mut uncertain = None;
        let mut trying: Option<Trying> = None;
        loop {
            // Who has begun something waits until he knows what came of it.
            let until = match &trying {
                Some(trying) if uncertain.is_some() => Until::At(trying.deadline),
                _ => until,
            };
            let failure = match session.submit(trip, requests, uncertain.is_some(), until) {
                Ok(Acquire::Held(holder)) => return uncertain.map_or(Ok(Acquire::Held(holder)), Err),
                Ok(granted) => {
                    self.idle().push(session);
                    return Ok(granted);
                }
                Err(error) => error,
            };
            if matches!(failure, Error::Uncertain { .. }) {
                uncertain = Some(failure.clone());
            } else if !is_unreachable(&failure) {
                return Err(uncertain.unwrap_or(failure));
            }
            let trying = trying.get_or_insert_with(Trying::begin);
            session = loop {
                if !trying.may_go_on() {
                    return Err(uncertain.unwrap_or(failure));
                }
                // Those that lay idle are likely to be broken, too.
                self.idle().clear();
                match connect(&self.url, PATIENCE) {
                    Ok(session) => break session,
                    Err(error) if is_unreachable(&error) => {}
                    Err(error) => return Err(uncertain.unwrap_or(error)),
                }
            };
        }
    }
}

/// Trying again after a failure.
struct Trying {
    deadline: Instant,
    pause: Duration,
}

impl Trying {
    fn begin() -> Self {
        Self { deadline: Instant::now() + PATIENCE, pause: Duration::ZERO }
    }

    /// Pauses, longer each time; `false` when there is no time left.
    fn may_go_on(&mut self) -> bool {
        if Instant::now() + self.pause >= self.deadline {
            return false;
        }
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).clamp(Duration::from_millis(10), Duration::from_millis(500));
        true
    }
}

fn is_unreachable(error: &Error) -> bool {
    matches!(error, Error::Server { trouble: ServerTrouble::Unreachable, .. })
}

impl std::fmt::Debug for ServerTrips {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTrips").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Trips for ServerTrips {
    fn submit(&self, trip: &Name, request: &Request, wait: Wait) -> Result<Acquire<Answer>> {
        let group = {
            let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(groups.entry(trip.clone()).or_default())
        };
        group.submit(&OnServer { trips: self, trip }, trip, Prepared::one(request)?, wait.until())
    }

    fn submit_batch(&self, trip: &Name, requests: &[Request], wait: Wait) -> Result<Acquire<Vec<Answer>>> {
        match self.commit(trip, &Prepared::all(requests)?, wait.until())? {
            Acquire::Granted(answers) => answers.into_iter().collect::<Result<_>>().map(Acquire::Granted),
            Acquire::Held(holder) => Ok(Acquire::Held(holder)),
        }
    }

    fn show(&self, trip: &Name) -> Result<TripView> {
        let totals = self.with(|session| session.trip(trip))?.ok_or_else(|| Error::NoSuchTrip(trip.clone()))?;
        Ok(TripView { trip: trip.clone(), totals })
    }

    fn list(&self) -> Result<Vec<Result<TripView>>> {
        let trips = self.with(|session| session.trips())?;
        Ok(trips.into_iter().map(|(trip, totals)| Ok(TripView { trip, totals })).collect())
    }

    fn roster(&self, trip: &Name) -> Result<Roster> {
        self.with(|session| session.roster(trip))?.ok_or_else(|| Error::NoSuchTrip(trip.clone()))
    }
}

/// Commits a group of requests for a trip of the server.
struct OnServer<'s> {
    trips: &'s ServerTrips,
    trip: &'s Name,
}

impl Committer for OnServer<'_> {
    /// No lock of a trip outlives a call.
    fn is_held_here(&self) -> Result<bool> {
        Ok(false)
    }

    fn commit(&self, _own: &Prepared, until: Until, take: impl FnOnce() -> Vec<Prepared>) -> Result<Acquire<Answers>> {
        self.trips.commit(self.trip, &take(), until)
    }
}
