//! What a URL says of a Redis: where it is, who asks, and how durable an answer must be.

use std::time::Duration;

use super::wire::Address;
use crate::{
    error::Result,
    store::{Secret, StoreUrl, tls, url::Host},
};

/// How long replicas may take unless the URL says otherwise.
const WAIT_TIMEOUT: Duration = Duration::from_secs(1);

/// A server, and how to use it.
#[derive(Clone)]
pub(super) struct Place {
    /// The URL as it may be shown.
    pub(super) shown: String,
    pub(super) address: Address,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) database: i64,
    pub(super) replicas: Option<Replicas>,
}

/// `?wait_replicas=N&wait_timeout=SECONDS`: an answer waits until so many replicas have it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Replicas {
    pub(super) count: u32,
    pub(super) timeout: Duration,
}

impl Place {
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.address, Address::Tcp { tls: Some(_), .. })
    }

    /// # Errors
    /// `Server`, misconfigured: TLS is asked for, and no authority is known.
    pub(super) fn of(url: &StoreUrl) -> Result<Self> {
        let address = match &url.hosts()[0] {
            Host::Unix(path, _) => Address::Unix(path.clone()),
            host @ Host::Tcp(name, port) => {
                Address::Tcp { host: name.clone(), port: *port, tls: tls::for_host(url, host)? }
            }
        };
        let timeout = url.wait_timeout().unwrap_or(WAIT_TIMEOUT);
        let replicas = url.wait_replicas().filter(|count| *count > 0).map(|count| Replicas { count, timeout });
        Ok(Self {
            shown: url.to_string(),
            address,
            user: url.user().map(str::to_owned),
            password: url.password().cloned(),
            // (It was parsed as a number.)
            database: url.database().and_then(|number| number.parse().ok()).unwrap_or_default(),
            replicas,
        })
    }
}
