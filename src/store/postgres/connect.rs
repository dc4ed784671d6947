//! How to get to the server.

use std::{
    net::{IpAddr, ToSocketAddrs as _},
    time::Duration,
};

use tokio_postgres::{
    Config,
    config::{SslMode, TargetSessionAttrs},
};

use super::{failure::unreachable, holder};
use crate::{
    error::Result,
    store::{
        StoreUrl,
        url::{Host, Target},
    },
};

/// When a connection is silent, how soon and how often the other end is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// What a URL means to tokio-postgres.
///
/// Names are looked up here, by the C library: tokio would do it on a thread of its own, and a process that has threads
/// must not fork, which `run` will do.
pub(super) fn config(url: &StoreUrl, patience: Duration) -> Result<Config> {
    let mut config = Config::new();
    config.application_name(holder::application_name()).connect_timeout(patience).ssl_mode(SslMode::Disable);
    // Who waits for a lock hears nothing for long; who is cut off hears nothing at all.
    config.keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE).keepalives_retries(2).tcp_user_timeout(patience);
    if let Some(user) = url.user() {
        config.user(user);
    }
    if let Some(password) = url.password() {
        config.password(password.reveal());
    }
    if let Some(database) = url.database() {
        config.dbname(database);
    }
    if url.target() == Target::Primary {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    for host in url.hosts() {
        match host {
            Host::Unix(directory, port) => _ = config.host_path(directory).port(*port),
            Host::Tcp(name, port) => {
                for address in addresses(url, name, *port)? {
                    config.host(name).hostaddr(address).port(*port);
                }
            }
        }
    }
    Ok(config)
}

fn addresses(url: &StoreUrl, name: &str, port: u16) -> Result<Vec<IpAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let found = (name, port).to_socket_addrs().map_err(|e| unreachable(&url.to_string(), &format!("cannot find {name}: {e}")))?;
    Ok(found.map(|address| address.ip()).collect())
}
