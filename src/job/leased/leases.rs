//! Getting the leases of a run: a slot of its job, then the named locks in byte order, as with files
//! ([`crate::job::acquire`] says why in one order).
//!
//! Who waits asks, then sleeps until the server says that a lease was released; a holder that is gone releases nothing, so it
//! asks again when the lease should be over. What it has already is renewed meanwhile.

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
    store::{Attempt, Connection, HeldLease, Lease, Resource},
};

/// How long a signal goes unnoticed while the server is listened to.
const SLICE: Duration = Duration::from_millis(200);

/// How long to listen before asking again whatever was heard: a pooler may keep what the server says.
const ASK_AGAIN: Duration = Duration::from_secs(2);

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
    /// Somebody holds that one.
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
}

impl Want<'_> {
    /// Asks once.
    pub(crate) fn ask(&self) -> Result<Attempt> {
        let (resource, slots, lease) = (self.resource, self.slots, self.terms.lease);
        lock(self.connection).call(|session| session.acquire(resource, slots, lease, &self.note))
    }

    /// Waits for what somebody else has, while `ours` are kept. TERM, INT and HUP end the wait, if they are deferred.
    /// `still_held`: called whenever somebody turns out to have it.
    pub(crate) fn wait(
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
                heard || !std::mem::replace(&mut is_heard, true) || asked.elapsed() >= held.left.min(ASK_AGAIN)
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
        };
        let held = match want.ask()? {
            Attempt::Granted(lease) => return Ok(Ok(lease)),
            Attempt::Held(held) => held,
        };
        let lock = Self::lock_name(resource);
        if want.slots == 1 && self.held.contains(&lock, held.holder.fence) {
            return Ok(Err(Not::Nested));
        }
        if until == Until::Now {
            return Ok(Err(Not::Busy(held)));
        }
        (self.announce)(&lock, Some(&held.holder));
        // Whoever holds it by then: a run that has yet to record its start, or one that waited before us.
        let ask = || {
            if is_job && self.options.policy == Policy::Replace { self.ask_for_an_end() } else { Ok(()) }
        };
        ask()?;
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
