//! Stores on servers, for trips and jobs that several hosts share.
//!
//! A [`StoreUrl`] names one; [`connect`] gives a [`Session`] with it: one connection, used by one thread at a time. What
//! the two kinds of server have in common is the trait; each has a directory of its own here, and they do not know each
//! other.
//!
//! What a server promises, and how its locks are lost, is in docs/scaling.md.

mod choice;
mod connection;
mod credentials;
mod lease;
mod pgpass;
mod secret;
mod session;
#[cfg(all(test, any(feature = "postgres", feature = "redis")))]
mod tests;
mod ticket;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod tls;
mod trips;
mod url;

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;

use std::time::Duration;

pub(crate) use choice::StoreChoice;
pub(crate) use connection::Connection;
pub(crate) use credentials::{Source, find as find_credentials};
pub(crate) use lease::{Attempt, HeldLease, Lease, LeaseView, Resource, Token};
#[cfg(feature = "postgres")]
pub(crate) use postgres::RowLock;
pub(crate) use secret::{Secret, without_passwords};
pub(crate) use session::{Append, LedgerHead, ServerFacts, Session};
pub(crate) use ticket::Ticket;
pub use trips::ServerTrips;
pub(crate) use url::Kind;
pub use url::StoreUrl;

use crate::error::Result;

/// How long a server may take to answer unless somebody knows better.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a session. Each call of it waits at most `patience` for the server.
///
/// # Errors
/// `Server`: it cannot be reached, refuses us, or is not fit to be a store. `Usage`: this triplock was built without that
/// kind of store.
pub(crate) fn connect(url: &StoreUrl, patience: Duration) -> Result<Box<dyn Session>> {
    match url.kind() {
        #[cfg(feature = "redis")]
        Kind::Redis => redis::connect(url, patience),
        #[cfg(feature = "postgres")]
        Kind::Postgres => postgres::connect(url, patience),
        #[allow(unreachable_patterns)] // Unless it was built without one of them.
        kind => Err(crate::error::Error::Usage(format!("this triplock was built without the feature {}", kind.word()))),
    }
}
