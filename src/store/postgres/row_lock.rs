//! A row's lock, held by a transaction that stays open: what [`PostgresLock`](crate::lock::PostgresLock) is made of.
//!
//! The fence is written in that transaction, so who dies with it rolls it back. It is at least the server's time in
//! microseconds, though, so the next one is larger all the same.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::{
    client::Client,
    failure::Failure,
    holder,
    literal::literal,
    open,
    schema::{self, FITS},
    script::Script,
    trips::{is_over, slice_of},
};
use crate::{
    error::{Error, Result},
    lock::{Acquire, Fence, Holder, Until},
    name::Name,
    store::{Kind, PATIENCE, StoreUrl},
};

/// A connection that can hold one lock.
pub(crate) struct RowLock {
    client: Client,
}

impl RowLock {
    /// Opens the connection.
    pub(crate) fn connect(url: &StoreUrl) -> Result<Self> {
        match url.kind() {
            Kind::Postgres => open(url, PATIENCE).map(|client| Self { client }),
            Kind::Redis => Err(Error::Usage(format!("{url} has no row locks; give postgres://HOST/DATABASE"))),
        }
    }

    /// Takes the lock of that name. `before_wait` is asked before each wait, and may forbid it.
    ///
    /// # Errors
    /// What the server says, and what `before_wait` does.
    pub(crate) fn acquire(
        &mut self,
        name: &Name,
        until: Until,
        mut before_wait: impl FnMut() -> Result<()>,
    ) -> Result<Acquire<Fence>> {
        // The first attempt does not wait: so a wait for oneself is noticed, and told.
        let mut wait = Duration::ZERO;
        let mut mended = false;
        loop {
            let failure = match self.lock(name, wait) {
                Ok(Some(fence)) => return Ok(Acquire::Granted(fence)),
                // A row that its first holder made would be seen by nobody else, and could not name its holder.
                Ok(None) => match self.make(name) {
                    Ok(()) => continue,
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            if failure.is(&SqlState::LOCK_NOT_AVAILABLE) {
                let holder: Option<Holder> = holder::of_row(&mut self.client, "locks", "name", name)?;
                if is_over(until) {
                    return Ok(Acquire::Held(holder));
                }
                before_wait()?;
                wait = slice_of(until);
            } else if failure.is_about_schema() && !mended {
                mended = true;
                schema::mend(&mut self.client)?;
            } else {
                return Err(failure.into_error(self.client.server()));
            }
        }
    }

    /// `None`: there is no such row.
    fn lock(&mut self, name: &Name, wait: Duration) -> Result<Option<Fence>, Failure> {
        let name = literal(name.as_str());
        let mut script = Script::holding(&self.client, wait);
        let no_wait = if wait.is_zero() { " NOWAIT" } else { "" };
        script.add(format_args!("SELECT FROM triplock.locks WHERE name = {name} FOR UPDATE{no_wait}"));
        let fence = script.add(format_args!(
            "UPDATE triplock.locks SET fence = greatest(fence + 1, \
             (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) WHERE name = {name} RETURNING fence, {FITS}"
        ));
        let answers = script.send(&mut self.client)?;
        let fence = answers.row(fence).map(|row| row.get(0)).transpose();
        fence.map(|fence| fence.map(Fence)).map_err(Failure::Changed)
    }

    /// Ends the transaction that found no row, and makes it in one of its own.
    fn make(&mut self, name: &Name) -> Result<(), Failure> {
        let mut script = Script::new();
        script.add("ROLLBACK");
        script.add(format_args!(
            "INSERT INTO triplock.locks (name) VALUES ({}) ON CONFLICT DO NOTHING",
            literal(name.as_str())
        ));
        script.send(&mut self.client).map(drop)
    }

    /// Whether the connection is still there.
    pub(crate) fn answers(&mut self) -> bool {
        self.client.script("SELECT", Duration::ZERO).is_ok()
    }

    /// Whether the transaction is still open; `false` also when the server does not answer.
    pub(crate) fn is_held(&mut self) -> bool {
        // Outside of a transaction block this is refused.
        self.client.script("SAVEPOINT held; RELEASE held", Duration::ZERO).is_ok()
    }

    /// Gives the lock back; `false` when that cannot be known.
    pub(crate) fn release(&mut self) -> bool {
        self.client.script("COMMIT", Duration::ZERO).is_ok()
    }
}
