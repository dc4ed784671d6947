//! Several statements in one message.

use std::time::Duration;

use super::{client::Client, failure::Failure, row::Row, schema::FITS};

/// A column of any statement of a transaction: has its commit answered only once it is on disk (and, where the server
/// waits for replicas, on theirs), also where a database or a user has a weaker setting.
pub(super) const DURABLE: &str = "CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') \
     THEN set_config('synchronous_commit', 'on', true) END AS durable";

/// Statements that are sent together.
#[derive(Debug, Default)]
pub(super) struct Script {
    text: String,
    count: usize,
    wait: Duration,
}

/// The place of a statement in its script.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(usize);

/// The answers to a script.
pub(super) struct Answers(Vec<Vec<Row>>);

impl Script {
    /// One that begins a transaction, which waits for each lock at most that long, and for its next message not longer
    /// than the client is patient: a client that is stopped in the middle must not keep its locks.
    ///
    /// All settings end with the transaction. The isolation level is the one that this store is written for, whatever
    /// the database has for a default.
    pub(super) fn transaction(client: &Client, wait: Duration) -> Self {
        // (Zero would be for ever.)
        let milliseconds = |time: Duration| time.as_millis().clamp(1, 1_000_000_000);
        let patience = client.patience();
        let mut script = Self { wait, ..Self::default() };
        script.add("BEGIN ISOLATION LEVEL READ COMMITTED");
        script.add(format_args!("SET LOCAL lock_timeout = {}", milliseconds(wait)));
        script.add(format_args!("SET LOCAL statement_timeout = {}", milliseconds(wait + patience)));
        script.add(format_args!("SET LOCAL idle_in_transaction_session_timeout = {}", milliseconds(patience)));
        script
    }

    /// One that begins a transaction which stays open for as long as its client likes.
    pub(super) fn holding(client: &Client, wait: Duration) -> Self {
        let mut script = Self::transaction(client, wait);
        script.add("SET LOCAL idle_in_transaction_session_timeout = 0");
        script
    }

    /// The same of one that takes no lock for longer than a moment, and commits durably at its end.
    pub(super) fn short_transaction(client: &Client) -> Self {
        let mut script = Self::transaction(client, client.patience());
        script.wait = Duration::ZERO;
        script.add(format_args!("SELECT {FITS}, {DURABLE}"));
        script
    }

    /// One without a transaction of its own.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds a statement.
    pub(super) fn add(&mut self, statement: impl std::fmt::Display) -> Place {
        use std::fmt::Write as _;
        if self.count > 0 {
            self.text.push_str(";\n");
        }
        let _ = write!(self.text, "{statement}");
        self.count += 1;
        Place(self.count - 1)
    }

    /// Sends it, and waits for all answers.
    pub(super) fn send(&self, client: &mut Client) -> Result<Answers, Failure> {
        client.script(&self.text, self.wait).map(Answers)
    }
}

impl Answers {
    /// The rows of a statement.
    pub(super) fn rows(&self, place: Place) -> &[Row] {
        self.0.get(place.0).map_or(&[], Vec::as_slice)
    }

    /// The first row of a statement.
    pub(super) fn row(&self, place: Place) -> Option<&Row> {
        self.rows(place).first()
    }
}
