//! The trips of a store on a server.

use std::sync::{Mutex, PoisonError};

use super::{PATIENCE, Session, StoreUrl, connect};
use crate::{
    booking::{Request, Roster},
    error::{Error, Result},
    lock::{Acquire, Wait},
    name::Name,
    state::{Answer, Prepared, TripView, Trips},
};

/// The trips of a server, shared by any number of hosts, processes and threads.
pub(crate) struct ServerTrips {
    url: StoreUrl,
    session: Mutex<Option<Box<dyn Session>>>,
}

impl ServerTrips {
    /// Those of that server; it is connected to when something is asked.
    pub(crate) fn new(url: StoreUrl) -> Self {
        Self { url, session: Mutex::default() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut dyn Session) -> Result<T>) -> Result<T> {
        let mut slot = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let mut session = match slot.take() {
            Some(session) => session,
            None => connect(&self.url, PATIENCE)?,
        };
        let done = act(&mut *session);
        if done.is_ok() {
            *slot = Some(session);
        }
        done
    }
}

impl Trips for ServerTrips {
    fn submit(&self, trip: &Name, request: &Request, wait: Wait) -> Result<Acquire<Answer>> {
        let prepared = [Prepared::one(request)?];
        let answers = self.with(|session| session.submit(trip, &prepared, false, wait.until()))?;
        match answers {
            Acquire::Granted(answers) => {
                let answer = answers.into_iter().next().unwrap_or_else(|| unreachable!("one request, one answer"));
                answer.map(Acquire::Granted)
            }
            Acquire::Held(holder) => Ok(Acquire::Held(holder)),
        }
    }

    fn submit_batch(&self, trip: &Name, requests: &[Request], wait: Wait) -> Result<Acquire<Vec<Answer>>> {
        let prepared = Prepared::all(requests)?;
        match self.with(|session| session.submit(trip, &prepared, false, wait.until()))? {
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
