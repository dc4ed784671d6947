//! Where a store on a server is, and how it is spoken to.
//!
//! ```text
//! redis://[USER@]HOST[:PORT][/NUMBER]        rediss:// the same by TLS        redis+unix:///PATH[?db=NUMBER]
//! postgres://[USER@]HOST[:PORT][,…][/DATABASE]        postgres:///DATABASE?host=/DIRECTORY by a Unix socket
//! ```
//!
//! A password may stand there as `USER:PASSWORD@` (not on a command line), and comes out nowhere: what prints a URL, or
//! says what is wrong with one, quotes nothing that could be part of it.

#[cfg(feature = "postgres")]
mod for_postgres;
mod parse;
mod percent;
mod shown;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::secret::Secret;
use crate::{
    error::{Error, Result},
    install::Account,
};

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Redis,
    Postgres,
}

impl Kind {
    /// The word for it: in URLs, of the feature, of the lock of a race.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A name or an address, an IPv6 one without its brackets.
    Tcp(String, u16),
    /// Redis: the socket. PostgreSQL: the directory it is in, and the port that it is named after.
    Unix(PathBuf, u16),
}

impl Host {
    /// Whether what is sent there stays on this machine.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unix(..) => true,
            Self::Tcp(name, _) => match name.parse::<IpAddr>() {
                Ok(address) => address.to_canonical().is_loopback(),
                // RFC 6761: these never mean another machine.
                Err(_) => name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost"),
            },
        }
    }
}

/// What a connection's encryption proves. The words are libpq's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// `disable`: nothing is encrypted.
    Off,
    /// `require`: who listens reads nothing; who stands between reads all.
    Unverified,
    /// `verify-ca`: an authority that we trust certified somebody.
    Authority,
    /// `verify-full`: it certified this server.
    Full,
}

impl Encryption {
    const WORDS: [(&'static str, Self); 4] = [
        ("disable", Self::Off),
        ("require", Self::Unverified),
        ("verify-ca", Self::Authority),
        ("verify-full", Self::Full),
    ];
}

/// Which of several servers will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Any,
    /// One that takes writes.
    Primary,
}

/// The URL of a store: `redis://…`, `rediss://…`, `redis+unix://…`, `postgres://…`. Shown without its password, always.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    kind: Kind,
    hosts: Vec<Host>,
    user: Option<String>,
    password: Option<Secret>,
    database: Option<String>,
    encryption: Encryption,
    root_certificates: Option<PathBuf>,
    target: Target,
    wait_replicas: Option<u32>,
    wait_timeout: Option<Duration>,
}

impl StoreUrl {
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// In the order in which they are tried; Redis: one.
    pub(crate) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Whether it names a password.
    pub(crate) fn has_password(&self) -> bool {
        self.password.is_some()
    }

    pub(crate) fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// The same server with that password, which somebody keeps elsewhere.
    pub(crate) fn with_password(self, password: Secret) -> Self {
        Self { password: Some(password), ..self }
    }

    /// All of it, with the password: for a process of ours, in its environment.
    pub(crate) fn secret_text(&self) -> String {
        shown::Whole(self).to_string()
    }

    /// PostgreSQL: who asks, and by default the name of the database: whoever runs this, as with psql.
    ///
    /// # Errors
    /// `Usage`: nobody is named, and this machine has no name for who runs this.
    pub(crate) fn postgres_user(&self) -> Result<String> {
        if let Some(user) = &self.user {
            return Ok(user.clone());
        }
        let number = rustix::process::geteuid().as_raw();
        let account = Account::listed(&number.to_string());
        account.map(|account| account.name).ok_or_else(|| {
            Error::Usage(format!("{self}: names no user, and user {number} has no name here; give postgres://USER@…"))
        })
    }

    /// PostgreSQL: its name. Redis: a number.
    pub(crate) fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    pub(crate) fn encryption(&self) -> Encryption {
        self.encryption
    }

    /// The file with the certificates of the authorities that are trusted instead of the machine's.
    pub(crate) fn root_certificates(&self) -> Option<&Path> {
        self.root_certificates.as_deref()
    }

    /// Redis: how many replicas must have a commit before it is answered (`WAIT`).
    pub(crate) fn wait_replicas(&self) -> Option<u32> {
        self.wait_replicas
    }

    /// Redis: how long they are waited for, if the URL says so.
    pub(crate) fn wait_timeout(&self) -> Option<Duration> {
        self.wait_timeout
    }

    /// What whoever uses it should know: that somebody on the way can read along.
    pub(crate) fn warning(&self) -> Option<String> {
        let far = self.hosts.iter().find(|host| !host.is_local())?;
        let Host::Tcp(far, _) = far else { return None };
        let secure = match self.kind {
            Kind::Redis => "rediss://",
            Kind::Postgres => "sslmode=verify-full",
        };
        match self.encryption {
            Encryption::Off => Some(format!(
                "{self}: everything goes to {far} in plain text, passwords too, and can be read and changed on the way; use {secure}"
            )),
            Encryption::Unverified => Some(format!(
                "{self}: nothing proves that {far} is who it says it is (sslmode=require), so who stands between can read and change everything; use sslmode=verify-full"
            )),
            Encryption::Authority | Encryption::Full => None,
        }
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        parse::parse(given)
    }
}
