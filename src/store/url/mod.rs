//! Where a store on a server is, and how it is spoken to.
//!
//! ```text
//! redis://[USER@]HOST[:PORT][/NUMBER]        rediss:// the same by TLS        redis+unix:///PATH[?db=NUMBER]
//! postgres://[USER@]HOST[:PORT][,…][/DATABASE]        postgres:///DATABASE?host=/DIRECTORY by a Unix socket
//! ```
//!
//! A password may stand there as `USER:PASSWORD@` (not on a command line), and comes out nowhere: what prints a URL, or
//! says what is wrong with one, quotes nothing that could be part of it.

mod parse;
mod percent;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::secret::Secret;

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

    /// Which of several servers will do.
    pub(crate) fn target(&self) -> Target {
        self.target
    }

    /// Redis: how many replicas must have a commit before it is answered (`WAIT`).
    pub(crate) fn wait_replicas(&self) -> Option<u32> {
        self.wait_replicas
    }

    /// Redis: how long they are waited for.
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

/// `postgres://bob@db.example.org:5432/trips`: never the password, and of the rest what tells one store from another.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unix, tcp): (Vec<_>, Vec<_>) = self.hosts.iter().partition(|host| matches!(host, Host::Unix(..)));
        f.write_str(match (self.kind, self.encryption) {
            (Kind::Postgres, _) => "postgres://",
            (Kind::Redis, _) if !unix.is_empty() => "redis+unix://",
            (Kind::Redis, Encryption::Off) => "redis://",
            (Kind::Redis, _) => "rediss://",
        })?;
        if let Some(user) = &self.user {
            percent::encode(f, user, b"")?;
            f.write_str("@")?;
        }
        for (number, host) in tcp.iter().enumerate() {
            if let Host::Tcp(name, port) = host {
                let comma = if number == 0 { "" } else { "," };
                let (open, close) = if name.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "{comma}{open}{name}{close}:{port}")?;
            }
        }
        let sockets = |f: &mut fmt::Formatter<'_>| {
            for (number, host) in unix.iter().enumerate() {
                if let Host::Unix(path, _) = host {
                    f.write_str(if number == 0 { "" } else { "," })?;
                    percent::encode(f, &path.to_string_lossy(), b"/")?;
                }
            }
            Ok(())
        };
        let database = self.database.as_deref().filter(|database| self.kind == Kind::Postgres || *database != "0");
        if self.kind == Kind::Redis && !unix.is_empty() {
            sockets(f)?;
            return database.map_or(Ok(()), |database| write!(f, "?db={database}"));
        }
        if let Some(database) = database {
            f.write_str("/")?;
            percent::encode(f, database, b"")?;
        }
        if !unix.is_empty() {
            f.write_str(if database.is_some() { "?host=" } else { "/?host=" })?;
            sockets(f)?;
        }
        Ok(())
    }
}

/// Without the password, as [`fmt::Display`].
impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}
