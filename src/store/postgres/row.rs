//! A row of an answer. Everything in it is text.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use tokio_postgres::SimpleQueryRow;

/// One row.
pub(super) struct Row(SimpleQueryRow);

/// What a column should hold and does not: somebody has changed it.
pub(super) type Unexpected = String;

impl Row {
    pub(super) fn new(row: SimpleQueryRow) -> Self {
        Self(row)
    }

    /// A column's text; `None` when it is NULL.
    pub(super) fn optional(&self, column: usize) -> Option<&str> {
        self.0.try_get(column).ok().flatten()
    }

    /// A column's text.
    pub(super) fn text(&self, column: usize) -> Result<&str, Unexpected> {
        self.optional(column).ok_or_else(|| format!("{} is NULL", self.name(column)))
    }

    /// A column that holds a name or a number.
    pub(super) fn get<T: FromStr>(&self, column: usize) -> Result<T, Unexpected> {
        let text = self.text(column)?;
        text.parse().map_err(|_| format!("{} is {text:?}", self.name(column)))
    }

    /// The same of one that may be NULL.
    pub(super) fn get_optional<T: FromStr>(&self, column: usize) -> Result<Option<T>, Unexpected> {
        match self.optional(column) {
            Some(_) => self.get(column).map(Some),
            None => Ok(None),
        }
    }

    /// A time, which the statement gives in microseconds since 1970 ([`MICROSECONDS`]).
    pub(super) fn time(&self, column: usize) -> Result<DateTime<Utc>, Unexpected> {
        let microseconds = self.get(column)?;
        DateTime::from_timestamp_micros(microseconds).ok_or_else(|| format!("{} is out of range", self.name(column)))
    }

    /// Whether a column is true.
    pub(super) fn is_true(&self, column: usize) -> bool {
        self.optional(column) == Some("t")
    }

    fn name(&self, column: usize) -> String {
        self.0.columns().get(column).map_or_else(|| format!("column {column}"), |column| column.name().to_owned())
    }
}

/// The server's time, in microseconds since 1970. Never `now()`, which stands still while a transaction waits.
pub(super) const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now";
