//! Getting the leases of a run: a slot of its job, then the named locks in byte order, as with files
//! ([`crate::job::acquire`] says why in one order).
//!
//! Who waits takes a ticket with its first request ([`crate::store`] keeps the order), then sleeps until the server says that
//! a lease or a ticket was given back; a holder that is gone gives nothing back, so it asks again when the lease, or the
//! ticket in front of it, should be over. It asks every few seconds in any case, which keeps its ticket. What it has already
//! is renewed meanwhile. A ticket that did not come to its turn is given back, however the wait ended.
//!
//! A replacement has an urgent ticket for the job, whose run it takes the place of; for further locks it waits like
//! everybody: they are other jobs' as well, and one that is replaced every minute would keep those out for ever.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::ledger::ServerLedger;
use crate::{
    clock::BootTime,
    error::{Error, Result},
    held::Held,
    job::{
        keeping::Lines as _,
        lifeline::Terms,
        model::{EndRequest, Event, Request, Running},
        options::{Options, Policy},
    },
    lock::{Deferred, Holder, Until, arrived},
    name::Name,
    store::{Attempt, Connection, HeldLease, Lease, Resource, Ticket},
};

/// How long a signal goes unnoticed while the server is listened to.
const SLICE: Duration = Duration::from_millis(200);

/// The leases of a run: its job's first.
#[derive(Debug)]
pub(crate) struct Leases {
    pub(crate) all: Vec<Lease>,
    pub(crate) waited: Duration,
}

impl Leases {
    pub(super) fn job(&self) -> &Lease {
        &self.all[0]
    }

    /// Until when all of them surely last.
    pub(crate) fn deadline(&self) -> BootTime {
        self.all.iter().map(|lease| lease.deadline).min().unwrap_or(BootTime::now())
    }
}

/// What asking for them came to.
pub(super) enum Acquired {
    Granted(Leases),
    /// Somebody holds that one, or waits for it in front of us.
    Busy {
        resource: Resource,
        held: HeldLease,
        waited: Duration,
    },
    /// A run that we belong to holds that one.
    Nested {
        resource: Resource,
        waited: Duration,
    },
    /// A signal ended the wait.
    Interrupted {
        signal: i32,
        waited: Duration,
    },
}

/// Who asks, and for what.
pub(super) struct Asking<'a> {
    pub(super) connection: &'a Mutex<Connection>,
    pub(super) ledger: &'a ServerLedger<'a>,
    pub(super) options: &'a Options,
    pub(super) terms: Terms,
    pub(super) held: &'a Held,
    pub(super) job: &'a Name,
    /// Told before a wait: which lock, and who holds it.
    pub(super) announce: &'a dyn Fn(&str, Option<&Holder>),
}

/// Why a lease was not had.
pub(crate) enum Not {
    Busy(HeldLease),
    Nested,
    Interrupted(i32),
}

/// One lease that is wanted.
pub(crate) struct Want<'a> {
    pub(crate) connection: &'a Mutex<Connection>,
    pub(crate) resource: &'a Resource,
    pub(crate) slots: u32,
    pub(crate) terms: Terms,
    /// Who wants it.
    pub(crate) note: Holder,
    /// Our place in the lane, if we are to wait.
    pub(crate) ticket: Option<Ticket>,
}

impl Want<'_> {
    /// Asks once.
    pub(crate) fn ask(&self) -> Result<Attempt> {
        let (resource, slots, lease, ticket) = (self.resource, self.slots, self.terms.lease, self.ticket.as_ref());
        lock(self.connection).call(|session| session.acquire_in_turn(resource, slots, lease, &self.note, ticket))
    }

    /// Gives the ticket back, so that those behind us need not wait until it is over.
    pub(crate) fn leave(&self) {
        if let Some(ticket) = &self.ticket {
            let _ = lock(self.connection).call(|session| session.leave(self.resource, ticket));
        }
    }

    /// Waits for what somebody else has, while `ours` are kept. TERM, INT and HUP end the wait, if they are deferred.
    /// `still_held`: called whenever somebody turns out to have it.
    pub(crate) fn wait(
        &self,
        held: HeldLease,
        until: Until,
        ours: &mut [Lease],
        still_held: &dyn Fn() -> Result<()>,
    ) -> Result<Result<Lease, Not>> {
        let waited = self.wait_in_lane(held, until, ours, still_held);
        match &waited {
            // Who cannot reach the server would only wait for it once more.
            Ok(Ok(_)) | Err(Error::Server { .. }) => {}
            Ok(Err(_)) | Err(_) => self.leave(),
        }
        waited
    }

    fn wait_in_lane(
        &self,
        mut held: HeldLease,
        until: Until,
        ours: &mut [Lease],
        still_held: &dyn Fn() -> Result<()>,
    ) -> Result<Result<Lease, Not>> {
        let mut asked = Instant::now();
        // Whatever was released before the first call went unheard.
        let mut is_heard = false;
        loop {
            if let Some(signal) = arrived() {
                return Ok(Err(Not::Interrupted(signal)));
            }
            self.keep(ours)?;
            let left = match until {
                Until::At(at) => at.saturating_duration_since(Instant::now()),
                Until::Now | Until::Never => SLICE,
            };
            let may_be_free = if left.is_zero() {
                true
            } else {
                let (resource, slice) = (self.resource, left.min(SLICE));
                let heard = lock(self.connection).call(|session| session.wait_for_release(resource, slice))?;
                heard || !std::mem::replace(&mut is_heard, true) || asked.elapsed() >= held.left.min(Ticket::RENEWAL)
            };
            if may_be_free {
                match self.ask()? {
                    Attempt::Granted(lease) => return Ok(Ok(lease)),
                    Attempt::Held(now) => held = now,
                }
                if left.is_zero() {
                    return Ok(Err(Not::Busy(held)));
                }
                still_held()?;
                asked = Instant::now();
            }
        }
    }

    /// Renews what we have while we wait for the next.
    fn keep(&self, ours: &mut [Lease]) -> Result<()> {
        for lease in ours {
            if lease.deadline.left() > self.terms.lease.saturating_sub(self.terms.renewal()) {
                continue;
            }
            if !lock(self.connection).call(|session| session.renew(lease))? {
                return Err(Error::LockLost(lease.resource.name().clone()));
            }
        }
        Ok(())
    }
}

impl Asking<'_> {
    pub(super) fn acquire(&self) -> Result<Acquired> {
        let begun = Instant::now();
        let until = match self.options.policy {
            Policy::Skip => Until::Now,
            Policy::Wait(wait) => wait.until(),
            Policy::Replace => Until::Never,
        };
        // TERM, INT and HUP end the wait, and are recorded.
        let _deferred = Deferred::begin();
        let mut all = Vec::new();
        let job = Resource::Job(self.job.clone());
        let named = self.options.locks.iter().cloned().map(Resource::Lock);
        for resource in std::iter::once(job).chain(named) {
            let asked = self.one(&resource, until, &mut all);
            let not = match asked {
                Ok(Ok(lease)) => {
                    all.push(lease);
                    continue;
                }
                Ok(Err(not)) => Ok(not),
                Err(e) => Err(e),
            };
            self.release(&all);
            let waited = begun.elapsed();
            return Ok(match not? {
                Not::Busy(held) => Acquired::Busy { resource, held, waited },
                Not::Nested => Acquired::Nested { resource, waited },
                Not::Interrupted(signal) => Acquired::Interrupted { signal, waited },
            });
        }
        Ok(Acquired::Granted(Leases { all, waited: begun.elapsed() }))
    }

    /// One lease, while `ours` are kept.
    fn one(&self, resource: &Resource, until: Until, ours: &mut [Lease]) -> Result<Result<Lease, Not>> {
        let is_job = matches!(resource, Resource::Job(_));
        let want = Want {
            connection: self.connection,
            resource,
            slots: if is_job { self.options.slots } else { 1 },
            terms: self.terms,
            note: Holder::note(self.ledger.identity(), self.ledger.now()),
            ticket: match until {
                Until::Now => None,
                _ => Some(Ticket::new(is_job && self.options.policy == Policy::Replace)?),
            },
        };
        let held = match want.ask()? {
            Attempt::Granted(lease) => return Ok(Ok(lease)),
            Attempt::Held(held) => held,
        };
        let lock = Self::lock_name(resource);
        if want.slots == 1 && self.held.contains(&lock, held.holder.fence) {
            want.leave();
            return Ok(Err(Not::Nested));
        }
        if until == Until::Now {
            return Ok(Err(Not::Busy(held)));
        }
        (self.announce)(&lock, Some(&held.holder).filter(|_| !held.is_awaited));
        // Whoever holds it by then: a run that has yet to record its start, or one that waited before us.
        let ask = || {
            if is_job && self.options.policy == Policy::Replace { self.ask_for_an_end() } else { Ok(()) }
        };
        ask().inspect_err(|_| want.leave())?;
        want.wait(held, until, ours, &ask)
    }

    /// Leaves the wish in the ledger, for the wrapper of the longest run to see; not for one that we belong to.
    fn ask_for_an_end(&self) -> Result<()> {
        self.ledger.observe(&mut |totals| {
            let ends =
                |running: &&Running| !self.held.contains(self.job.as_str(), running.fence) && running.ending.is_none();
            let oldest = totals.running.iter().filter(ends).min_by_key(|running| running.run);
            let request = |running: &Running| EndRequest { run: running.run, request: Request::Replace };
            oldest.map(request).map(Event::EndRequested).into_iter().collect()
        })
    }

    fn release(&self, leases: &[Lease]) {
        for lease in leases.iter().rev() {
            // What is not released is over when its time is.
            let _ = lock(self.connection).call(|session| session.release(lease));
        }
    }

    /// As `$TRIPLOCK_HELD` has it.
    fn lock_name(resource: &Resource) -> String {
        match resource {
            Resource::Job(name) => name.as_str().to_owned(),
            other => other.key(),
        }
    }
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}
