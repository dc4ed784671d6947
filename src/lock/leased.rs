//! Leased locks: a lease of a store's server, whichever kind that is. They keep out every host that uses the server, and
//! are lost by expiry.
//!
//! # Holding
//!
//! The lease ends on the server's clock, its time to live after the last request that the server granted. The holder
//! counts from *before* it sent that request, so it stops counting on the lease before the server does. A thread of the
//! guard's own asks for more at a third of the time to live, so that two requests may fail before the lease is in danger;
//! a failed one is repeated over a new connection. Once the deadline is over, or the server says no, the lock is lost for
//! good: a later yes would hide that somebody else may have had it.
//!
//! A process that is stopped renews nothing, and does not notice. So [`Guard::is_valid`] asks the deadline and then
//! the server; but between its answer and the next step the holder can be stopped again. What such a holder still
//! does, only its fence can stop, where it is compared.
//!
//! # Waiting
//!
//! A waiter has a connection of its own, so it holds up nobody. It listens for the release, and asks again when the
//! lease that it was shown must be over: a holder that died releases nothing.

use std::{
    marker::PhantomData,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Acquire, Fence, Guard, Holder, Identity, Lock, LossMode, Until, Wait, reentry, signals};
use crate::{
    clock::Clock,
    error::{Error, Result, ServerTrouble},
    name::Name,
    store::{Attempt, Lease, PATIENCE, Resource, Session, StoreUrl, connect},
};

/// Locks that are leased from a server.
#[derive(Clone)]
pub struct LeasedLock {
    shared: Arc<Shared>,
}

struct Shared {
    url: StoreUrl,
    ttl: Duration,
    identity: Identity,
    clock: Arc<dyn Clock>,
    /// Connections that nobody uses just now.
    idle: Mutex<Vec<Box<dyn Session>>>,
}

impl LeasedLock {
    /// How long a lease lasts from each renewal, unless something else is asked for.
    pub const TTL: Duration = Duration::from_secs(30);

    /// The shortest lease: a third of it must be enough for a server to answer.
    pub const SHORTEST: Duration = Duration::from_secs(1);

    /// The locks of that server, each lease to last `ttl` from each renewal.
    ///
    /// # Errors
    /// `Server` when it cannot be reached, refuses us, or is not fit to be a store; `Usage` when `ttl` is shorter than
    /// [`LeasedLock::SHORTEST`].
    pub fn connect(url: StoreUrl, ttl: Duration, identity: Identity, clock: Arc<dyn Clock>) -> Result<Self> {
        if ttl < Self::SHORTEST {
            let why = format!("a lease of {} ms is too short; {} s is the least", ttl.as_millis(), 1);
            return Err(Error::Usage(why));
        }
        let shared = Shared { url, ttl, identity, clock, idle: Mutex::default() };
        let session = shared.connect()?;
        shared.keep(session);
        Ok(Self { shared: Arc::new(shared) })
    }

    fn guard(&self, session: Box<dyn Session>, lease: Lease, key: reentry::Key) -> Result<LeasedGuard> {
        let fence = lease.fence;
        let state = State { lease, session: Some(session), is_lost: false, is_over: false };
        let held = Arc::new(Held { lock: Arc::clone(&self.shared), state: Mutex::new(state), over: Condvar::new() });
        let renew = {
            let held = Arc::clone(&held);
            move || held.renew_until_over()
        };
        // It is made first: without the thread, dropping it releases the lease.
        let mut guard =
            LeasedGuard { held, fence, renewer: None, _entry: reentry::Entry::new(key), _thread: PhantomData };
        let started = thread::Builder::new().name("lease-renewer".to_owned()).spawn(renew);
        guard.renewer = Some(started.map_err(|e| Error::io("start a thread in", "this process", e))?);
        Ok(guard)
    }
}

impl Shared {
    /// A connection whose calls take no longer than the time between two renewals.
    fn connect(&self) -> Result<Box<dyn Session>> {
        connect(&self.url, PATIENCE.min(self.ttl / 3))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Box<dyn Session>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a connection away whose last call succeeded.
    fn keep(&self, session: Box<dyn Session>) {
        self.idle().push(session);
    }

    /// Asks for the first time, over a connection that lay idle if there is one. The server may have closed that long
    /// ago, which the first call shows; then a new one is asked.
    fn first_ask(&self, resource: &Resource, holder: &Holder) -> Result<(Box<dyn Session>, Attempt)> {
        let idle = self.idle().pop();
        if let Some(mut session) = idle {
            match session.acquire(resource, 1, self.ttl, holder) {
                Err(Error::Server { trouble: ServerTrouble::Unreachable, .. }) => {}
                other => return other.map(|attempt| (session, attempt)),
            }
        }
        let mut session = self.connect()?;
        let attempt = session.acquire(resource, 1, self.ttl, holder)?;
        Ok((session, attempt))
    }
}

impl std::fmt::Debug for LeasedLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shared { url, ttl, .. } = &*self.shared;
        f.debug_struct("LeasedLock").field("url", url).field("ttl", ttl).finish_non_exhaustive()
    }
}

impl Lock for LeasedLock {
    type Guard = LeasedGuard;

    fn acquire(&self, name: &Name, wait: Wait) -> Result<Acquire<LeasedGuard>> {
        let until = wait.until();
        let resource = Resource::Named(name.clone());
        let key = reentry::Key::OnServer(format!("{} {}", self.shared.url, resource.key()).into());
        let holder = Holder::new(&self.shared.identity, self.shared.clock.now(), Fence(0));
        let (mut session, mut attempt) = self.shared.first_ask(&resource, &holder)?;
        let mut listens = false;
        loop {
            let held = match attempt {
                Attempt::Granted(lease) => return self.guard(session, lease, key).map(Acquire::Granted),
                Attempt::Held(held) => held,
            };
            let left = match until {
                Until::Now => Duration::ZERO,
                Until::At(deadline) => deadline.saturating_duration_since(Instant::now()),
                Until::Never => Duration::MAX,
            };
            if left.is_zero() {
                self.shared.keep(session);
                return Ok(Acquire::Held(Some(held.holder)));
            }
            if reentry::is_ours(&key) {
                self.shared.keep(session);
                return Err(Error::Reentrant(name.clone()));
            }
            // What was released before the first call went unheard, so that one only begins to listen. Later ones end
            // a little after the lease does: the server counts in whole milliseconds.
            let nap = if listens { left.min(held.left + Duration::from_millis(1)) } else { Duration::ZERO };
            session.wait_for_release(&resource, nap)?;
            signals::interrupted().map_err(|e| Error::io("wait for", name.as_str(), e))?;
            listens = true;
            attempt = session.acquire(&resource, 1, self.shared.ttl, &holder)?;
        }
    }

    fn loss_mode(&self) -> LossMode {
        LossMode::ByExpiry
    }
}

/// A leased lock that was held when it was granted, and is as long as it is renewed in time.
pub struct LeasedGuard {
    held: Arc<Held>,
    fence: Fence,
    renewer: Option<JoinHandle<()>>,
    _entry: reentry::Entry,
    /// Not `Send`: the entry names the thread.
    _thread: PhantomData<*const ()>,
}

/// What the guard and its renewing thread share.
struct Held {
    lock: Arc<Shared>,
    state: Mutex<State>,
    /// Wakes the renewing thread at the end.
    over: Condvar,
}

struct State {
    lease: Lease,
    /// `None` after a call that failed.
    session: Option<Box<dyn Session>>,
    is_lost: bool,
    /// The guard is being dropped.
    is_over: bool,
}

impl State {
    /// Asks the server for more time; `false` when the lease is no longer ours.
    fn renew(&mut self, lock: &Shared) -> Result<bool> {
        if self.is_lost || self.lease.deadline.left().is_zero() {
            self.is_lost = true;
            return Ok(false);
        }
        let mut session = match self.session.take() {
            Some(session) => session,
            None => lock.connect()?,
        };
        let renewed = session.renew(&mut self.lease)?;
        self.session = Some(session);
        // A yes can come too late as well.
        self.is_lost = !renewed || self.lease.deadline.left().is_zero();
        Ok(!self.is_lost)
    }

    /// Gives the lease back, if it is still ours and the server can be asked; else it ends by itself.
    fn release(&mut self, lock: &Shared) -> Result<()> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None if self.is_lost => return Ok(()),
            None => lock.connect()?,
        };
        if !self.is_lost {
            session.release(&self.lease)?;
        }
        lock.keep(session);
        Ok(())
    }
}

impl Held {
    // A panic while it was locked has left at worst a session that is gone.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the renewing thread does.
    fn renew_until_over(&self) {
        let rhythm = self.lock.ttl / 3;
        let mut pause = rhythm;
        let mut state = self.state();
        loop {
            let waited = self.over.wait_timeout_while(state, pause, |state| !state.is_over);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.is_over {
                return;
            }
            pause = match state.renew(&self.lock) {
                Ok(true) => rhythm,
                Ok(false) => return,
                // Soon again, over a new connection.
                Err(_) => rhythm / 10,
            };
        }
    }
}

impl std::fmt::Debug for LeasedGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeasedGuard").field("fence", &self.fence).finish_non_exhaustive()
    }
}

impl Guard for LeasedGuard {
    fn fence(&self) -> Fence {
        self.fence
    }

    /// Asks the deadline, then the server, which renews the lease by the way.
    fn is_valid(&self) -> Result<bool> {
        self.held.state().renew(&self.held.lock)
    }
}

impl Drop for LeasedGuard {
    fn drop(&mut self) {
        let mut state = self.held.state();
        state.is_over = true;
        // A lease that cannot be given back ends by itself.
        let _ = state.release(&self.held.lock);
        drop(state);
        self.held.over.notify_one();
        if let Some(renewer) = self.renewer.take() {
            let _ = renewer.join();
        }
    }
}
