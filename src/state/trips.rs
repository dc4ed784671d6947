//! Trips, wherever they are kept.

use super::{Answer, Store, TripView};
use crate::{
    booking::{Request, Roster},
    error::Result,
    lock::{Acquire, Wait},
    name::Name,
};

/// What can be asked of trips: the same of a state directory ([`Store`]) and of a server.
pub trait Trips: Send + Sync {
    /// As [`Store::submit`].
    fn submit(&self, trip: &Name, request: &Request, wait: Wait) -> Result<Acquire<Answer>>;

    /// As [`Store::submit_batch`].
    fn submit_batch(&self, trip: &Name, requests: &[Request], wait: Wait) -> Result<Acquire<Vec<Answer>>>;

    /// As [`Store::show`].
    fn show(&self, trip: &Name) -> Result<TripView>;

    /// As [`Store::list`].
    fn list(&self) -> Result<Vec<Result<TripView>>>;

    /// As [`Store::roster`].
    fn roster(&self, trip: &Name) -> Result<Roster>;

    /// As [`Store::tidy`].
    fn tidy(&self) {}
}

impl Trips for Store {
    fn submit(&self, trip: &Name, request: &Request, wait: Wait) -> Result<Acquire<Answer>> {
        self.submit(trip, request, wait)
    }

    fn submit_batch(&self, trip: &Name, requests: &[Request], wait: Wait) -> Result<Acquire<Vec<Answer>>> {
        self.submit_batch(trip, requests, wait)
    }

    fn show(&self, trip: &Name) -> Result<TripView> {
        self.show(trip)
    }

    fn list(&self) -> Result<Vec<Result<TripView>>> {
        self.list()
    }

    fn roster(&self, trip: &Name) -> Result<Roster> {
        self.roster(trip)
    }

    fn tidy(&self) {
        self.tidy();
    }
}
