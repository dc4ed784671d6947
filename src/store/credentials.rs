//! Where a store's password comes from, when its URL has none.
//!
//! In this order: `$TRIPLOCK_STORE_PASSWORD`; the file that `$TRIPLOCK_STORE_PASSWORD_FILE` names, or else
//! `store_password_file` of config.toml; for PostgreSQL also what psql would use: `$PGPASSWORD`, and `$PGPASSFILE` or
//! `~/.pgpass`. A file is its owner's alone, or it is refused. Never from a command line, which `ps` shows to everybody.

use std::{ffi::OsStr, fmt, path::PathBuf};

use super::{Secret, StoreUrl, pgpass, url::Kind};
use crate::{
    config::{Told, read_secret},
    dir::Environment,
    error::{Error, Result},
};

/// Where a password was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// In the URL itself.
    Url,
    Variable(&'static str),
    /// A file, and what names it.
    File(PathBuf, String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => f.write_str("the store's URL"),
            Self::Variable(name) => write!(f, "${name}"),
            Self::File(path, named) if named.is_empty() => write!(f, "{}", path.display()),
            Self::File(path, named) => write!(f, "{} ({named})", path.display()),
        }
    }
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) password: Option<(Secret, Source)>,
    /// A file that was passed over, and what to do.
    pub(crate) passed_over: Option<String>,
}

/// Looks for the password of that server. `configured`: `store_password_file` of config.toml.
///
/// # Errors
/// `BadConfiguration`: a file that was named is not there, or others may use it. `Usage`: a variable is not UTF-8.
pub(crate) fn find(
    url: &StoreUrl,
    environment: &Environment,
    configured: Option<&Told<PathBuf>>,
    user: u32,
) -> Result<Found> {
    let found = |secret: Secret, source| Found { password: Some((secret, source)), passed_over: None };
    if let Some(password) = url.password() {
        return Ok(found(password.clone(), Source::Url));
    }
    let variable = |name, value: &OsStr| -> Result<Found> {
        let text = value.to_str().ok_or_else(|| Error::Usage(format!("${name} is not UTF-8")))?;
        Ok(found(Secret::new(text), Source::Variable(name)))
    };
    if let Some(value) = &environment.store_password {
        return variable("TRIPLOCK_STORE_PASSWORD", value);
    }
    let named = environment
        .store_password_file
        .as_ref()
        .map(|path| (PathBuf::from(path), "$TRIPLOCK_STORE_PASSWORD_FILE".to_owned()));
    let named = named.or_else(|| configured.map(|told| (told.value.clone(), told.to_string())));
    if let Some((path, named)) = named {
        if path.is_relative() {
            return Err(Error::Usage(format!("{named} is a relative path: {}; give an absolute one", path.display())));
        }
        let secret = in_file(&path, &named, user)?;
        return Ok(found(secret, Source::File(path, named)));
    }
    match url.kind() {
        Kind::Redis => Ok(Found::default()),
        Kind::Postgres => match &environment.pgpassword {
            Some(value) => variable("PGPASSWORD", value),
            None => pgpass::find(url, environment, user),
        },
    }
}

/// The only line of the file.
fn in_file(path: &std::path::Path, named: &str, user: u32) -> Result<Secret> {
    let wrong = |why: &str| Error::BadConfiguration { path: path.to_owned(), line: 0, why: why.to_owned() };
    let text = read_secret(path, user).map_err(crate::config::Problem::into_error)?;
    let text = text.ok_or_else(|| wrong(&format!("is not there, and {named} names it; write the password into it")))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    match line {
        "" => Err(wrong("is empty; write the password into it, and nothing else")),
        line if line.contains(['\n', '\0']) => Err(wrong("has more than one line; it is for the password alone")),
        line => Ok(Secret::new(line)),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::*;

    fn me() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn private(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn each_place_comes_before_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        private(&path("named"), "named\n");
        private(&path("configured"), "configured\r\n");
        private(&path(".pgpass"), "*:*:*:*:pgpass\n");
        let told = Told { value: path("configured"), path: "/c".into(), line: 3 };
        let mut environment = Environment {
            store_password: Some("variable".into()),
            store_password_file: Some(path("named").into()),
            pgpassword: Some("pgpassword".into()),
            home: Some(dir.path().into()),
            ..Environment::default()
        };
        let ask = |url: &str, environment: &Environment, configured| {
            let found = find(&url.parse().unwrap(), environment, configured, me()).unwrap();
            found.password.map(|(secret, source)| (secret.reveal().to_owned(), source.to_string()))
        };
        let (postgres, redis) = ("postgres://bob@h/d", "redis://bob@h");
        let is = |found: Option<(String, String)>, secret: &str, source: &str| {
            assert_eq!(found, Some((secret.to_owned(), source.to_owned())));
        };
        is(ask("postgres://bob:url@h/d", &environment, Some(&told)), "url", "the store's URL");
        is(ask(redis, &environment, Some(&told)), "variable", "$TRIPLOCK_STORE_PASSWORD");
        environment.store_password = None;
        let named = format!("{} ($TRIPLOCK_STORE_PASSWORD_FILE)", path("named").display());
        is(ask(postgres, &environment, Some(&told)), "named", &named);
        environment.store_password_file = None;
        let configured = format!("{} (/c line 3)", path("configured").display());
        is(ask(redis, &environment, Some(&told)), "configured", &configured);
        is(ask(postgres, &environment, None), "pgpassword", "$PGPASSWORD");
        assert_eq!(ask(redis, &environment, None), None);
        environment.pgpassword = None;
        is(ask(postgres, &environment, None), "pgpass", &path(".pgpass").display().to_string());
        environment.home = None;
        assert_eq!(ask(postgres, &environment, None), None);
    }

    #[test]
    fn a_file_that_was_named_is_there_and_holds_a_password() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let environment = Environment { store_password_file: Some(path.clone().into()), ..Environment::default() };
        let refused = |environment: &Environment| {
            find(&"redis://h".parse().unwrap(), environment, None, me()).unwrap_err().to_string()
        };
        let shown = path.display();
        assert_eq!(
            refused(&environment),
            format!("{shown}: is not there, and $TRIPLOCK_STORE_PASSWORD_FILE names it; write the password into it")
        );
        for (text, why) in [("", "is empty; "), ("\n", "is empty; "), ("a\nb\n", "has more than one line; ")] {
            private(&path, text);
            assert!(refused(&environment).starts_with(&format!("{shown}: {why}")), "{text:?}");
        }
        private(&path, " with spaces \n");
        let found = find(&"redis://h".parse().unwrap(), &environment, None, me()).unwrap();
        assert_eq!(found.password.unwrap().0.reveal(), " with spaces ");
        let relative = Environment { store_password_file: Some("password".into()), ..Environment::default() };
        assert!(refused(&relative).contains("is a relative path"));
    }
}
