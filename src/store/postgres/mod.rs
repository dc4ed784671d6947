//! `PostgreSQL` as a store.
//!
//! All that is kept there lies in tables of a schema of its own, `triplock` (schema.sql), made when it is first missed. One
//! message is one round trip, and most of what is asked here is one message. Nothing is left behind in the session
//! ([`client`]), so it works through a pooler that gives each transaction another one.
//!
//! Names are always written with their schema, so no `search_path` leads elsewhere.

mod client;
mod closing;
mod connect;
mod draft;
mod facts;
mod failure;
mod holder;
mod lane;
mod leases;
mod ledgers;
mod literal;
mod opening;
mod record;
mod row;
mod row_lock;
mod schema;
mod script;
#[cfg(test)]
pub(super) mod tests;
mod trips;

use std::time::Duration;

use chrono::{DateTime, Utc};

use self::{client::Client, failure::changed, row::NOW};
use super::{Append, Attempt, Lease, LeaseView, LedgerHead, Resource, ServerFacts, Session, StoreUrl, Ticket};
use crate::{
    booking::{Roster, Totals},
    error::Result,
    job::{Entry, Totals as JobTotals},
    lock::{Acquire, Holder, Until},
    name::Name,
    state::{Answer, Prepared},
};

pub(crate) use row_lock::RowLock;

/// One connection.
struct PostgresSession {
    client: Client,
    /// Whether it hears of releases.
    listens: bool,
}

pub(super) fn connect(url: &StoreUrl, patience: Duration) -> Result<Box<dyn Session>> {
    Ok(Box::new(PostgresSession { client: open(url, patience)?, listens: false }))
}

fn open(url: &StoreUrl, patience: Duration) -> Result<Client> {
    Client::connect(connect::Way::to(url, patience)?, url.to_string(), patience)
}

impl Session for PostgresSession {
    fn submit(
        &mut self,
        trip: &Name,
        requests: &[Prepared],
        retry: bool,
        until: Until,
    ) -> Result<Acquire<Vec<Result<Answer>>>> {
        trips::submit(&mut self.client, trip, requests, retry, until)
    }

    fn trip(&mut self, trip: &Name) -> Result<Option<Totals>> {
        trips::trip(&mut self.client, trip)
    }

    fn trips(&mut self) -> Result<Vec<(Name, Totals)>> {
        trips::trips(&mut self.client)
    }

    fn roster(&mut self, trip: &Name) -> Result<Option<Roster>> {
        trips::roster(&mut self.client, trip)
    }

    fn acquire_in_turn(
        &mut self,
        resource: &Resource,
        slots: u32,
        ttl: Duration,
        holder: &Holder,
        ticket: Option<&Ticket>,
    ) -> Result<Attempt> {
        leases::acquire(self, resource, slots, ttl, holder, ticket)
    }

    fn leave(&mut self, resource: &Resource, ticket: &Ticket) -> Result<bool> {
        lane::leave(self, resource, ticket)
    }

    fn wait_for_release(&mut self, resource: &Resource, at_most: Duration) -> Result<bool> {
        leases::wait_for_release(self, resource, at_most)
    }

    fn renew(&mut self, lease: &mut Lease) -> Result<bool> {
        leases::renew(self, lease)
    }

    fn release(&mut self, lease: &Lease) -> Result<bool> {
        leases::release(self, lease)
    }

    fn forget(&mut self, resource: &Resource) -> Result<()> {
        leases::forget(self, resource)
    }

    fn leases(&mut self) -> Result<Vec<LeaseView>> {
        leases::leases(self)
    }

    fn ledger(&mut self, job: &Name) -> Result<LedgerHead> {
        ledgers::head(self, job)
    }

    fn append(
        &mut self,
        job: &Name,
        head: &LedgerHead,
        entries: &[Entry],
        totals: &JobTotals,
        lease: Option<&Lease>,
    ) -> Result<Append> {
        ledgers::append(self, job, head, entries, totals, lease)
    }

    fn entries(&mut self, job: &Name, before: Option<u64>, most: usize) -> Result<Vec<(u64, Entry)>> {
        ledgers::entries(self, job, before, most)
    }

    fn jobs(&mut self) -> Result<Vec<(Name, JobTotals)>> {
        ledgers::jobs(self)
    }

    fn now(&mut self) -> Result<DateTime<Utc>> {
        let answers = self.client.ask(&format!("SELECT {NOW}"))?;
        let time = answers.first().and_then(|rows| rows.first()).ok_or_else(|| "no time".to_owned());
        time.and_then(|row| row.time(0)).map_err(|why| changed(self.client.server(), &why))
    }

    fn facts(&mut self) -> Result<ServerFacts> {
        facts::facts(&mut self.client)
    }
}
