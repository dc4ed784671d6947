//! The files of one trip: `NAME.` and one suffix without a dot.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    dir::{Dir, FileId},
    error::Result,
    name::Name,
};

/// Where a trip's files are. Each temporary file has one fixed name and is made under the lock that guards it, so a
/// kill leaves at most one behind, which the next command reuses.
#[derive(Debug, Clone)]
pub(super) struct TripFiles {
    pub(super) dir: Arc<Dir>,
    pub(super) trip: Name,
    /// The authority.
    pub(super) ledger: String,
    /// The sums, and what is durable.
    pub(super) state: String,
    /// Who syncs.
    pub(super) sync: String,
    /// Student or request id → line.
    pub(super) index: String,
    /// The next state; guarded by `sync`.
    pub(super) fresh_state: String,
    /// The next generation of the ledger; guarded by `sync`.
    pub(super) fresh_ledger: String,
    /// The next index; guarded by `index`.
    pub(super) fresh_index: String,
}

const LEDGER: &str = ".jsonl";
const STATE: &str = ".json";

impl TripFiles {
    pub(super) fn new(dir: Arc<Dir>, trip: Name) -> Self {
        let file = |suffix: &str| format!("{trip}{suffix}");
        Self {
            ledger: file(LEDGER),
            state: file(STATE),
            sync: file(".sync"),
            index: file(".idx"),
            fresh_state: file(".new"),
            fresh_ledger: file(".heal"),
            fresh_index: file(".reindex"),
            dir,
            trip,
        }
    }

    /// Every name that has a ledger or a state (a state alone is what a lost ledger leaves), in byte order.
    pub(super) fn all(dir: &Arc<Dir>) -> Result<Vec<Self>> {
        let names = dir.names()?;
        let trip = |name: &String| name.strip_suffix(LEDGER).or_else(|| name.strip_suffix(STATE))?.parse().ok();
        let trips: BTreeSet<Name> = names.iter().filter_map(trip).collect();
        Ok(trips.into_iter().map(|trip| Self::new(Arc::clone(dir), trip)).collect())
    }

    /// Whether that inode is still the ledger.
    pub(super) fn ledger_is(&self, id: FileId) -> Result<bool> {
        Ok(self.dir.stat(&self.ledger)?.is_some_and(|stat| stat.id == id))
    }
}
