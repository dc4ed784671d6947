//! Ledgers of jobs: for each job its sums, and the newest of its entries.
//!
//! An append is one transaction in one message: compare-and-set on the revision, and with a lease on that being held.
//! The lease's row is locked, so it cannot pass on between that look and the commit.

use std::fmt::Write as _;

use super::{
    PostgresSession,
    failure::changed,
    leases::still_held,
    literal::literal,
    row::{NOW, Row, Unexpected},
    schema::{FITS, with_tables, with_tables_if_any},
    script::Script,
};
use crate::{
    error::Result,
    job::{Entry, Totals},
    name::Name,
    store::{Append, Lease, LedgerHead, Session as _},
};

/// How many entries of a job are kept.
const KEPT: u64 = 20_000;

/// How many are removed at most by who appends.
const PRUNED_AT_MOST: u64 = 1000;

pub(super) fn head(session: &mut PostgresSession, job: &Name) -> Result<LedgerHead> {
    let client = &mut session.client;
    let mut script = Script::new();
    let found = script.add(format_args!(
        "SELECT {NOW}, {FITS}, revision, totals FROM (SELECT) AS once \
         LEFT JOIN triplock.jobs ON job = {}",
        literal(job.as_str())
    ));
    let read = |row: &Row| {
        let now = row.time(0)?;
        Ok(match row.get_optional(2)? {
            Some(revision) => LedgerHead { revision, totals: totals(row, 3)?, now },
            None => LedgerHead { now, ..LedgerHead::default() },
        })
    };
    match with_tables_if_any(client, |client| script.send(client).map(Some))? {
        Some(answers) => {
            let row = answers.row(found).ok_or_else(|| "no row".to_owned());
            row.and_then(read).map_err(|why| changed(client.server(), &why))
        }
        None => Ok(LedgerHead { now: session.now()?, ..LedgerHead::default() }),
    }
}

fn totals(row: &Row, column: usize) -> Result<Totals, Unexpected> {
    serde_json::from_str(row.text(column)?).map_err(|e| format!("totals are not sums ({e})"))
}

pub(super) fn append(
    session: &mut PostgresSession,
    job: &Name,
    head: &LedgerHead,
    entries: &[Entry],
    totals: &Totals,
    lease: Option<&Lease>,
) -> Result<Append> {
    let client = &mut session.client;
    let json = |value: serde_json::Result<String>| literal(value.expect("an entry is plain data"));
    let name = literal(job.as_str());
    let totals = json(serde_json::to_string(totals));
    let revision = head.revision + entries.len() as u64;
    let condition = lease.map_or_else(|| "SELECT".to_owned(), still_held);
    let moved = if head.revision == 0 {
        format!(
            "INSERT INTO triplock.jobs (job, revision, totals) SELECT {name}, {revision}, {totals} FROM held \
             ON CONFLICT (job) DO UPDATE SET revision = excluded.revision, totals = excluded.totals \
             WHERE jobs.revision = 0"
        )
    } else {
        format!(
            "UPDATE triplock.jobs SET revision = {revision}, totals = {totals} \
             WHERE job = {name} AND revision = {} AND EXISTS (SELECT FROM held)",
            head.revision
        )
    };
    let (mut rows, mut number) = (String::new(), head.revision);
    for entry in entries {
        number += 1;
        let comma = if rows.is_empty() { "" } else { "," };
        let _ = write!(rows, "{comma}({number}::bigint,{})", json(serde_json::to_string(entry)));
    }
    let written = match &*rows {
        "" => String::new(),
        rows => format!(
            ", written AS (INSERT INTO triplock.entries (job, number, entry) \
             SELECT job, number, entry FROM moved, (VALUES {rows}) AS entries (number, entry))"
        ),
    };
    let mut script = Script::short_transaction(client);
    let done = script.add(format_args!(
        "WITH held AS MATERIALIZED ({condition}), moved AS ({moved} RETURNING job){written} \
         SELECT (SELECT count(*) FROM held), (SELECT count(*) FROM moved)"
    ));
    if revision > KEPT {
        script.add(format_args!(
            "DELETE FROM triplock.entries WHERE job = {name} AND number IN (SELECT number FROM triplock.entries \
             WHERE job = {name} AND number <= {} ORDER BY number LIMIT {PRUNED_AT_MOST})",
            revision - KEPT
        ));
    }
    script.add("COMMIT");
    let answers = with_tables(client, |client| script.send(client))?;
    let count = |column| answers.row(done).map_or(Ok(0u32), |row| row.get(column));
    let counts = count(0).and_then(|held| Ok((held, count(1)?)));
    Ok(match counts.map_err(|why| changed(client.server(), &why))? {
        (0, _) => Append::LeaseLost,
        (_, 0) => Append::Moved,
        _ => Append::Done,
    })
}

pub(super) fn entries(
    session: &mut PostgresSession,
    job: &Name,
    before: Option<u64>,
    most: usize,
) -> Result<Vec<(u64, Entry)>> {
    let client = &mut session.client;
    let before = before.map_or_else(String::new, |before| format!(" AND number < {before}"));
    let mut script = Script::new();
    let found = script.add(format_args!(
        "SELECT number, entry, {FITS} FROM triplock.entries WHERE job = {}{before} ORDER BY number DESC LIMIT {most}",
        literal(job.as_str())
    ));
    let entry = |row: &Row| {
        let entry = serde_json::from_str(row.text(1)?).map_err(|e| format!("entry is none ({e})"))?;
        Ok((row.get(0)?, entry))
    };
    let answers = with_tables_if_any(client, |client| script.send(client).map(Some))?;
    let rows = answers.iter().flat_map(|answers| answers.rows(found));
    rows.map(entry).collect::<Result<_, Unexpected>>().map_err(|why| changed(client.server(), &why))
}

pub(super) fn jobs(session: &mut PostgresSession) -> Result<Vec<(Name, Totals)>> {
    let client = &mut session.client;
    let mut script = Script::new();
    let found = script.add(format_args!("SELECT job, totals, {FITS} FROM triplock.jobs ORDER BY job"));
    let answers = with_tables_if_any(client, |client| script.send(client).map(Some))?;
    let rows = answers.iter().flat_map(|answers| answers.rows(found));
    let job = |row: &Row| Ok((row.get(0)?, totals(row, 1)?));
    rows.map(job).collect::<Result<_, Unexpected>>().map_err(|why| changed(client.server(), &why))
}
