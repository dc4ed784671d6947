//! Trips on disk: ledger, state file, index, and the protocol that changes them.

mod answer;
mod append;
mod commit;
mod context;
mod draft;
mod files;
mod group;
mod heal;
mod index;
mod kept;
mod ledger;
mod line;
mod locked;
mod lookup;
mod note;
mod read;
mod state_file;
mod store;
mod trips;

pub use answer::{Answer, TripView};
pub use commit::CommitMode;
pub(crate) use draft::Prepared;
pub use draft::REQUEST_IDS_KEPT;
pub(crate) use group::{Answers, Committer, Group};
pub use locked::LockedTrip;
pub use store::Store;
pub use trips::Trips;
