//! What goes wrong with a server, and what to do about it.

use redis::ServerError;

use super::wire::Broken;
use crate::error::{Error, ServerTrouble};

/// A call that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection did.
    Broken(Broken),
    /// The server refused: nothing was changed.
    Refused(ServerError),
    /// It holds what a newer triplock wrote, in that format.
    Format(String),
    /// It replied what makes no sense.
    Senseless(String),
}

impl Failure {
    /// Of a call that may be made again.
    pub(super) fn error(&self, server: &str) -> Error {
        let of = |trouble, why: String| Error::Server { server: server.to_owned(), trouble, why };
        match self {
            Self::Broken(broken) => of(ServerTrouble::Unreachable, unreachable_because(broken.source())),
            Self::Refused(error) => {
                let (trouble, why) = refused(error);
                of(trouble, why)
            }
            Self::Format(found) => of(ServerTrouble::Misconfigured, newer(found)),
            Self::Senseless(why) => of(ServerTrouble::Damaged, why.clone()),
        }
    }

    /// Of a call that changes something: once the request has left, nobody knows whether it did.
    pub(super) fn of_commit(&self, server: &str) -> Error {
        match self {
            Self::Broken(Broken::Unanswered(e)) => {
                Error::Uncertain { request_id: None, why: format!("{server}: {}", unreachable_because(e)) }
            }
            other => other.error(server),
        }
    }
}

/// Why a server cannot be reached, and what to do.
pub(super) fn unreachable_because(e: &std::io::Error) -> String {
    use std::io::ErrorKind as Kind;
    match e.kind() {
        Kind::ConnectionRefused => "nothing listens there; start the server, or correct the store's URL".to_owned(),
        Kind::NotFound if e.raw_os_error().is_some() => {
            "there is no such socket; start the server, or correct the store's URL".to_owned()
        }
        // Somebody knows more.
        Kind::TimedOut if e.get_ref().is_some() => e.to_string(),
        Kind::TimedOut | Kind::WouldBlock => {
            "it does not answer in time; see whether it is up and its network reaches here".to_owned()
        }
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe => {
            "it closed the connection; see its log, and try again".to_owned()
        }
        Kind::InvalidData => format!("{e}; see what listens at the store's URL"),
        _ => format!("{e}; see whether it is up and the store's URL is right"),
    }
}

const ASKS_FOR_PASSWORD: &str = "it asks for a password; give one in $TRIPLOCK_STORE_PASSWORD or a file";

/// What the server's error means, by its first word.
fn refused(error: &ServerError) -> (ServerTrouble, String) {
    use ServerTrouble::{Damaged, Denied, Failed, Misconfigured, Unreachable};
    // Scripts add where the error was raised.
    let details = error.details().unwrap_or_default();
    let details = details.split(" script: ").next().unwrap_or_default().trim_end();
    let (trouble, why) = match error.code() {
        "NOAUTH" => (Denied, ASKS_FOR_PASSWORD.to_owned()),
        "WRONGPASS" => (Denied, "it refuses that user name or password".to_owned()),
        "NOPERM" => {
            (Denied, format!("{details}; allow the user the keys and channels triplock:* and the commands on them"))
        }
        "READONLY" => (Misconfigured, "it is a replica and takes no writes; name the primary in the store's URL".to_owned()),
        "MASTERDOWN" => {
            (Unreachable, "it is a replica that has lost its primary; name the primary in the store's URL".to_owned())
        }
        "LOADING" => (Unreachable, "it is still loading its data; try again in a moment".to_owned()),
        "BUSY" => (Unreachable, "a script keeps it busy; try again, or see SCRIPT KILL".to_owned()),
        "NOREPLICAS" => {
            (Unreachable, "it takes no writes with fewer replicas than its min-replicas-to-write; bring them back".to_owned())
        }
        "MISCONF" => {
            (Misconfigured, "it cannot write to its disk, and takes no writes until it can; see its log and free space".to_owned())
        }
        "OOM" => (Misconfigured, "its memory is full; nothing was changed; raise maxmemory, or free some".to_owned()),
        "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" | "TRYAGAIN" => {
            (Misconfigured, "it is a node of a Redis Cluster, which triplock does not follow; name a server outside of one".to_owned())
        }
        "FORMAT" => (Misconfigured, newer(details)),
        "WRONGTYPE" => (
            Damaged,
            "a key that begins with triplock: holds what triplock did not put there; nothing was changed; find out who \
             did"
                .to_owned(),
        ),
        "DAMAGED" => (Damaged, format!("{details}; nothing was changed; restore its data from a backup")),
        "ERR" => of_general(details),
        other => (Failed, format!("{other} {details}")),
    };
    (trouble, why)
}

fn newer(found: &str) -> String {
    format!("format {found} is newer than this triplock reads ({}); upgrade triplock", crate::FORMAT)
}

/// Errors whose kind only their text tells.
fn of_general(details: &str) -> (ServerTrouble, String) {
    use ServerTrouble::{Denied, Failed, Misconfigured, Unreachable};
    if details.contains("AUTH") && details.contains("without any password") {
        return (Denied, "a password was given, and it has none; correct the store's URL or the password".to_owned());
    }
    // What it says to a request that is longer than what it takes from a stranger.
    if details.contains("unauthenticated") {
        return (Denied, ASKS_FOR_PASSWORD.to_owned());
    }
    if details.contains("DB index") {
        return (Misconfigured, "it has no database of that number; correct the store's URL".to_owned());
    }
    if details.contains("compiling script") || details.contains("unknown command") {
        return (
            Misconfigured,
            format!("it is too old, or lacks what triplock needs ({details}); use Redis 7 or later"),
        );
    }
    if details.contains("max number of clients") {
        return (Unreachable, "it has as many clients as it takes; try again, or raise its maxclients".to_owned());
    }
    (Failed, details.to_owned())
}
