//! The files of one trip: `NAME.` and one suffix without a dot.

use std::sync::Arc;

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

/// The suffix of ledgers: a trip is there when its ledger is.
const LEDGER: &str = ".jsonl";

impl TripFiles {
    pub(super) fn new(dir: Arc<Dir>, trip: Name) -> Self {
        let file = |suffix: &str| format!("{trip}{suffix}");
        Self {
            ledger: file(LEDGER),
            state: file(".json"),
            sync: file(".sync"),
            index: file(".idx"),
            fresh_state: file(".new"),
            fresh_ledger: file(".heal"),
            fresh_index: file(".reindex"),
            dir,
            trip,
        }
    }

    /// Every trip that has a ledger, in byte order of the names.
    pub(super) fn all(dir: &Arc<Dir>) -> Result<Vec<Self>> {
        let names = dir.names()?;
        let trips = names.iter().filter_map(|name| name.strip_suffix(LEDGER)?.parse().ok());
        Ok(trips.map(|trip| Self::new(Arc::clone(dir), trip)).collect())
    }

    /// Whether that inode is still the ledger.
    pub(super) fn ledger_is(&self, id: FileId) -> Result<bool> {
        Ok(self.dir.stat(&self.ledger)?.is_some_and(|stat| stat.id == id))
    }
}
