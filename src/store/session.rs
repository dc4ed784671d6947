//! What a store on a server can do: one connection, one caller at a time, and no call takes longer than the session's
//! patience (a wait that was asked for excepted).
//!
//! A call that fails leaves a session that must not be used again; open another.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{
    Ticket,
    lease::{Attempt, Lease, LeaseView, Resource},
};
use crate::{
    booking::{Roster, Totals},
    error::Result,
    job::{Entry, Totals as JobTotals},
    lock::{Acquire, Holder, Until},
    name::Name,
    state::{Answer, Prepared},
};

/// One connection to a store on a server.
pub(crate) trait Session: Send {
    // Trips. The trip's lock is taken, the changes are made and the lock is released within one call.

    /// Decides all requests in their order under the trip's lock, and commits them as one: all or nothing under a crash.
    /// Each has its own answer, given once it is as durable as the server makes it; that one is refused does not keep the
    /// others back. `retry`: an earlier attempt may have committed them, so their ids are looked up even when they are
    /// not the caller's.
    ///
    /// # Errors
    /// The outer error: nothing was committed; or `Uncertain`, when that cannot be known. The inner one is a request's:
    /// `NoSuchTrip`.
    fn submit(
        &mut self,
        trip: &Name,
        requests: &[Prepared],
        retry: bool,
        until: Until,
    ) -> Result<Acquire<Vec<Result<Answer>>>>;

    /// A trip's sums; `None` when there is no such trip (any more).
    fn trip(&mut self, trip: &Name) -> Result<Option<Totals>>;

    /// Every trip that is there, in byte order of the names.
    fn trips(&mut self) -> Result<Vec<(Name, Totals)>>;

    /// A trip with its bookings, as of one moment.
    fn roster(&mut self, trip: &Name) -> Result<Option<Roster>>;

    // Leases.

    /// Asks once for the first free slot of `1..=slots`. The holder's note is kept with the fence that is given: larger
    /// than any before of the resource, also after the server has lost its data
    /// (`max(last + 1, server time in microseconds)`).
    ///
    /// Who waits for a resource stands in its lane ([`super::ticket`] says why it is done so):
    /// - With a ticket, a request that is not granted leaves it in the lane, under the next number, or renews it where it
    ///   is; a request that is granted removes it. A ticket whose time is over is none: it is put at the end again.
    /// - A slot is granted to nobody who has a live ticket of somebody else in front; who has no ticket in the lane comes
    ///   after all, and with an urgent one before all that are not. What is told then is a slot that is held; or, if one
    ///   is free, the first who waits for it.
    /// - When a grant leaves a slot free and somebody in the lane, who waits is woken.
    ///
    /// All of it is one step, and as many round trips whether there is a lane or not.
    fn acquire_in_turn(
        &mut self,
        resource: &Resource,
        slots: u32,
        ttl: Duration,
        holder: &Holder,
        ticket: Option<&Ticket>,
    ) -> Result<Attempt>;

    /// The same for who does not wait in the lane.
    fn acquire(&mut self, resource: &Resource, slots: u32, ttl: Duration, holder: &Holder) -> Result<Attempt> {
        self.acquire_in_turn(resource, slots, ttl, holder, None)
    }

    /// Gives a ticket back and wakes who waits; `false` when it was not in the lane (any more).
    fn leave(&mut self, resource: &Resource, ticket: &Ticket) -> Result<bool>;

    /// Sleeps until a lease of the resource may have been released, and says so, or until the time is over. It may err on
    /// the side of waking too often. The first call for a resource begins to listen, so ask for the lease again after
    /// it: what was released before went unheard.
    fn wait_for_release(&mut self, resource: &Resource, at_most: Duration) -> Result<bool>;

    /// Lets the lease last its time to live from now, and moves its deadline; `false` when it is no longer ours.
    fn renew(&mut self, lease: &mut Lease) -> Result<bool>;

    /// Gives the lease back and wakes who waits; `false` when it was no longer ours.
    fn release(&mut self, lease: &Lease) -> Result<bool>;

    /// Removes the leases, the lane and the fence of a resource that nobody will ask for again: a later fence of it would come from
    /// the server's clock alone. What is a trip or a job as well is left as it is.
    fn forget(&mut self, resource: &Resource) -> Result<()>;

    /// All leases that are held now, whoever waits for them.
    fn leases(&mut self) -> Result<Vec<LeaseView>>;

    // Ledgers of jobs.

    /// A job's sums, their revision, and the server's time.
    fn ledger(&mut self, job: &Name) -> Result<LedgerHead>;

    /// Appends entries and replaces the sums, if nobody has appended since `head` was read and, with a lease, if that is
    /// still held: all in one step.
    fn append(
        &mut self,
        job: &Name,
        head: &LedgerHead,
        entries: &[Entry],
        totals: &JobTotals,
        lease: Option<&Lease>,
    ) -> Result<Append>;

    /// At most so many entries of a job, the newest first, each with its number; only those with a smaller number than
    /// `before`.
    fn entries(&mut self, job: &Name, before: Option<u64>, most: usize) -> Result<Vec<(u64, Entry)>>;

    /// Every job that has a ledger, in byte order, with its sums.
    fn jobs(&mut self) -> Result<Vec<(Name, JobTotals)>>;

    // The server.

    /// The server's time.
    fn now(&mut self) -> Result<DateTime<Utc>>;

    /// What it is and what it promises.
    fn facts(&mut self) -> Result<ServerFacts>;
}

/// The head of a job's ledger.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LedgerHead {
    /// How many entries were ever appended.
    pub(crate) revision: u64,
    pub(crate) totals: JobTotals,
    /// The server's time when it was read.
    pub(crate) now: DateTime<Utc>,
}

/// What came of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Append {
    Done,
    /// Somebody has appended meanwhile: read the head again.
    Moved,
    /// The lease is no longer ours: nothing was appended.
    LeaseLost,
}

/// What `doctor` shows of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerFacts {
    /// `PostgreSQL 15.18`, `Redis 7.0.15`.
    pub(crate) product: String,
    /// Whether the connection is encrypted.
    pub(crate) is_encrypted: bool,
    /// It takes no writes.
    pub(crate) is_replica: bool,
    /// What it promises, a setting a line: `appendfsync always: an answer is on its disk`.
    pub(crate) durability: Vec<String>,
    /// What is wrong with it as a store, and what to do; each a line.
    pub(crate) problems: Vec<String>,
}
