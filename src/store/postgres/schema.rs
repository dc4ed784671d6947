//! The tables of the store, and their versions.
//!
//! They are made when they are first missed: nobody asks for them beforehand, that would be a round trip of every process.
//! A statement that fails because of its tables, or that reads another version beside what it came for, leads to [`mend`].
//!
//! 1. It takes an advisory lock of the database first: of sixteen processes that come at once, one makes the tables.
//! 2. Under the lock it reads the version, and takes every migration that comes after it, each a step of the one
//!    transaction: a process that is killed in the middle leaves what was there before.
//! 3. A newer version is refused: a triplock that does not know a column would leave it out of its sums. Who migrates
//!    locks the tables against whoever is at work, so the version that is read under a row's lock holds until its commit.

use std::fmt::Write as _;

use super::{
    client::Client,
    failure::{Failure, failed},
};
use crate::error::{Result, ServerTrouble};

/// What makes each version of the version before it; the first one, of nothing.
const MIGRATIONS: &[&str] = &[include_str!("schema.sql"), include_str!("schema-2.sql")];

/// A column of any statement, which fails ("division by zero") when the tables are of another version than ours. So no
/// statement of a transaction that has it is committed then, and it costs no round trip.
pub(super) const FITS: &str =
    "1 / (coalesce((SELECT max(version) FROM triplock.migrations), 0) = 2)::int AS version_fits";

/// The key of the advisory lock: "triplock" as a number.
const LOCK: i64 = i64::from_be_bytes(*b"triplock");

/// Does something with the tables, which are made or migrated first if they must be.
///
/// # Errors
/// As the server's failures say, and: `Misconfigured` when the tables are of a newer version, `Damaged` when somebody has
/// changed them.
pub(super) fn with_tables<T>(client: &mut Client, mut act: impl FnMut(&mut Client) -> Result<T, Failure>) -> Result<T> {
    match act(client) {
        Err(failure) if failure.is_about_schema() => mend(client)?,
        done => return done.map_err(|failure| failure.into_error(client.server())),
    }
    act(client).map_err(|failure| failure.into_error(client.server()))
}

/// The same for who only looks: where there are no tables, there is nothing, and none are made.
pub(super) fn with_tables_if_any<T: Default>(
    client: &mut Client,
    mut act: impl FnMut(&mut Client) -> Result<T, Failure>,
) -> Result<T> {
    match act(client) {
        Err(failure) if failure.is_about_schema() => {
            let there = client.ask("ROLLBACK; SELECT to_regclass('triplock.migrations') IS NOT NULL")?;
            if there.iter().flatten().any(|row| row.is_true(0)) { with_tables(client, act) } else { Ok(T::default()) }
        }
        done => done.map_err(|failure| failure.into_error(client.server())),
    }
}

/// What is to be done when that version is there (0: no tables).
#[derive(Debug, PartialEq, Eq)]
enum Plan<'m> {
    Nothing,
    /// These, the first of which makes that version.
    Migrate(usize, &'m [&'m str]),
    Refuse,
}

fn plan<'m>(found: usize, migrations: &'m [&'m str]) -> Plan<'m> {
    match migrations.get(found..) {
        None => Plan::Refuse,
        Some([]) => Plan::Nothing,
        Some(rest) => Plan::Migrate(found + 1, rest),
    }
}

/// Makes the tables what they should be, or says why that cannot be. After `Ok` the statement is worth another try.
///
/// # Errors
/// As [`with_tables`].
pub(super) fn mend(client: &mut Client) -> Result<()> {
    migrate(client, MIGRATIONS)
}

fn migrate(client: &mut Client, migrations: &[&str]) -> Result<()> {
    let patience = client.patience().as_millis();
    let found = client.ask(&format!(
        "ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {patience}; \
         SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({LOCK}); \
         SELECT to_regnamespace('triplock') IS NOT NULL, to_regclass('triplock.migrations') IS NOT NULL"
    ))?;
    let is_there = |column| found.last().into_iter().flatten().any(|row| row.is_true(column));
    let mut version = 0;
    if is_there(1) {
        let found = client.ask("SELECT coalesce(max(version), 0) FROM triplock.migrations")?;
        version = found.iter().flatten().next().and_then(|row| row.get(0).ok()).unwrap_or_default();
    }
    match plan(version, migrations) {
        Plan::Nothing => client.ask("ROLLBACK").map(drop),
        Plan::Refuse => {
            let why = format!(
                "the tables of its schema triplock have version {version}, newer than this triplock knows ({}); \
                 upgrade triplock",
                migrations.len()
            );
            Err(failed(client.server(), ServerTrouble::Misconfigured, &why))
        }
        Plan::Migrate(first, steps) => {
            let mut statements = String::new();
            if !is_there(0) {
                statements.push_str("CREATE SCHEMA triplock;\n");
            }
            if !is_there(1) {
                statements.push_str(
                    "CREATE TABLE triplock.migrations (\
                     version integer PRIMARY KEY, taken timestamptz NOT NULL DEFAULT clock_timestamp());\n",
                );
            }
            for (version, step) in (first..).zip(steps) {
                statements.push_str(step);
                let _ = write!(statements, ";\nINSERT INTO triplock.migrations (version) VALUES ({version});\n");
            }
            statements.push_str("COMMIT");
            client.ask(&statements).map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_one_after_another_and_never_back() {
        let migrations = &["one", "two", "three"][..];
        assert_eq!(plan(0, migrations), Plan::Migrate(1, &["one", "two", "three"]));
        assert_eq!(plan(1, migrations), Plan::Migrate(2, &["two", "three"]));
        assert_eq!(plan(3, migrations), Plan::Nothing);
        assert_eq!(plan(4, migrations), Plan::Refuse);
    }

    #[test]
    fn what_fits_is_the_newest_version() {
        assert!(FITS.contains(&format!("= {})", MIGRATIONS.len())), "{FITS}");
    }
}
