//! A session that is opened again when it breaks.

use std::time::Duration;

use super::{Session, StoreUrl, connect};
use crate::error::Result;

/// A session with a server, or none until the next call.
pub(crate) struct Connection {
    url: StoreUrl,
    patience: Duration,
    session: Option<Box<dyn Session>>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// As [`connect`].
    pub(crate) fn open(url: StoreUrl, patience: Duration) -> Result<Self> {
        let session = Some(connect(&url, patience)?);
        Ok(Self { url, patience, session })
    }

    /// Calls the session. After an error it is not used again: the next call opens another.
    pub(crate) fn call<T>(&mut self, act: impl FnOnce(&mut dyn Session) -> Result<T>) -> Result<T> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => connect(&self.url, self.patience)?,
        };
        let done = act(&mut *session);
        if done.is_ok() {
            self.session = Some(session);
        }
        done
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("url", &self.url).finish_non_exhaustive()
    }
}
