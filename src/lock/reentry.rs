//! Which locks this process holds, by thread: a thread that waits for its own lock would wait for ever.

use std::{
    ptr,
    sync::{Mutex, PoisonError},
};

use crate::dir::FileId;

static HELD: Mutex<Vec<(Key, Thread)>> = Mutex::new(Vec::new());

/// Which lock it is, however it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    File(FileId),
    /// A lock of a store's server: the server, and what it is called there.
    OnServer(Box<str>),
}

/// A thread, among those that are alive, by the address of something that each has for itself. Its `ThreadId` would cost
/// each start a dozen system calls and page faults: the standard library makes a handle for it, to be destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thread(usize);

impl Thread {
    fn current() -> Self {
        thread_local! { static PLACE: u8 = const { 0 } }
        Self(PLACE.with(|place| ptr::from_ref(place).addr()))
    }
}

fn held() -> std::sync::MutexGuard<'static, Vec<(Key, Thread)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this thread holds that lock.
pub(super) fn is_ours(key: &Key) -> bool {
    let thread = Thread::current();
    held().iter().any(|(held, holder)| *holder == thread && held == key)
}

/// Whether this thread holds any lock.
pub(super) fn holds_any() -> bool {
    let thread = Thread::current();
    held().iter().any(|(_, holder)| *holder == thread)
}

/// The entry of one held lock; removed on drop.
#[derive(Debug)]
pub(super) struct Entry(Key, Thread);

impl Entry {
    pub(super) fn new(key: Key) -> Self {
        let thread = Thread::current();
        held().push((key.clone(), thread));
        Self(key, thread)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut held = held();
        if let Some(at) = held.iter().position(|(key, thread)| *thread == self.1 && *key == self.0) {
            held.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_threads_are_the_same() {
        let here = Thread::current();
        let there = || std::thread::scope(|scope| scope.spawn(Thread::current).join().unwrap());
        assert_eq!(Thread::current(), here);
        assert_ne!(there(), here);
        let all = std::sync::Barrier::new(8);
        let current = || {
            let thread = Thread::current();
            all.wait();
            thread
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(current)).collect();
            let mut threads: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap().0).collect();
            threads.sort_unstable();
            threads.dedup();
            assert_eq!(threads.len(), 8);
        });
    }
}
