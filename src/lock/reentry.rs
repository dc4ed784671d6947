//! Which locks this process holds, by thread: a thread that waits for its own lock would wait for ever.

use std::{
    sync::{Mutex, PoisonError},
    thread::{self, ThreadId},
};

use crate::dir::FileId;

static HELD: Mutex<Vec<(FileId, ThreadId)>> = Mutex::new(Vec::new());

fn held() -> std::sync::MutexGuard<'static, Vec<(FileId, ThreadId)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this thread holds the lock on that file.
pub(super) fn is_ours(id: FileId) -> bool {
    held().contains(&(id, thread::current().id()))
}

/// Whether this thread holds any lock.
pub(super) fn holds_any() -> bool {
    let thread = thread::current().id();
    held().iter().any(|(_, holder)| *holder == thread)
}

/// The entry of one held lock; removed on drop.
#[derive(Debug)]
pub(super) struct Entry(FileId, ThreadId);

impl Entry {
    pub(super) fn new(id: FileId) -> Self {
        let thread = thread::current().id();
        held().push((id, thread));
        Self(id, thread)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut held = held();
        if let Some(at) = held.iter().position(|entry| *entry == (self.0, self.1)) {
            held.swap_remove(at);
        }
    }
}
