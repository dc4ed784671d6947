//! A job's ledger on a server.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, SubsecRound as _, Utc};

use crate::{
    clock::BootTime,
    error::{Error, Result, ServerTrouble},
    job::{
        keeping::Lines,
        ledger::Appended,
        model::{Ended, Entry, Event, Outcome, RunId, Totals},
    },
    lock::Identity,
    name::Name,
    process,
    store::{Append, Connection, Lease, PATIENCE},
};

/// How long to rest before a server that did not answer is asked again.
const REST: Duration = Duration::from_millis(100);

/// Among so many entries the end of a run is that is over for less than a lease.
const NEWEST: usize = 1000;

/// A job's ledger on a server, for who appends to it. Its lines have the server's time.
pub(crate) struct ServerLedger<'a> {
    connection: &'a Mutex<Connection>,
    job: &'a Name,
    identity: Identity,
    now: Mutex<DateTime<Utc>>,
    /// What each line is to prove, once there is a run.
    lease: Mutex<Option<Lease>>,
}

impl<'a> ServerLedger<'a> {
    pub(super) fn new(connection: &'a Mutex<Connection>, job: &'a Name) -> Self {
        // Until the server has told its time, which it does with the first look.
        let (now, lease) = (Mutex::new(Utc::now()), Mutex::new(None));
        Self { connection, job, identity: Identity::current(), now, lease }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// From now on only who has that lease appends.
    pub(super) fn prove(&self, lease: Lease) {
        *lock(&self.lease) = Some(lease);
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        lock(self.connection)
    }

    /// As [`Lines::append`], with the server's time.
    pub(super) fn append_at(&self, decide: &mut dyn FnMut(&Totals, DateTime<Utc>) -> Vec<Event>) -> Result<()> {
        self.append(&mut |totals| decide(totals, *lock(&self.now))).map(drop)
    }

    /// As [`Lines::observe`], with the server's time.
    pub(super) fn observe_at(&self, decide: &mut dyn FnMut(&Totals, DateTime<Utc>) -> Vec<Event>) -> Result<()> {
        self.observe(&mut |totals| decide(totals, *lock(&self.now)))
    }

    /// One append, to whatever the ledger is by then.
    fn try_append(&self, decide: &mut dyn FnMut(&Totals) -> Vec<Event>, lease: Option<&Lease>) -> Result<Append> {
        let mut connection = self.connection();
        loop {
            let head = connection.call(|session| session.ledger(self.job))?;
            let time = head.now.trunc_subsecs(6);
            *lock(&self.now) = time;
            let events = decide(&head.totals);
            if events.is_empty() {
                return Ok(Append::Done);
            }
            let stamp = |event| {
                let is_first = matches!(event, Event::Started(_) | Event::NotRun(_));
                let invocation_id = self.identity.invocation_id().filter(|_| is_first).map(str::to_owned);
                Entry { time, host: self.identity.host().to_owned(), pid: self.identity.pid(), invocation_id, event }
            };
            let entries: Vec<_> = events.into_iter().map(stamp).collect();
            let totals = entries.iter().fold(head.totals.clone(), Totals::after);
            match connection.call(|session| session.append(self.job, &head, &entries, &totals, lease))? {
                Append::Moved => {}
                done => return Ok(done),
            }
        }
    }
}

impl Lines for ServerLedger<'_> {
    fn now(&self) -> DateTime<Utc> {
        // As good as the server's, unless the run has lasted: then only the server knows.
        match self.connection().call(|session| session.now()) {
            Ok(now) => now.trunc_subsecs(6),
            Err(_) => *lock(&self.now),
        }
    }

    /// A server that does not answer is asked again until the lease is over: what was appended unheard is in the sums that
    /// `decide` is asked about then.
    fn append(&self, decide: &mut dyn FnMut(&Totals) -> Vec<Event>) -> Result<Option<Appended>> {
        let lease = lock(&self.lease).clone();
        loop {
            match self.try_append(decide, lease.as_ref()) {
                Ok(Append::Done | Append::Moved) => return Ok(None),
                Ok(Append::LeaseLost) => return Err(Error::LockLost(self.job.clone())),
                Err(e) => {
                    let Some(lease) = &lease else { return Err(e) };
                    let may_pass = matches!(
                        e,
                        Error::Server { trouble: ServerTrouble::Unreachable, .. } | Error::Uncertain { .. }
                    );
                    if !may_pass {
                        return Err(e);
                    }
                    // Whoever wants us gone is not kept for the rest of the lease.
                    if lease.deadline.left().is_zero() || process::is_asked_to_end() {
                        return Err(Error::LockLost(self.job.clone()));
                    }
                    thread::sleep(REST.min(lease.deadline.left()));
                }
            }
        }
    }

    fn observe(&self, decide: &mut dyn FnMut(&Totals) -> Vec<Event>) -> Result<()> {
        self.try_append(decide, None).map(drop)
    }

    fn totals(&self) -> Result<Totals> {
        Ok(self.connection().call(|session| session.ledger(self.job))?.totals)
    }

    /// What cannot be read says nothing for us.
    fn was_lost(&self, run: RunId) -> bool {
        let until = Instant::now() + PATIENCE;
        let newest = loop {
            match self.connection().call(|session| session.entries(self.job, None, NEWEST)) {
                Err(_) if Instant::now() < until => thread::sleep(REST),
                newest => break newest,
            }
        };
        let outcome = newest.ok().and_then(|entries| {
            entries.into_iter().find_map(|(_, entry)| match entry.event {
                Event::Ended(Ended { run: ended, outcome, .. }) if ended == run => Some(outcome),
                _ => None,
            })
        });
        outcome.is_none_or(|outcome| outcome == Outcome::LeaseLost)
    }

    /// Whatever the server has confirmed is as durable as it makes anything.
    fn distrust(&self) {}
}

/// For the keeper of the leases: the deadline moves with each renewal.
impl ServerLedger<'_> {
    pub(super) fn extend(&self, deadline: BootTime) {
        if let Some(lease) = lock(&self.lease).as_mut() {
            lease.deadline = deadline;
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each is left whole, whoever panics.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
