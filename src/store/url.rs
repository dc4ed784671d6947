//! Where a store on a server is.

use std::{fmt, str::FromStr};

use crate::{dir::Environment, error::Error};

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

/// Which store is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreChoice {
    /// The state directory.
    Files,
    Server(StoreUrl),
}

impl StoreChoice {
    /// The server, if it is one.
    pub(crate) fn into_url(self) -> Option<StoreUrl> {
        match self {
            Self::Files => None,
            Self::Server(url) => Some(url),
        }
    }

    /// What the environment or the configuration says.
    ///
    /// # Errors
    /// `Usage` and `BadConfiguration`, when that is no store.
    pub(crate) fn default_of(environment: &Environment) -> Result<Self, Error> {
        let Some(given) = &environment.store else { return Ok(Self::Files) };
        let given = given.to_str().ok_or_else(|| Error::Usage("$TRIPLOCK_STORE is not UTF-8".to_owned()))?;
        given.parse().map_err(|why| Error::Usage(format!("$TRIPLOCK_STORE: {why}")))
    }

    /// What was said on a command line, which everybody on the machine can read: no password is taken from there.
    pub(crate) fn from_argument(given: &str) -> Result<Self, String> {
        let choice: Self = given.parse()?;
        match &choice {
            Self::Server(url) if url.has_password() => {
                Err("a command line is shown to everybody by ps, so no password \
                 belongs there: give the URL without it, and the password in $TRIPLOCK_STORE_PASSWORD or a file"
                    .to_owned())
            }
            _ => Ok(choice),
        }
    }
}

impl FromStr for StoreChoice {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        if given == "files" { Ok(Self::Files) } else { given.parse().map(Self::Server) }
    }
}

/// The URL of a store: `redis://…`, `rediss://…`, `postgres://…`. Shown without its password, always.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    kind: Kind,
    text: String,
}

impl StoreUrl {
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it names a password.
    pub(crate) fn has_password(&self) -> bool {
        let rest = self.text.split_once("://").map_or("", |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    }

    /// As it was given: with its password, if one is in it.
    pub(crate) fn secret_text(&self) -> &str {
        &self.text
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let kind = match given.split_once("://").map(|(scheme, _)| scheme) {
            Some("redis" | "rediss" | "redis+unix" | "rediss+unix") => Kind::Redis,
            Some("postgres" | "postgresql") => Kind::Postgres,
            _ => return Err("give redis://HOST, rediss://HOST or postgres://HOST/DATABASE".to_owned()),
        };
        Ok(Self { kind, text: given.to_owned() })
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://…", self.kind.word())
    }
}

/// Without the password, as [`fmt::Display`].
impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}
