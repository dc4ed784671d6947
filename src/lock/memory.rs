//! Locks in memory: a map of the names that are locked, as the textbook has it. They keep out threads that share the
//! map, and nobody else: each process has a map of its own.

use std::{
    collections::HashMap,
    marker::PhantomData,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
    time::Instant,
};

use super::{Acquire, Fence, Guard, Holder, Identity, Lock, LossMode, Until, Wait};
use crate::{
    clock::Clock,
    error::{Error, Result},
    name::Name,
};

/// Locks that live as long as this value.
#[derive(Clone)]
pub struct MemoryLock {
    shared: Arc<Shared>,
    identity: Arc<Identity>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Shared {
    names: Mutex<HashMap<Name, Entry>>,
    released: Condvar,
}

/// A name that was locked at least once: the fence outlives the holder.
struct Entry {
    fence: Fence,
    holder: Option<(Holder, ThreadId)>,
}

impl Shared {
    // A holder that panics has released its lock; the map itself is never left half changed.
    fn names(&self) -> MutexGuard<'_, HashMap<Name, Entry>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryLock {
    /// A map without a lock in it.
    pub fn new(identity: Identity, clock: Arc<dyn Clock>) -> Self {
        Self { shared: Arc::default(), identity: Arc::new(identity), clock }
    }
}

impl Lock for MemoryLock {
    type Guard = MemoryGuard;

    fn acquire(&self, name: &Name, wait: Wait) -> Result<Acquire<MemoryGuard>> {
        let until = wait.until();
        let thread = thread::current().id();
        let mut names = self.shared.names();
        loop {
            let entry = names.entry(name.clone()).or_insert(Entry { fence: Fence(0), holder: None });
            let Some((holder, owner)) = &entry.holder else {
                entry.fence = Fence(entry.fence.0 + 1);
                let holder = Holder::new(&self.identity, self.clock.now(), entry.fence);
                entry.holder = Some((holder, thread));
                let shared = Arc::clone(&self.shared);
                let (name, fence) = (name.clone(), entry.fence);
                return Ok(Acquire::Granted(MemoryGuard { shared, name, fence, _thread: PhantomData }));
            };
            let held = || Ok(Acquire::Held(Some(holder.clone())));
            match until {
                Until::Now => return held(),
                _ if *owner == thread => return Err(Error::Reentrant(name.clone())),
                Until::At(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return held();
                    }
                    let waited = self.shared.released.wait_timeout(names, left);
                    names = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Until::Never => {
                    names = self.shared.released.wait(names).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn loss_mode(&self) -> LossMode {
        LossMode::WithProcess
    }
}

impl std::fmt::Debug for MemoryLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryLock").finish_non_exhaustive()
    }
}

/// A held lock in memory.
pub struct MemoryGuard {
    shared: Arc<Shared>,
    name: Name,
    fence: Fence,
    /// Not `Send`: the entry names the thread.
    _thread: PhantomData<*const ()>,
}

impl std::fmt::Debug for MemoryGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryGuard").field("name", &self.name).field("fence", &self.fence).finish_non_exhaustive()
    }
}

impl Guard for MemoryGuard {
    fn fence(&self) -> Fence {
        self.fence
    }

    fn is_valid(&self) -> Result<bool> {
        Ok(self.shared.names().get(&self.name).is_some_and(|entry| entry.fence == self.fence && entry.holder.is_some()))
    }
}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        if let Some(entry) = self.shared.names().get_mut(&self.name) {
            entry.holder = None;
        }
        // All of them: each waits for a name of its own.
        self.shared.released.notify_all();
    }
}
