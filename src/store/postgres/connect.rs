//! How to get to the server.

use std::{
    net::{IpAddr, ToSocketAddrs as _},
    time::Duration,
};

use rustls::ClientConfig;
use tokio_postgres::Config;

use super::{failure::unreachable, holder};
use crate::{
    error::Result,
    store::{StoreUrl, tls, url::Host},
};

/// When a connection is silent, how soon and how often the other end is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Where the server is, and what it must prove.
pub(super) struct Way {
    pub(super) config: Config,
    /// How to speak TLS with it; `None`: not at all.
    pub(super) tls: Option<ClientConfig>,
}

impl Way {
    /// What a URL means.
    ///
    /// Names are looked up here, by the C library: tokio would do it on a thread of its own, and a process that has
    /// threads must not fork, which `run` will do.
    ///
    /// # Errors
    /// `Server` when a host is not found, or no authority is known for its certificate; `Usage` when no user is named.
    pub(super) fn to(url: &StoreUrl, patience: Duration) -> Result<Self> {
        let mut config = url.postgres()?;
        config.application_name(holder::application_name());
        // Who waits for a lock hears nothing for long; who is cut off hears nothing at all.
        config.keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE).keepalives_retries(2);
        config.tcp_user_timeout(patience);
        let mut places = 0;
        for host in url.hosts() {
            match host {
                Host::Unix(directory, port) => {
                    config.host_path(directory).port(*port);
                    places += 1;
                }
                Host::Tcp(name, port) => {
                    for address in addresses(url, name, *port)? {
                        config.host(name).hostaddr(address).port(*port);
                        places += 1;
                    }
                }
            }
        }
        // One that does not answer must not use up the others' time.
        config.connect_timeout(patience / places.max(1));
        Ok(Self { config, tls: tls::client(url)? })
    }
}

fn addresses(url: &StoreUrl, name: &str, port: u16) -> Result<Vec<IpAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let found = (name, port).to_socket_addrs();
    let found = found.map_err(|e| {
        unreachable(
            &url.to_string(),
            &format!("cannot find the host {name}: {e}; see whether the store's URL is right"),
        )
    })?;
    Ok(found.map(|address| address.ip()).collect())
}
