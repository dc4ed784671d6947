//! The keys of a name. All of them share what stands in braces, so a cluster would keep them on one node, and a script
//! touches no others.
//!
//! | key | what |
//! |---|---|
//! | `triplock:{trips/1}:head` | hash: `format`, `fence`, and the sums: `revision`, `added`, `seats`, `left`, `bookings` |
//! | `triplock:{trips/1}:booked` | hash: student → seats |
//! | `triplock:{trips/1}:id:ID` | what the request of that id came to; expires after 30 days |
//! | `triplock:{trips/1}:lease:1` | whoever holds the trip: token, fence, note; expires with the lease |
//! | `triplock:{jobs/nightly}:head` | hash: `format`, `fence`, `slots`, `revision`, `totals` |
//! | `triplock:{jobs/nightly}:entries` | stream: the ledger, an entry `N-0` for the N-th |
//! | `triplock:{jobs/nightly}:lease:N` | whoever holds slot N |
//! | `triplock:{jobs/nightly}:lane` | sorted set: who waits for a lease of the name, ticket → place |
//! | `triplock:{jobs/nightly}:tickets` | hash: ticket → when it is over (µs) and the note of who waits; `last`: the last number |
//! | `triplock:{jobs/nightly}:released` | channel: a lease of the name was given back, or a ticket |
//! | `triplock:names` | set: every `trips/1`, `jobs/nightly` … that there may be |
//!
//! Lane and tickets expire with the last ticket that was renewed.
//!
//! The format is one for each name, not one for the store: it is read with the head that every script reads anyway, and
//! two versions may share a server as long as they do not touch the same name.
//!
//! `names` is for listings. To SCAN for them would walk through every key of the database, request ids and other
//! programs' keys included. It is written *before* the name's own keys, so a crash between the two leaves a name too many,
//! which a listing finds to be nothing, and never one too few. It is never tidied: a head outlives its trip or lease,
//! for its fence.

use crate::{name::Name, store::Resource};

/// The set of all names.
pub(super) const NAMES: &str = "triplock:names";

/// What the names of trips begin with in [`NAMES`].
pub(super) const TRIPS: &str = "trips/";

/// The same of jobs.
pub(super) const JOBS: &str = "jobs/";

/// The keys of one name.
pub(super) struct Keys {
    tag: String,
}

impl Keys {
    pub(super) fn of_trip(trip: &Name) -> Self {
        Self { tag: format!("{TRIPS}{trip}") }
    }

    pub(super) fn of_job(job: &Name) -> Self {
        Self { tag: format!("{JOBS}{job}") }
    }

    /// A lease of a trip's name keeps its bookings out, so it belongs to the trip's keys.
    pub(super) fn of(resource: &Resource) -> Self {
        match resource {
            Resource::Named(name) => Self::of_trip(name),
            other => Self { tag: other.key() },
        }
    }

    /// The inverse of [`Keys::of`], from what stands in [`NAMES`].
    pub(super) fn resource(tag: &str) -> Option<Resource> {
        match tag.strip_prefix(TRIPS) {
            Some(name) => name.parse().ok().map(Resource::Named),
            None => Resource::from_key(tag),
        }
    }

    /// As it stands in [`NAMES`].
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    pub(super) fn head(&self) -> String {
        self.key("head")
    }

    pub(super) fn booked(&self) -> String {
        self.key("booked")
    }

    pub(super) fn id(&self, id: &str) -> String {
        format!("triplock:{{{}}}:id:{id}", self.tag)
    }

    pub(super) fn lease(&self, slot: u32) -> String {
        format!("triplock:{{{}}}:lease:{slot}", self.tag)
    }

    pub(super) fn lane(&self) -> String {
        self.key("lane")
    }

    pub(super) fn tickets(&self) -> String {
        self.key("tickets")
    }

    /// What a lease is asked for with: head, lane and tickets, then the lease of each slot.
    pub(super) fn all(&self, slots: u32) -> Vec<String> {
        [self.head(), self.lane(), self.tickets()].into_iter().chain((1..=slots).map(|slot| self.lease(slot))).collect()
    }

    pub(super) fn entries(&self) -> String {
        self.key("entries")
    }

    pub(super) fn released(&self) -> String {
        self.key("released")
    }

    fn key(&self, what: &str) -> String {
        format!("triplock:{{{}}}:{what}", self.tag)
    }
}
