//! A URL as text: for people without its password, for a process of ours with all of it.

use std::fmt;

use super::{Encryption, Host, Kind, Secret, StoreUrl, Target, percent::encode};

/// `postgres://bob@db.example.org:5432/trips`: never the password, and of the rest what tells one store from another.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, None).map(drop)
    }
}

/// Without the password, as [`fmt::Display`].
impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

/// All of it, with the password.
pub(super) struct Whole<'a>(pub(super) &'a StoreUrl);

impl fmt::Display for Whole<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.0;
        let mut has_words = url.write(f, url.password.as_ref().map(Secret::reveal))?;
        let mut word = |f: &mut fmt::Formatter<'_>, key: &str, value: &str| {
            f.write_str(if std::mem::replace(&mut has_words, true) { "&" } else { "?" })?;
            write!(f, "{key}=")?;
            encode(f, value, b"/")
        };
        let on_socket = url.hosts.iter().any(|host| matches!(host, Host::Unix(..)));
        if on_socket && url.kind == Kind::Postgres {
            let ports = url.hosts.iter().map(|host| match host {
                Host::Tcp(_, port) | Host::Unix(_, port) => port.to_string(),
            });
            word(f, "port", &ports.collect::<Vec<_>>().join(","))?;
        }
        if !(on_socket && url.encryption == Encryption::Off) {
            let known = Encryption::WORDS.iter().find(|(_, meant)| *meant == url.encryption);
            word(f, "sslmode", known.map_or("", |(known, _)| known))?;
        }
        if let Some(path) = &url.root_certificates {
            word(f, "sslrootcert", &path.to_string_lossy())?;
        }
        if url.kind == Kind::Postgres {
            word(f, "target_session_attrs", if url.target == Target::Any { "any" } else { "read-write" })?;
        }
        if let Some(count) = url.wait_replicas {
            word(f, "wait_replicas", &count.to_string())?;
        }
        if let Some(timeout) = url.wait_timeout {
            word(f, "wait_timeout", &timeout.as_secs_f64().to_string())?;
        }
        Ok(())
    }
}

impl StoreUrl {
    /// Writes what tells one store from another; whether a `?` is in it.
    fn write(&self, f: &mut fmt::Formatter<'_>, password: Option<&str>) -> Result<bool, fmt::Error> {
        let on_socket = self.hosts.iter().any(|host| matches!(host, Host::Unix(..)));
        f.write_str(match (self.kind, self.encryption) {
            (Kind::Postgres, _) => "postgres://",
            (Kind::Redis, _) if on_socket => "redis+unix://",
            (Kind::Redis, Encryption::Off) => "redis://",
            (Kind::Redis, _) => "rediss://",
        })?;
        encode(f, self.user.as_deref().unwrap_or_default(), b"")?;
        if let Some(password) = password {
            f.write_str(":")?;
            encode(f, password, b"")?;
        }
        if self.user.is_some() || password.is_some() {
            f.write_str("@")?;
        }
        if !on_socket {
            self.write_hosts(f, true)?;
        }
        match (self.kind, self.database.as_deref()) {
            (Kind::Redis, database) if on_socket => {
                self.write_hosts(f, false)?;
                database.map_or(Ok(false), |database| write!(f, "?db={database}").map(|()| true))
            }
            (Kind::Redis, None) => Ok(false),
            (Kind::Redis, Some(database)) => write!(f, "/{database}").map(|()| false),
            (Kind::Postgres, database) => {
                if let Some(database) = database {
                    f.write_str("/")?;
                    encode(f, database, b"")?;
                }
                if on_socket {
                    f.write_str(if database.is_some() { "?host=" } else { "/?host=" })?;
                    self.write_hosts(f, false)?;
                }
                Ok(on_socket)
            }
        }
    }

    fn write_hosts(&self, f: &mut fmt::Formatter<'_>, with_ports: bool) -> fmt::Result {
        for (number, host) in self.hosts.iter().enumerate() {
            f.write_str(if number == 0 { "" } else { "," })?;
            match host {
                Host::Unix(path, _) => encode(f, &path.to_string_lossy(), b"/")?,
                Host::Tcp(name, port) if with_ports => {
                    // (The % of an address's zone.)
                    let name = name.replace('%', "%25");
                    let (open, close) = if name.contains(':') { ("[", "]") } else { ("", "") };
                    write!(f, "{open}{name}{close}:{port}")?;
                }
                Host::Tcp(name, _) => encode(f, name, b":")?,
            }
        }
        Ok(())
    }
}
