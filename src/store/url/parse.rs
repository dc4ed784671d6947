//! What the text of a URL means.
//!
//! No error quotes a part of the text: where a password has odd characters that are not written as `%XX`, any part may be
//! a piece of it. For the same reason an `@` after the host is refused: it is what follows such a password.

use std::{net::Ipv6Addr, path::PathBuf, time::Duration};

use super::{Encryption, Host, Kind, Secret, StoreUrl, Target, percent::decode};
use crate::config::nearest;

const FORMS: &str = "give redis://HOST, rediss://HOST or postgres://HOST/DATABASE, or redis+unix:///SOCKET or \
    postgres:///DATABASE?host=/DIRECTORY for a Unix socket";

/// What a scheme says.
struct Scheme {
    kind: Kind,
    is_encrypted: bool,
    is_unix: bool,
}

pub(super) fn parse(given: &str) -> Result<StoreUrl, String> {
    if given.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("a space or control character is in the URL; write it as %20 or another %XX".to_owned());
    }
    let (scheme, rest) = given.split_once("://").ok_or(FORMS)?;
    let (kind, is_encrypted, is_unix) = match scheme {
        "redis" => (Kind::Redis, false, false),
        "rediss" => (Kind::Redis, true, false),
        "redis+unix" => (Kind::Redis, false, true),
        "postgres" | "postgresql" => (Kind::Postgres, false, false),
        _ => return Err(FORMS.to_owned()),
    };
    let scheme = Scheme { kind, is_encrypted, is_unix };
    let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if after.contains(['@', '#']) {
        let why = "an @ or # stands after the host; in a user, a password or a database write / as %2F, ? as %3F, # as %23 \
            and @ as %40";
        return Err(why.to_owned());
    }
    let (path, query) = after.split_once('?').unwrap_or((after, ""));
    let (who, hosts) = authority.rsplit_once('@').map_or((None, authority), |(who, hosts)| (Some(who), hosts));
    let mut words = Words::read(kind, query)?;
    let (user, password) = match who.map(|who| who.split_once(':').map_or((who, None), |(a, b)| (a, Some(b)))) {
        Some((user, password)) => {
            (Some(part("the user", user)?), password.map(|word| part("the password", word)).transpose()?)
        }
        None => (None, None),
    };
    let user = one("the user", user.filter(|user| !user.is_empty()), words.take("user"))?;
    let password = one("the password", password, words.take("password"))?.filter(|password| !password.is_empty());
    let (hosts, database) = match kind {
        Kind::Redis => redis(&scheme, hosts, path, &mut words)?,
        Kind::Postgres => postgres(hosts, path, &mut words)?,
    };
    let encryption = match words.encryption(&scheme, &hosts)? {
        Some(given) => given,
        None if scheme.is_encrypted => Encryption::Full,
        None if kind == Kind::Postgres && (words.has("sslrootcert") || !hosts.iter().all(Host::is_local)) => {
            Encryption::Full
        }
        None => Encryption::Off,
    };
    let root_certificates = words.root_certificates(encryption)?;
    let target = words.target(hosts.len())?;
    let wait_replicas = words.number("wait_replicas")?;
    let wait_timeout = words.duration("wait_timeout")?;
    Ok(StoreUrl {
        kind,
        hosts,
        user,
        password: password.map(Secret::new),
        database,
        encryption,
        root_certificates,
        target,
        wait_replicas,
        wait_timeout,
    })
}

/// A decoded part.
fn part(what: &str, text: &str) -> Result<String, String> {
    decode(text).map_err(|why| format!("{what}: {why}"))
}

/// What may be said in two places, said in one of them.
fn one(what: &str, first: Option<String>, second: Option<String>) -> Result<Option<String>, String> {
    match (first, second) {
        (Some(_), Some(_)) => Err(format!("{what} is given twice")),
        (first, second) => Ok(first.or(second)),
    }
}

type Place = (Vec<Host>, Option<String>);

fn redis(scheme: &Scheme, hosts: &str, path: &str, words: &mut Words) -> Result<Place, String> {
    let number = words.take("db");
    if scheme.is_unix {
        if !hosts.is_empty() {
            return Err("redis+unix:// has no host: give redis+unix:///SOCKET, with three slashes".to_owned());
        }
        let socket = part("the socket", path)?;
        if socket.len() < 2 {
            return Err("the socket is missing: give redis+unix:///SOCKET".to_owned());
        }
        return Ok((vec![Host::Unix(socket.into(), 0)], database_number(number)?));
    }
    if hosts.contains(',') {
        return Err("it names several servers, and Redis has one that takes writes; give that one".to_owned());
    }
    if hosts.is_empty() {
        return Err(format!("the host is missing: {FORMS}"));
    }
    let in_path = Some(part("the database", path.trim_start_matches('/'))?).filter(|number| !number.is_empty());
    let number = one("the database", in_path, number)?;
    Ok((vec![host(hosts, 6379)?], database_number(number)?))
}

/// (The first database is where everybody is who names none.)
fn database_number(given: Option<String>) -> Result<Option<String>, String> {
    let Some(given) = given else { return Ok(None) };
    let number = given.parse::<u16>().map_err(|_| "the database is a number of Redis, such as /1".to_owned())?;
    Ok((number > 0).then(|| number.to_string()))
}

fn postgres(hosts: &str, path: &str, words: &mut Words) -> Result<Place, String> {
    let path = path.strip_prefix('/').unwrap_or(path);
    if path.contains('/') {
        return Err("a database has no / in its name; if this one has, write it as %2F".to_owned());
    }
    let in_path = Some(part("the database", path)?).filter(|database| !database.is_empty());
    let database = one("the database", in_path, words.take("dbname"))?;
    let (listed, ports) = (words.take("host"), words.take("port"));
    let hosts = match (hosts.is_empty(), listed) {
        (false, None) if ports.is_none() => hosts.split(',').map(|text| host(text, 5432)).collect::<Result<_, _>>()?,
        (false, _) => return Err("the host is given twice, before the / and after the ?".to_owned()),
        (true, None) => return Err(format!("the host is missing: {FORMS}")),
        (true, Some(listed)) => {
            let listed: Vec<_> = listed.split(',').collect();
            let ports: Vec<_> = ports.as_deref().map_or(vec![], |ports| ports.split(',').collect());
            if ports.len() > 1 && ports.len() != listed.len() {
                return Err("there are not as many ports as hosts".to_owned());
            }
            let host = |(number, name): (usize, &&str)| {
                let port = ports.get(number).or(ports.first()).map_or(Ok(5432), |text| port(text))?;
                named(name, port)
            };
            listed.iter().enumerate().map(host).collect::<Result<_, _>>()?
        }
    };
    Ok((hosts, database))
}

/// A host and, if it has one, its port.
fn host(text: &str, default_port: u16) -> Result<Host, String> {
    let (name, port_text) = if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or("the ] after an IPv6 address is missing")?;
        let text = part("the host", address)?;
        // With a zone: fe80::1%eth0.
        let address = text.split('%').next().unwrap_or_default();
        address.parse::<Ipv6Addr>().map_err(|_| "what stands in [] is not an IPv6 address")?;
        match after.strip_prefix(':') {
            Some(port_text) => return Ok(Host::Tcp(text, port(port_text)?)),
            None if after.is_empty() => return Ok(Host::Tcp(text, default_port)),
            None => return Err("something stands after an IPv6 address that is no port".to_owned()),
        }
    } else {
        text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)))
    };
    if port_text.is_some_and(|port| port.contains(':')) {
        return Err("too many colons; an IPv6 address is written in brackets: [::1]".to_owned());
    }
    named(&part("the host", name)?, port_text.map_or(Ok(default_port), port)?)
}

/// A host of that name, or the socket in the directory of that name.
fn named(name: &str, port: u16) -> Result<Host, String> {
    if name.starts_with('/') {
        return Ok(Host::Unix(PathBuf::from(name), port));
    }
    let is_address = name.parse::<Ipv6Addr>().is_ok();
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() {
        return Err(format!("the host is missing: {FORMS}"));
    }
    if name.len() > 253 || !is_address && !name.chars().all(is_name) {
        return Err(
            "the host has characters that no host's name has; in a user or a password write them as %XX".to_owned()
        );
    }
    Ok(Host::Tcp(name.to_owned(), port))
}

fn port(text: &str) -> Result<u16, String> {
    let wrong =
        "the port is not a number from 1 to 65535; in a user or a password write : as %3A, @ as %40 and / as %2F";
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| *port > 0 && is_number).ok_or_else(|| wrong.to_owned())
}

/// The words after the `?`, each of them taken once.
struct Words(Vec<(&'static str, String)>);

impl Words {
    const REDIS: [&'static str; 7] =
        ["db", "user", "password", "sslmode", "sslrootcert", "wait_replicas", "wait_timeout"];
    const POSTGRES: [&'static str; 8] =
        ["host", "port", "user", "password", "dbname", "sslmode", "sslrootcert", "target_session_attrs"];

    fn read(kind: Kind, query: &str) -> Result<Self, String> {
        let known = match kind {
            Kind::Redis => Self::REDIS.as_slice(),
            Kind::Postgres => Self::POSTGRES.as_slice(),
        };
        let mut words: Vec<(&str, String)> = Vec::new();
        for (number, word) in query.split('&').filter(|word| !word.is_empty()).enumerate() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let Some(known) = known.iter().find(|known| **known == key) else {
                let number = number + 1;
                return Err(match nearest(key, known.iter().copied()) {
                    Some(meant) => format!("parameter {number} is unknown; did you mean {meant}?"),
                    None => format!("parameter {number} is unknown; known are {}", known.join(", ")),
                });
            };
            if words.iter().any(|(before, _)| before == known) {
                return Err(format!("{known} is given twice"));
            }
            words.push((known, part(known, value)?));
        }
        Ok(Self(words))
    }

    fn take(&mut self, word: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| *known == word)?;
        Some(self.0.swap_remove(at).1)
    }

    fn has(&self, word: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == word)
    }

    fn encryption(&mut self, scheme: &Scheme, hosts: &[Host]) -> Result<Option<Encryption>, String> {
        let Some(word) = self.take("sslmode") else { return Ok(None) };
        if word == "prefer" || word == "allow" {
            let why = "sslmode: prefer and allow go on in plain text when somebody on the way wants it; give verify-full, or \
                disable where plain text will do";
            return Err(why.to_owned());
        }
        let meant = Encryption::WORDS.into_iter().find(|(known, _)| *known == word).map(|(_, meant)| meant);
        let meant = meant.ok_or("sslmode is disable, require, verify-ca or verify-full")?;
        let is_off = meant == Encryption::Off;
        if scheme.kind == Kind::Redis && is_off == scheme.is_encrypted {
            let (instead, what) = if is_off { ("redis://", "no TLS") } else { ("rediss://", "TLS") };
            return Err(format!("sslmode contradicts the scheme; for {what} give {instead}"));
        }
        if !is_off && hosts.iter().any(|host| matches!(host, Host::Unix(..))) {
            return Err("there is no TLS on a Unix socket, and no need: leave sslmode out".to_owned());
        }
        Ok(Some(meant))
    }

    fn root_certificates(&mut self, encryption: Encryption) -> Result<Option<PathBuf>, String> {
        let Some(path) = self.take("sslrootcert") else { return Ok(None) };
        match encryption {
            // libpq's word for the machine's own.
            _ if path == "system" => Ok(None),
            Encryption::Off => Err("sslrootcert without TLS: give rediss://, or sslmode=verify-full".to_owned()),
            Encryption::Unverified => {
                Err("sslmode=require verifies nothing, so sslrootcert means nothing: give sslmode=verify-full"
                    .to_owned())
            }
            _ if !path.starts_with('/') => Err("sslrootcert is not an absolute path".to_owned()),
            _ => Ok(Some(path.into())),
        }
    }

    fn target(&mut self, hosts: usize) -> Result<Target, String> {
        match self.take("target_session_attrs").as_deref() {
            // Of several, the first that takes writes is the store.
            None if hosts > 1 => Ok(Target::Primary),
            None | Some("any") => Ok(Target::Any),
            Some("read-write" | "primary") => Ok(Target::Primary),
            Some("read-only" | "standby" | "prefer-standby") => {
                Err("target_session_attrs: a store is written to; give read-write".to_owned())
            }
            Some(_) => Err("target_session_attrs is any or read-write".to_owned()),
        }
    }

    fn number(&mut self, word: &str) -> Result<Option<u32>, String> {
        let Some(text) = self.take(word) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{word} is not a whole number"))
    }

    fn duration(&mut self, word: &str) -> Result<Option<Duration>, String> {
        let Some(text) = self.take(word) else { return Ok(None) };
        let meant = crate::duration::parse(&text).ok().filter(|duration| !duration.is_zero());
        meant
            .map(Some)
            .ok_or_else(|| format!("{word} is not a duration: give seconds (0.3) or a number with a unit (5s 1m)"))
    }
}
