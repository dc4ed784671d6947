//! What a URL says of a Redis: where it is, who asks, and how durable an answer must be.

use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo as _};

use super::wire::Address;
use crate::{
    error::{Error, Result, ServerTrouble},
    store::StoreUrl,
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
    pub(super) password: Option<String>,
    pub(super) database: i64,
    pub(super) replicas: Option<Replicas>,
}

/// `?wait_replicas=N&wait_timeout=MS`: an answer waits until so many replicas have it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Replicas {
    pub(super) count: u32,
    pub(super) timeout: Duration,
}

impl Place {
    /// # Errors
    /// `Server`, misconfigured: the URL makes no sense for a Redis.
    pub(super) fn of(url: &StoreUrl) -> Result<Self> {
        let shown = url.to_string();
        let wrong = |why: String| Error::Server { server: shown.clone(), trouble: ServerTrouble::Misconfigured, why };
        let (base, query) = url.secret_text().split_once('?').unwrap_or((url.secret_text(), ""));
        let info = base.into_connection_info().map_err(|e| wrong(format!("the store's URL: {}", e.category())))?;
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Address::Tcp { host: host.clone(), port: *port },
            ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
            _ => return Err(wrong("TLS: not yet".to_owned())),
        };
        let replicas = Replicas::of(query).map_err(wrong)?;
        let settings = info.redis_settings();
        let (user, password) = (settings.username().map(str::to_owned), settings.password().map(str::to_owned));
        Ok(Self { shown, address, user, password, database: settings.db(), replicas })
    }
}

impl Replicas {
    fn of(query: &str) -> Result<Option<Self>, String> {
        let (mut count, mut timeout) = (0, WAIT_TIMEOUT);
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let number = || match value.parse::<u32>() {
                Ok(number) => Ok(number),
                Err(_) => Err(format!("{key}={value} in the store's URL: give a whole number")),
            };
            match key {
                "wait_replicas" => count = number()?,
                // 0 would be for ever.
                "wait_timeout" => timeout = Duration::from_millis(number()?.max(1).into()),
                _ => {}
            }
        }
        Ok((count > 0).then_some(Self { count, timeout }))
    }
}
