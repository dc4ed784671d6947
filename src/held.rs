//! Which locks the runs hold that this process belongs to, as they exported it in `$TRIPLOCK_HELD`.
//!
//! A job that asks for its own lock would wait for itself for ever. Each run therefore tells its command which locks it
//! holds under which fence: `nightly:41 locks/db:7`. Asking for one of them is an error, but only while it is true: the
//! lock must be held, and its note must name that fence. A daemon that a run left behind inherits the variable too; once
//! the run has released its lock, the lock is free, or a later holder's fence stands in it.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use crate::lock::Fence;

/// Names the locks that a process's ancestors hold.
const HELD: &str = "TRIPLOCK_HELD";

/// Names the state directory that those locks are in.
const STATE_DIR: &str = "TRIPLOCK_STATE_DIR";

/// Names the server that those locks are on instead, without a password; empty when they are files.
const STORE: &str = "TRIPLOCK_HELD_STORE";

/// The locks that this process's ancestors hold in one state directory or on one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// `NAME:FENCE`, separated by spaces.
    entries: String,
    state: PathBuf,
    /// Empty: the locks are in the state directory.
    store: String,
}

impl Held {
    /// As the environment says. Locks of another state directory are not among them.
    pub(crate) fn inherited(state: &Path) -> Self {
        let same = env::var_os(STATE_DIR).is_some_and(|dir| is_same(Path::new(&dir), state));
        Self::of(same, String::new(), state)
    }

    /// The same of a server's locks; the output goes to the state directory.
    pub(crate) fn inherited_of_server(store: String, state: &Path) -> Self {
        Self::of(true, store, state)
    }

    fn of(same: bool, store: String, state: &Path) -> Self {
        let same = same && env::var(STORE).unwrap_or_default() == store;
        let entries = if same { env::var(HELD).unwrap_or_default() } else { String::new() };
        Self { entries, state: state.to_owned(), store }
    }

    /// Whether no ancestor says that it has any.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// None, for a run that belongs to no other.
    pub(crate) fn none(state: &Path) -> Self {
        Self { state: state.to_owned(), ..Self::default() }
    }

    /// Whether an ancestor says that it took that lock under that fence.
    pub(crate) fn contains(&self, lock: &str, fence: Fence) -> bool {
        let entry = |entry: &str| entry.rsplit_once(':').is_some_and(|(l, f)| l == lock && f.parse() == Ok(fence.0));
        self.entries.split(' ').any(entry)
    }

    /// The same and one more.
    pub(crate) fn add(&mut self, lock: &str, fence: Fence) {
        let space = if self.entries.is_empty() { "" } else { " " };
        let _ = write!(self.entries, "{space}{lock}:{fence}");
    }

    /// What a process that inherits these locks finds in its environment.
    pub(crate) fn exported(&self) -> Vec<(OsString, Option<OsString>)> {
        let set = |name: &str, value: OsString| (name.into(), Some(value));
        let mut variables = vec![set(HELD, self.entries.clone().into()), set(STATE_DIR, self.state.clone().into())];
        // One more variable, unless it has nothing to say and contradicts nothing.
        if !self.store.is_empty() || env::var_os(STORE).is_some() {
            variables.push(set(STORE, self.store.clone().into()));
        }
        variables
    }
}

/// Whether two paths mean one directory, however they are spelled.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_names_a_lock_and_a_fence() {
        let mut held = Held::default();
        assert!(!held.contains("nightly", Fence(4)));
        held.add("nightly", Fence(41));
        held.add("locks/db", Fence(7));
        assert!(held.contains("nightly", Fence(41)) && held.contains("locks/db", Fence(7)));
        assert!(
            !held.contains("nightly", Fence(4))
                && !held.contains("nightly", Fence(42))
                && !held.contains("db", Fence(7))
        );
        assert_eq!(held.exported()[0].1, Some("nightly:41 locks/db:7".into()));
    }
}
