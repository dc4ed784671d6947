//! Ledgers of jobs: what `append.lua` is asked and answers, and reading what it keeps.
//!
//! The ledger is a stream, whose entry `N-0` is the N-th ever appended: so a part of it is read by number, and trimming
//! the oldest moves no number.

use chrono::{DateTime, Utc};
use redis::Value;

use super::{
    RedisSession, command,
    keys::{JOBS, Keys, NAMES},
    reply,
    script::APPEND,
    trips::{check_format, names, time_of},
    trouble::Failure,
};
use crate::{
    error::Result,
    job::{Entry, Totals},
    name::Name,
    store::{Append, Lease, LedgerHead},
};

/// How many entries of a job are kept, at least; a few more, for a stream is trimmed by whole blocks.
const KEPT: u32 = 20_000;

pub(super) fn head(session: &mut RedisSession, job: &Name) -> Result<LedgerHead, Failure> {
    let replies = session.ask(&[read_head(&Keys::of_job(job)), redis::cmd("TIME")])?;
    let [head, time] = reply::array(Value::Array(replies))?;
    let (revision, totals) = sums(job, head)?.unwrap_or_default();
    Ok(LedgerHead { revision, totals, now: parse_time(time)? })
}

pub(super) fn append(
    session: &mut RedisSession,
    job: &Name,
    head: &LedgerHead,
    entries: &[Entry],
    totals: &Totals,
    lease: Option<&Lease>,
) -> Result<Append> {
    let keys = Keys::of_job(job);
    let mut names = vec![keys.head(), keys.entries()];
    names.extend(lease.map(|lease| Keys::of(&lease.resource).lease(lease.slot)));
    let json = |value: Result<String, serde_json::Error>| value.expect("an entry is plain data");
    let mut call = APPEND.call(&names);
    call.arg(crate::FORMAT).arg(head.revision).arg(json(serde_json::to_string(totals)));
    call.arg(lease.map_or("", |lease| lease.token.as_str())).arg(KEPT);
    for entry in entries {
        call.arg(json(serde_json::to_string(entry)));
    }
    let first = (head.revision == 0).then(|| command("SADD", [NAMES, keys.tag()]));
    let reply = session.commit(first, &APPEND, call)?;
    let word = reply::text(reply).map_err(session.error())?;
    match &*word {
        "done" => Ok(Append::Done),
        "moved" => Ok(Append::Moved),
        "lost" => Ok(Append::LeaseLost),
        other => Err(session.error()(Failure::Senseless(format!("job {job}: an append came to {other:?}")))),
    }
}

pub(super) fn entries(
    session: &mut RedisSession,
    job: &Name,
    before: Option<u64>,
    most: usize,
) -> Result<Vec<(u64, Entry)>, Failure> {
    let end = match before {
        None => "+".to_owned(),
        Some(0) => return Ok(Vec::new()),
        // The part after the dash is 0 of every entry.
        Some(before) => format!("({before}-0"),
    };
    let keys = Keys::of_job(job);
    let read = command("XREVRANGE", [&*keys.entries(), &*end, "-", "COUNT", &*most.to_string()]);
    let replies = session.ask(&[command("HGET", [&*keys.head(), "format"]), read])?;
    let [format, found] = reply::array(Value::Array(replies))?;
    check_format(reply::optional_text(format)?.as_deref())?;
    let mut entries = Vec::new();
    for entry in reply::list(found)? {
        let [id, fields] = reply::array(entry)?;
        let [_, entry] = reply::array(fields)?;
        let id = reply::text(id)?;
        let number = reply::number(id.split('-').next().unwrap_or_default())?;
        let entry = serde_json::from_str(&reply::text(entry)?);
        entries.push((number, entry.map_err(|e| senseless(job, &format!("entry {number}: {e}")))?));
    }
    Ok(entries)
}

/// Every job that has a ledger, in byte order.
pub(super) fn list(session: &mut RedisSession) -> Result<Vec<(Name, Totals)>, Failure> {
    let names = names(session, JOBS)?;
    let commands: Vec<_> = names.iter().map(|name| read_head(&Keys::of_job(name))).collect();
    let mut jobs = Vec::with_capacity(names.len());
    for (name, reply) in names.into_iter().zip(session.ask(&commands)?) {
        if let Some((_, totals)) = sums(&name, reply)? {
            jobs.push((name, totals));
        }
    }
    Ok(jobs)
}

/// The server's time.
pub(super) fn now(session: &mut RedisSession) -> Result<DateTime<Utc>, Failure> {
    let time = session.ask_one(redis::cmd("TIME"))?;
    parse_time(time)
}

fn parse_time(time: Value) -> Result<DateTime<Utc>, Failure> {
    let [seconds, micros] = reply::array(time)?;
    let (seconds, micros): (i64, i64) = (reply::number(&reply::text(seconds)?)?, reply::number(&reply::text(micros)?)?);
    let time = seconds.checked_mul(1_000_000).and_then(|time| time.checked_add(micros)).and_then(time_of);
    time.ok_or_else(|| Failure::Senseless("its clock is off the calendar; set it".to_owned()))
}

fn read_head(keys: &Keys) -> redis::Cmd {
    command("HMGET", [&*keys.head(), "format", "revision", "totals"])
}

/// `None`: the job was at most leased.
fn sums(job: &Name, head: Value) -> Result<Option<(u64, Totals)>, Failure> {
    let [format, revision, totals] = reply::array(head)?;
    check_format(reply::optional_text(format)?.as_deref())?;
    match (reply::optional_text(revision)?, reply::optional_text(totals)?) {
        (None, None) => Ok(None),
        (Some(revision), Some(totals)) => {
            let totals = serde_json::from_str(&totals).map_err(|e| senseless(job, &e.to_string()))?;
            Ok(Some((reply::number(&revision)?, totals)))
        }
        _ => Err(senseless(job, "a sum is missing")),
    }
}

fn senseless(job: &Name, why: &str) -> Failure {
    Failure::Senseless(format!("the ledger of job {job}: {why}; restore its data from a backup"))
}
