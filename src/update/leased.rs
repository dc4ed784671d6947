//! The lease of an update, for files that several hosts change: on a file system that they share.
//!
//! It is taken after the file lock, which keeps out this machine's other updates; the filter runs under a guardian, as a job
//! does ([`crate::job`]'s leased runs). Right before the rename the server is asked whether the lease is still ours. What a
//! machine can do that stops between that answer and the rename, nothing here can undo: a rename knows no fence.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::Updated;
use crate::{
    clock::{Clock as _, SystemClock},
    error::{Error, Result},
    held::Held,
    job::{Carried, Guarded, Holding as _, Keeper, Leases, Lifeline, Not, Terms, Want},
    lock::{Deferred, Fence, Holder, Identity, Wait},
    name::Name,
    process::Signals,
    store::{Attempt, Connection, HeldLease, PATIENCE, Resource, StoreUrl, Ticket},
};

/// How long the lease lasts, unless the filter may take longer to end.
const LEASE: Duration = Duration::from_secs(30);

/// A lease that is held for an update.
pub(super) struct Leased {
    connection: Mutex<Connection>,
    leases: Mutex<Option<Leases>>,
    terms: Terms,
    pub(super) fence: Fence,
}

impl Leased {
    /// Takes it. `grace`: how long the filter has from the first signal until KILL.
    pub(super) fn acquire(
        url: &StoreUrl,
        file: &Name,
        wait: Wait,
        grace: Duration,
        held: &Held,
        announce: &dyn Fn(Option<&Holder>),
    ) -> Result<Result<Self, Updated>> {
        // A third of it until it is renewed, a tenth of it for the margin.
        let lease = LEASE.max(grace.saturating_mul(2));
        let terms = Terms::of(lease, Some(grace)).map_err(Error::Usage)?;
        let connection = Mutex::new(Connection::open(url.clone(), PATIENCE)?);
        let resource = Resource::File(file.clone());
        let note = Holder::note(&Identity::current(), SystemClock.now());
        let ticket = if wait == Wait::No { None } else { Some(Ticket::new(false)?) };
        let wanted = Want { connection: &connection, resource: &resource, slots: 1, terms, note, ticket };
        let lease = match wanted.ask()? {
            Attempt::Granted(lease) => lease,
            Attempt::Held(held_by) => {
                if held.contains(&resource.key(), held_by.holder.fence) {
                    wanted.leave();
                    return Ok(Err(Updated::Nested));
                }
                if wait == Wait::No {
                    return Ok(Err(Updated::Busy(holder(held_by))));
                }
                announce(holder(held_by.clone()).as_ref());
                let _deferred = Deferred::begin();
                match wanted.wait(held_by, wait.until(), &mut [], &|| Ok(()))? {
                    Ok(lease) => lease,
                    Err(Not::Busy(held_by)) => return Ok(Err(Updated::Busy(holder(held_by)))),
                    Err(Not::Nested) => return Ok(Err(Updated::Nested)),
                    Err(Not::Interrupted(_)) => {
                        let interrupted = std::io::Error::from(std::io::ErrorKind::Interrupted);
                        return Err(Error::io("wait for the lease of", resource.key(), interrupted));
                    }
                }
            }
        };
        let fence = lease.fence;
        let leases = Leases { all: vec![lease], waited: Duration::ZERO };
        Ok(Ok(Self { connection, leases: Mutex::new(Some(leases)), terms, fence }))
    }

    /// Runs the filter under a guardian.
    pub(super) fn carry_out(
        &self,
        signals: &Signals,
        attempt: &mut dyn FnMut(Option<&mut Lifeline>) -> Carried,
    ) -> Carried {
        let mut slot = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(leases) = slot.take() else { return Err(crate::job::Broken::LeaseLost(Vec::new())) };
        let (connection, terms) = (&self.connection, self.terms);
        let keeper = Keeper { leases: Mutex::new(leases), slot: 1, terms, connection, run: None };
        let guarded = Guarded { keeper, waited: Duration::ZERO, signals };
        let carried = guarded.carry_out(attempt);
        *slot = Some(guarded.keeper.leases.into_inner().unwrap_or_else(PoisonError::into_inner));
        carried
    }

    /// Whether it is still ours, as the server says.
    pub(super) fn is_ours(&self) -> Result<bool> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lease) = leases.as_mut().and_then(|leases| leases.all.first_mut()) else { return Ok(false) };
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.call(|session| session.renew(lease))
    }
}

/// Who has it, and not who waits for it.
fn holder(held: HeldLease) -> Option<Holder> {
    Some(held.holder).filter(|_| !held.is_awaited)
}

impl Drop for Leased {
    fn drop(&mut self) {
        let leases = self.leases.get_mut().unwrap_or_else(PoisonError::into_inner);
        let connection = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner);
        for lease in leases.iter().flat_map(|leases| &leases.all) {
            // What is not released is over when its time is.
            let _ = connection.call(|session| session.release(lease));
        }
    }
}
