//! How a request to the server fails, and what that means.

use tokio_postgres::error::{DbError, Severity, SqlState};

use super::row::Unexpected;
use crate::{
    error::{Error, ServerTrouble},
    store::tls,
};

/// A request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server refused a statement. Its transaction is rolled back or waits for that; the connection goes on.
    Refused(Box<DbError>),
    /// The connection is gone, or there was no answer in time. If it was a commit that was sent, nobody knows.
    Lost(String),
    /// A table holds what triplock does not write.
    Changed(Unexpected),
}

impl Failure {
    /// What kind of failure that is.
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refused) if !ends_connection(refused) => Self::Refused(Box::new(refused.clone())),
            Some(fatal) => Self::Lost(fatal.message().to_owned()),
            None => Self::Lost(spoken(error)),
        }
    }

    /// The same as an error of the server with that name.
    pub(super) fn into_error(self, server: &str) -> Error {
        match self {
            Self::Refused(refused) => refusal(server, &refused),
            Self::Lost(why) => unreachable(server, &why),
            Self::Changed(why) => changed(server, &why),
        }
    }

    /// Whether it is that refusal.
    pub(super) fn is(&self, state: &SqlState) -> bool {
        matches!(self, Self::Refused(refused) if refused.code() == state)
    }

    /// Whether the tables are not as they should be: not there, changed, or of another version.
    pub(super) fn is_about_schema(&self) -> bool {
        let Self::Refused(refused) = self else { return false };
        match refused.code().code() {
            // invalid_schema_name, and what a version that does not fit fails with.
            "3F000" | "22012" => true,
            // insufficient_privilege; the others of class 42 are names that mean nothing, for our syntax is right.
            "42501" => false,
            code => code.starts_with("42"),
        }
    }

    /// Whether the server gave up one of two transactions that stood in each other's way.
    pub(super) fn is_collision(&self) -> bool {
        self.is(&SqlState::T_R_DEADLOCK_DETECTED) || self.is(&SqlState::T_R_SERIALIZATION_FAILURE)
    }
}

/// A server that does not answer.
pub(super) fn unreachable(server: &str, why: &str) -> Error {
    failed(server, ServerTrouble::Unreachable, why)
}

/// A table that holds what triplock does not write.
pub(super) fn changed(server: &str, why: &str) -> Error {
    let why = format!("{why} in a table of the schema triplock; somebody has changed it: restore it from a backup");
    failed(server, ServerTrouble::Damaged, &why)
}

pub(super) fn failed(server: &str, trouble: ServerTrouble, why: &str) -> Error {
    Error::Server { server: server.to_owned(), trouble, why: why.to_owned() }
}

/// What it says of a failed attempt to connect.
pub(super) fn not_connected(server: &str, error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(refused) => refusal(server, refused),
        None => match (tls::trouble(error), spoken(error)) {
            (Some(why), _) => failed(server, ServerTrouble::Misconfigured, &why),
            // The library's own words: it has no types for these two.
            (None, why) if why.contains("password missing") => {
                let why = "it asks for a password; give one in $TRIPLOCK_STORE_PASSWORD, a file or ~/.pgpass";
                failed(server, ServerTrouble::Denied, why)
            }
            (None, why) if why.contains("does not support TLS") => {
                let why = "it speaks no TLS; set `ssl = on` there, or insist on plain text with sslmode=disable in the \
                    store's URL";
                failed(server, ServerTrouble::Misconfigured, why)
            }
            (None, why) => {
                unreachable(server, &format!("cannot connect: {why}; start the server, or correct the store's URL"))
            }
        },
    }
}

fn ends_connection(error: &DbError) -> bool {
    matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
        // Older than 9.6, or a pooler: by the code. (Class 08 is "connection exception", 57P "operator intervention".)
        || ["08", "57P"].iter().any(|class| error.code().code().starts_with(class))
}

/// What went wrong, with its cause, in one line.
pub(super) fn spoken(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

fn refusal(server: &str, error: &DbError) -> Error {
    let code = error.code();
    let (trouble, advice) = match code.code() {
        "28P01" | "28000" => (ServerTrouble::Denied, ""),
        "42501" => (ServerTrouble::Denied, "; let its user create and use the schema triplock"),
        "3D000" => (ServerTrouble::Misconfigured, "; create it, or name another one in the URL"),
        "25006" => (ServerTrouble::Misconfigured, "; it is a replica or set to read only: name the primary in the URL"),
        "53300" => (ServerTrouble::Unreachable, "; raise max_connections, or put a pooler before it"),
        "53100" | "53200" => (ServerTrouble::Failed, "; nothing was changed; make room and retry"),
        "40001" | "40P01" => (ServerTrouble::Failed, "; nothing was changed; retry"),
        "23502" | "23503" | "23505" | "23514" => {
            (ServerTrouble::Damaged, "; nothing was changed; somebody has changed the schema triplock by hand")
        }
        code if code.starts_with("42") || code == "3F000" => {
            (ServerTrouble::Damaged, "; somebody has changed the schema triplock: restore it from a backup")
        }
        code if ["08", "57P"].iter().any(|class| code.starts_with(class)) => (ServerTrouble::Unreachable, ""),
        _ => (ServerTrouble::Failed, ""),
    };
    failed(server, trouble, &format!("{}{advice}", error.message().replace('\n', " ")))
}
