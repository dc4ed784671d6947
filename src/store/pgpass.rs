//! `~/.pgpass`: the file in which psql and everything else that speaks with PostgreSQL looks for passwords.
//!
//! `host:port:database:user:password`, a server a line, `*` for any; `:` and `\` are written `\:` and `\\`. As libpq, this
//! passes over a file that others than its owner may use, and says so
//! (<https://www.postgresql.org/docs/current/libpq-pgpass.html>).

use std::path::PathBuf;

use super::{
    Secret, StoreUrl,
    credentials::{Found, Source},
    url::Host,
};
use crate::{config::read_secret, dir::Environment, error::Result};

pub(super) fn find(url: &StoreUrl, environment: &Environment, user: u32) -> Result<Found> {
    let (path, named) = match (&environment.pgpassfile, &environment.home) {
        (Some(path), _) => (PathBuf::from(path), "$PGPASSFILE".to_owned()),
        (None, Some(home)) => (PathBuf::from(home).join(".pgpass"), String::new()),
        (None, None) => return Ok(Found::default()),
    };
    match read_secret(&path, user) {
        Err(problem) => Ok(Found { password: None, passed_over: Some(format!("{problem}; it is passed over")) }),
        Ok(None) => Ok(Found::default()),
        Ok(Some(text)) => {
            let asker = url.postgres_user()?;
            let secret = url.hosts().iter().find_map(|host| password(&text, host, url.database(), &asker));
            Ok(Found { password: secret.map(|secret| (secret, Source::File(path, named))), passed_over: None })
        }
    }
}

/// The password of the first line that is meant.
fn password(text: &str, host: &Host, database: Option<&str>, user: &str) -> Option<Secret> {
    let (names, port) = match host {
        Host::Tcp(name, port) => (vec![name.clone()], port),
        Host::Unix(directory, port) => {
            let mut names = vec![directory.to_string_lossy().into_owned()];
            // Where libpq looks by default, and what it calls that.
            if ["/tmp", "/run/postgresql", "/var/run/postgresql"].contains(&&*names[0]) {
                names.push("localhost".to_owned());
            }
            (names, port)
        }
    };
    let port = port.to_string();
    let database = database.unwrap_or(user);
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let [of_host, of_port, of_database, of_user, password] = &fields[..] else { return None };
        let means = |field: &Field, value: &str| field.is_any || field.text == value;
        let is_meant = (of_host.is_any || names.contains(&of_host.text))
            && means(of_port, &port)
            && means(of_database, database)
            && means(of_user, user);
        is_meant.then(|| Secret::new(password.text.clone()))
    })
}

struct Field {
    text: String,
    /// A bare `*`.
    is_any: bool,
}

fn fields(line: &str) -> Vec<Field> {
    let mut fields = Vec::new();
    let (mut text, mut raw) = (String::new(), String::new());
    let mut characters = line.trim_end_matches('\r').chars();
    while let Some(c) = characters.next() {
        match c {
            // What stands after the fifth colon is no further field but a mistake that libpq lets pass.
            ':' if fields.len() < 4 => {
                fields.push(Field { is_any: raw == "*", text: std::mem::take(&mut text) });
                raw.clear();
            }
            ':' => break,
            '\\' => {
                raw.push(c);
                text.extend(characters.next());
            }
            c => {
                raw.push(c);
                text.push(c);
            }
        }
    }
    fields.push(Field { is_any: false, text });
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_means_what_libpq_takes_it_for() {
        let text = "# h:5432:d:bob:comment\n\
            h:5432:d:bob:one\n\
            h:5432:d:b\\:o\\\\b:two\n\
            h:5432:\\*:star:three\n\
            *:6:*:*:fo\\:u\\r\n\
            ::1:5432:d:bob:not so\n\
            \\:\\:1:5432:d:bob:five\n\
            localhost:5432:*:bob:six\n\
            /srv/pg:*:*:bob:seven\n\
            short:line\n\
            *:*:same:same:eight\r\n";
        let tcp = |name: &str, port| Host::Tcp(name.to_owned(), port);
        let unix = |path: &str| Host::Unix(path.into(), 5432);
        for (host, database, user, wanted) in [
            (tcp("h", 5432), Some("d"), "bob", Some("one")),
            (tcp("h", 5432), Some("d"), "b:o\\b", Some("two")),
            (tcp("h", 5432), Some("d"), "star", None),
            (tcp("h", 5432), Some("*"), "star", Some("three")),
            (tcp("x", 6), Some("y"), "z", Some("fo:ur")),
            (tcp("::1", 5432), Some("d"), "bob", Some("five")),
            (unix("/run/postgresql"), Some("d"), "bob", Some("six")),
            (unix("/srv/pg"), Some("d"), "bob", Some("seven")),
            (tcp("127.0.0.1", 5432), Some("d"), "bob", None),
            (tcp("q", 1), None, "same", Some("eight")),
        ] {
            let found = password(text, &host, database, user);
            assert_eq!(found.as_ref().map(Secret::reveal), wanted, "{host:?} {database:?} {user}");
        }
    }
}
