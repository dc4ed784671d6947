//! Redis as a store.
//!
//! **A booking is one script** ([`script`]): it looks up the request's id, decides, and commits, and nobody else's command
//! falls between. So the trip's lock is never held across the network: a lease taken, a commit and a release would be
//! three round trips and three syncs, and a client that died between them would keep everybody else out until the lease
//! expired. The rules are written a second time there; a test holds them against [`crate::booking::decide`].
//!
//! **A job is leased**: `SET NX PX` under a token of the holder's own, and a fence that goes up with each lease. Renewal and
//! release check the token, so who comes too late ends nobody else's lease; an append to the ledger checks it too, so who
//! has lost the lease commits nothing. A fence is `max(last + 1, server time in µs)`: a server that lost its data counts on
//! from its clock, and hands out no fence that somebody still holds.
//!
//! **Not Redlock.** Leases on a majority of independent servers would still be lost to a pause or a clock's jump between
//! the lease and the write, which only a fence stops; and a fence must be checked where the data is, on one server
//! (Martin Kleppmann, "How to do distributed locking", 2016). What the one server's failure costs is left to replication,
//! and told as it is: fail-over to a replica loses the commits and leases that had not reached it. `?wait_replicas=N` in
//! the URL makes answers wait for N of them.
//!
//! **How a lease is lost**: by expiry, which Redis counts on its machine's wall clock: set that forward, and leases end
//! early. The fence then stops what the former holder would commit.
//!
//! **Answered means durable** as far as the server is set to be: with `appendfsync always` it syncs what a round of its
//! loop wrote before it sends any reply of that round, reads' included, so a refusal too rests on what is on its disk. With
//! `wait_replicas` a script that changes nothing still writes the fence: since Redis 7.2 WAIT only waits for what the same
//! connection has written, and a refusal rests on what others wrote.
//!
//! **A connection** is one socket ([`wire`]). Without a password and a database number, nothing is said on it before the
//! first request: a booking is one round trip. With them there is one more, and it is waited for. Sent along with the
//! booking, a refused password or database would leave it booked by somebody else or in another database.

mod facts;
mod keys;
mod leases;
mod ledgers;
mod place;
mod reply;
mod script;
#[cfg(test)]
pub(super) mod tests;
mod trips;
mod trouble;
mod wire;

use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::{Cmd, Value};

use self::{
    place::Place,
    script::Script,
    trouble::{Failure, unreachable_because},
    wire::Wire,
};
use super::{Append, Attempt, Lease, LeaseView, LedgerHead, Resource, ServerFacts, Session, StoreUrl, Ticket, tls};
use crate::{
    booking::{Roster, Totals},
    error::{Error, Result, ServerTrouble},
    job::{Entry, Totals as JobTotals},
    lock::{Acquire, Holder, Until},
    name::Name,
    state::{Answer, Prepared},
};

/// Opens a session.
///
/// # Errors
/// `Server`: it cannot be reached, or refuses the password or the database.
pub(super) fn connect(url: &StoreUrl, patience: Duration) -> Result<Box<dyn Session>> {
    let place = Place::of(url)?;
    let wire = open(&place, patience)?;
    Ok(Box::new(RedisSession { place, patience, wire, listener: None }))
}

/// A connection that the server knows the user and the database of.
fn open(place: &Place, patience: Duration) -> Result<Wire> {
    let unreachable = |e: std::io::Error| match tls::trouble(&e) {
        Some(why) => Error::Server { server: place.shown.clone(), trouble: ServerTrouble::Misconfigured, why },
        None => Error::Server {
            server: place.shown.clone(),
            trouble: ServerTrouble::Unreachable,
            why: unreachable_because(&e),
        },
    };
    // A reply to WAIT takes as long as that.
    let patience = patience + place.replicas.map_or(Duration::ZERO, |replicas| replicas.timeout);
    let mut wire = Wire::connect(&place.address, patience).map_err(unreachable)?;
    let mut greeting = Vec::new();
    if let Some(password) = &place.password {
        let mut command = redis::cmd("AUTH");
        if let Some(user) = &place.user {
            command.arg(user);
        }
        command.arg(password.reveal());
        greeting.push(command);
    }
    if place.database != 0 {
        greeting.push(command("SELECT", [place.database.to_string()]));
    }
    if !greeting.is_empty() {
        let replies = wire.call(&greeting).map_err(Failure::Broken).and_then(accepted);
        replies.map_err(|failure| failure.error(&place.shown))?;
    }
    Ok(wire)
}

/// One connection, and another that listens once somebody waits.
struct RedisSession {
    place: Place,
    patience: Duration,
    wire: Wire,
    listener: Option<(Resource, Wire)>,
}

/// A command with those arguments.
fn command<A: redis::ToRedisArgs>(name: &str, arguments: impl IntoIterator<Item = A>) -> Cmd {
    let mut command = redis::cmd(name);
    for argument in arguments {
        command.arg(argument);
    }
    command
}

/// The replies, if no command was refused.
fn accepted(replies: Vec<Value>) -> Result<Vec<Value>, Failure> {
    replies
        .into_iter()
        .map(|reply| match reply {
            Value::ServerError(error) => Err(Failure::Refused(error)),
            other => Ok(other),
        })
        .collect()
}

impl RedisSession {
    /// Commands that change nothing, and their replies.
    fn ask(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Failure> {
        let mut replies = Vec::with_capacity(commands.len());
        // Neither side has to keep more than so many.
        for some in commands.chunks(1000) {
            replies.extend(self.wire.call(some).map_err(Failure::Broken).and_then(accepted)?);
        }
        Ok(replies)
    }

    /// The only reply of one command.
    fn ask_one(&mut self, command: Cmd) -> Result<Value, Failure> {
        let [reply] = reply::array(Value::Array(self.ask(&[command])?))?;
        Ok(reply)
    }

    /// Runs a script; with it, but before, `first`. Waits for the replicas that the URL asks for, if `durably`.
    ///
    /// The inner error: it is done, and too few have it.
    fn run(
        &mut self,
        first: Option<Cmd>,
        script: &Script,
        call: Cmd,
        durably: bool,
    ) -> Result<Result<Value, String>, Failure> {
        // By itself: if it is refused, nothing of the script may have happened.
        if let Some(first) = first {
            accepted(self.wire.call(&[first]).map_err(Failure::Broken)?)?;
        }
        let (mut commands, mut at) = (vec![call], 0);
        let replicas = self.place.replicas.filter(|_| durably);
        if let Some(replicas) = replicas {
            let timeout = replicas.timeout.as_millis().to_string();
            commands.push(command("WAIT", [replicas.count.to_string(), timeout]));
        }
        let mut replies = self.wire.call(&commands).map_err(Failure::Broken)?;
        if is_no_script(&replies[at]) {
            commands.insert(at, script.load());
            at += 1;
            replies = self.wire.call(&commands).map_err(Failure::Broken)?;
        }
        let waited = replies.split_off(at + 1);
        let done = accepted(replies)?.swap_remove(at);
        let needed = replicas.map_or(0, |replicas| i64::from(replicas.count));
        Ok(match waited.first() {
            None => Ok(done),
            Some(Value::Int(have)) if *have >= needed => Ok(done),
            Some(Value::Int(have)) => {
                Err(format!("it is done, but {have} replicas have it and wait_replicas asks for {needed}"))
            }
            Some(_) => Err("it is done, but it does not say how many replicas have it".to_owned()),
        })
    }

    /// As [`Self::run`], of what must not be done twice.
    fn commit(&mut self, first: Option<Cmd>, script: &Script, call: Cmd) -> Result<Value> {
        let server = self.place.shown.clone();
        self.run(first, script, call, true)
            .map_err(|failure| failure.of_commit(&server))?
            .map_err(|why| Error::Uncertain { request_id: None, why: format!("{server}: {why}") })
    }

    fn error(&self) -> impl Fn(Failure) -> Error + use<> {
        let server = self.place.shown.clone();
        move |failure| failure.error(&server)
    }
}

fn is_no_script(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

impl Session for RedisSession {
    fn submit(
        &mut self,
        trip: &Name,
        requests: &[Prepared],
        retry: bool,
        until: Until,
    ) -> Result<Acquire<Vec<Result<Answer>>>> {
        trips::submit(self, trip, requests, retry, until)
    }

    fn trip(&mut self, trip: &Name) -> Result<Option<Totals>> {
        trips::totals(self, trip).map_err(self.error())
    }

    fn trips(&mut self) -> Result<Vec<(Name, Totals)>> {
        trips::list(self).map_err(self.error())
    }

    fn roster(&mut self, trip: &Name) -> Result<Option<Roster>> {
        trips::roster(self, trip).map_err(self.error())
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
        leases::leave(self, resource, ticket).map_err(self.error())
    }

    fn wait_for_release(&mut self, resource: &Resource, at_most: Duration) -> Result<bool> {
        leases::wait_for_release(self, resource, at_most)
    }

    fn renew(&mut self, lease: &mut Lease) -> Result<bool> {
        leases::renew(self, lease)
    }

    fn release(&mut self, lease: &Lease) -> Result<bool> {
        leases::release(self, lease).map_err(self.error())
    }

    fn forget(&mut self, resource: &Resource) -> Result<()> {
        leases::forget(self, resource).map_err(self.error())
    }

    fn leases(&mut self) -> Result<Vec<LeaseView>> {
        leases::list(self).map_err(self.error())
    }

    fn ledger(&mut self, job: &Name) -> Result<LedgerHead> {
        ledgers::head(self, job).map_err(self.error())
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
        ledgers::entries(self, job, before, most).map_err(self.error())
    }

    fn jobs(&mut self) -> Result<Vec<(Name, JobTotals)>> {
        ledgers::list(self).map_err(self.error())
    }

    fn now(&mut self) -> Result<DateTime<Utc>> {
        ledgers::now(self).map_err(self.error())
    }

    fn facts(&mut self) -> Result<ServerFacts> {
        facts::facts(self).map_err(self.error())
    }
}
