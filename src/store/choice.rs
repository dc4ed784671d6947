//! Which store is meant.

use std::str::FromStr;

use super::StoreUrl;

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
