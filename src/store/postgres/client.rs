//! A connection to `PostgreSQL`, for synchronous callers.
//!
//! tokio-postgres does the talking, on a runtime of one thread: this one, for as long as it waits. So every request has a
//! limit, and a server that stops answering ends it; the crate `postgres`, which is the same below, waits for ever.
//!
//! Everything is sent by the simple protocol: several statements in one message, each answered in turn. That saves round
//! trips, and it leaves nothing behind in the session (no prepared statement, no setting outside of a transaction), so
//! that it works through a pooler that gives each transaction another session.

use std::{
    collections::HashSet,
    future::{Future, poll_fn},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::{Builder, Runtime},
    task::JoinHandle,
};
use tokio_postgres::{
    AsyncMessage, Config, Connection, NoTls, SimpleQueryMessage, Socket, error::DbError, tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    connect::Way,
    failure::{Failure, not_connected, spoken, unreachable},
    row::Row,
};
use crate::error::{Error, Result};

/// How long the good-bye may take.
const FAREWELL: Duration = Duration::from_millis(100);

/// More resources than these nobody waits for over one connection.
const HEARD_AT_MOST: usize = 1000;

/// An open connection.
pub(super) struct Client {
    client: Option<tokio_postgres::Client>,
    /// What reads and writes while somebody waits.
    connection: Option<JoinHandle<()>>,
    heard: Arc<Mutex<Heard>>,
    runtime: Runtime,
    server: String,
    patience: Duration,
}

/// What the server says unasked.
#[derive(Debug, Default)]
struct Heard {
    /// Payloads of notifications.
    notified: HashSet<String>,
    /// Warnings that a commit was not waited for.
    warning: Option<String>,
    /// Why the connection is over.
    over: Option<String>,
    waiting: Option<Waker>,
}

impl Client {
    /// Connects. `server`: its name in errors.
    ///
    /// # Errors
    /// `Server`.
    pub(super) fn connect(way: Way, server: String, patience: Duration) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(|e| Error::io("start a runtime in", "this process", e))?;
        let Way { config, tls } = way;
        match tls {
            Some(tls) => Self::over(MakeRustlsConnect::new(tls), &config, runtime, server, patience),
            None => Self::over(NoTls, &config, runtime, server, patience),
        }
    }

    fn over<T>(tls: T, config: &Config, runtime: Runtime, server: String, patience: Duration) -> Result<Self>
    where
        T: MakeTlsConnect<Socket, Stream: Send + 'static>,
    {
        let (client, connection) = match within(&runtime, patience, config.connect(tls)) {
            Some(connected) => connected.map_err(|e| not_connected(&server, &e))?,
            None => {
                return Err(unreachable(
                    &server,
                    &format!(
                        "no connection within {} s; see whether it is a PostgreSQL that runs, and the store's URL is right",
                        patience.as_secs_f64()
                    ),
                ));
            }
        };
        let heard = Arc::default();
        let connection = runtime.spawn(listen(connection, Arc::clone(&heard)));
        Ok(Self { client: Some(client), connection: Some(connection), heard, runtime, server, patience })
    }

    /// Its name in errors.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// How long a request may take.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Has the statements done, one after another until one fails; gives the rows of each. `wait`: for how long they may
    /// wait for a lock.
    pub(super) fn script(&mut self, statements: &str, wait: Duration) -> Result<Vec<Vec<Row>>, Failure> {
        let Some(client) = &self.client else { return Err(Failure::Lost("the connection is broken".to_owned())) };
        let limit = self.patience.saturating_add(wait);
        let lost = match within(&self.runtime, limit, client.simple_query(statements)) {
            Some(Ok(messages)) => return Ok(by_statement(messages)),
            Some(Err(error)) => match Failure::of(&error) {
                // Why it is closed, the connection knows better.
                Failure::Lost(why) => self.heard().over.clone().unwrap_or(why),
                refused => return Err(refused),
            },
            None => format!("no answer within {} s", limit.as_secs_f64()),
        };
        // An answer that comes now must not be taken for another one's.
        self.client = None;
        Err(Failure::Lost(lost))
    }

    /// The same as an error.
    pub(super) fn ask(&mut self, statements: &str) -> Result<Vec<Vec<Row>>> {
        self.script(statements, Duration::ZERO).map_err(|failure| failure.into_error(&self.server))
    }

    /// What the server warned of since this was last asked: a commit that it did not wait for.
    pub(super) fn take_warning(&mut self) -> Option<String> {
        self.heard().warning.take()
    }

    /// Waits for a notification with that payload; `false` when the time is over.
    pub(super) fn wait_for(&mut self, payload: &str, at_most: Duration) -> Result<bool> {
        let until = Instant::now() + at_most;
        let heard = &self.heard;
        let taken = |waker: Option<&Waker>| {
            let mut heard = lock(heard);
            if heard.notified.len() > HEARD_AT_MOST {
                heard.notified.clear();
                return Some(Ok(true));
            }
            if heard.notified.remove(payload) {
                return Some(Ok(true));
            }
            heard.waiting = waker.cloned();
            heard.over.clone().map(Err)
        };
        let left = until.saturating_duration_since(Instant::now());
        let told = within(
            &self.runtime,
            left,
            poll_fn(|context| taken(Some(context.waker())).map_or(Poll::Pending, Poll::Ready)),
        );
        match told.or_else(|| taken(None)) {
            Some(Ok(told)) => Ok(told),
            Some(Err(why)) => Err(unreachable(&self.server, &why)),
            None => Ok(false),
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        lock(&self.heard)
    }
}

impl Drop for Client {
    /// Says good-bye, so that the server does not write of an unexpected end into its log.
    fn drop(&mut self) {
        if self.client.take().is_some() {
            if let Some(connection) = self.connection.take() {
                let _ = within(&self.runtime, FAREWELL, connection);
            }
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Waits for something, at most that long.
fn within<T>(runtime: &Runtime, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    // A timer belongs to the runtime in which it is made.
    let entered = runtime.enter();
    let timed = tokio::time::timeout(limit, future);
    drop(entered);
    runtime.block_on(timed).ok()
}

/// Reads and writes until the connection is over, and keeps what comes unasked.
fn listen<S, T>(mut connection: Connection<S, T>, heard: Arc<Mutex<Heard>>) -> impl Future<Output = ()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(move |context| {
        loop {
            let message = ready!(connection.poll_message(context));
            let mut heard = lock(&heard);
            if let Some(waiting) = heard.waiting.take() {
                waiting.wake();
            }
            match message {
                Some(Ok(AsyncMessage::Notification(told))) => _ = heard.notified.insert(told.payload().to_owned()),
                Some(Ok(AsyncMessage::Notice(notice))) if is_alarming(&notice) => {
                    heard.warning = Some(notice.message().to_owned());
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    heard.over = Some(match error.as_db_error() {
                        Some(said) => said.message().to_owned(),
                        None => spoken(&error),
                    });
                    return Poll::Ready(());
                }
                None => {
                    heard.over = Some("the server closed the connection".to_owned());
                    return Poll::Ready(());
                }
            }
        }
    })
}

/// A server that waits for a replica, and is stopped from waiting, commits all the same, and warns. The warning has no code
/// of its own, and its text is in the server's language; but it names the function that it comes from.
fn is_alarming(notice: &DbError) -> bool {
    notice.routine() == Some("SyncRepWaitForLSN")
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn by_statement(messages: Vec<SimpleQueryMessage>) -> Vec<Vec<Row>> {
    let mut statements = Vec::new();
    let mut rows = Vec::new();
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => rows.push(Row::new(row)),
            SimpleQueryMessage::CommandComplete(_) => statements.push(std::mem::take(&mut rows)),
            _ => {}
        }
    }
    statements
}
