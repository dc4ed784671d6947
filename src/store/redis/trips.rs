//! Trips: what `submit.lua` is asked and answers, and reading what it keeps.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use redis::Value;

use super::{
    RedisSession, command,
    keys::{Keys, NAMES, TRIPS},
    leases, reply,
    script::SUBMIT,
    trouble::Failure,
};
use crate::{
    booking::{Change, Event, Refusal, Roster, Totals},
    error::{Error, Result},
    lock::{Acquire, Fence, Until},
    name::Name,
    state::{Answer, Prepared, REQUEST_IDS_KEPT},
    store::{HeldLease, Resource},
};

/// Decides and commits those requests, when nobody has leased the trip.
pub(super) fn submit(
    session: &mut RedisSession,
    trip: &Name,
    requests: &[Prepared],
    retry: bool,
    until: Until,
) -> Result<Acquire<Vec<Result<Answer>>>> {
    loop {
        let held = match submit_once(session, trip, requests, retry)? {
            Ok(answers) => {
                session.listener = None;
                return Ok(Acquire::Granted(answers));
            }
            Err(held) => held,
        };
        let left = match until {
            Until::Now => Duration::ZERO,
            Until::At(end) => end.saturating_duration_since(Instant::now()),
            Until::Never => Duration::MAX,
        };
        if left.is_zero() {
            return Ok(Acquire::Held(Some(held.holder)));
        }
        // A lease that expires wakes nobody.
        leases::wait_for_release(session, &Resource::Named(trip.clone()), left.min(held.left))?;
    }
}

/// The inner error: somebody has leased the trip.
fn submit_once(
    session: &mut RedisSession,
    trip: &Name,
    requests: &[Prepared],
    retry: bool,
) -> Result<Result<Vec<Result<Answer>>, HeldLease>> {
    let keys = Keys::of_trip(trip);
    let mut names = vec![keys.head(), keys.booked(), keys.lease(1)];
    names.extend(requests.iter().map(|request| keys.id(request.id.as_str())));
    let mut call = SUBMIT.call(&names);
    let flag = |flag: bool| if flag { "1" } else { "0" };
    call.arg(crate::FORMAT).arg(flag(retry)).arg(flag(session.place.replicas.is_some()));
    call.arg(REQUEST_IDS_KEPT.num_milliseconds());
    for request in requests {
        call.arg(asked(&request.change)).arg(flag(request.given));
    }
    let adds = requests.iter().any(|request| matches!(request.change, Change::Add { .. }));
    let first = adds.then(|| command("SADD", [NAMES, keys.tag()]));
    let server = session.error();
    let reply = session.commit(first, &SUBMIT, call)?;
    answers(reply, trip, requests).map_err(server)
}

fn answers(
    reply: Value,
    trip: &Name,
    requests: &[Prepared],
) -> Result<Result<Vec<Result<Answer>>, HeldLease>, Failure> {
    let mut reply = reply::list(reply)?.into_iter();
    let mut next = || reply.next().unwrap_or_default();
    if reply::text(next())? == "held" {
        let lease = reply::text(next())?;
        let left = reply::integer(&next())?;
        return leases::held(1, &lease, left).map(Err);
    }
    let lines = reply::list(next())?;
    if lines.len() != requests.len() {
        return Err(Failure::Senseless(format!("{} answers to {} requests", lines.len(), requests.len())));
    }
    let answers = requests.iter().zip(lines).map(|(request, line)| answer(trip, request, &reply::text(line)?));
    answers.collect::<Result<_, _>>().map(Ok)
}

/// A change as the script reads it, and as an id's key begins.
fn asked(change: &Change) -> String {
    let student = change.student().map_or("-", |student| student.as_str());
    match change.seats() {
        Some(seats) => format!("{} {student} {seats}", change.word()),
        None => format!("{} {student} -", change.word()),
    }
}

/// The inner error is the request's.
fn answer(trip: &Name, request: &Prepared, line: &str) -> Result<Result<Answer>, Failure> {
    if line == "gone" {
        return Ok(Err(Error::NoSuchTrip(trip.clone())));
    }
    let senseless = || Failure::Senseless(format!("trip {trip}: an answer {line:?}; see what has changed its data"));
    let words: Vec<&str> = line.split(' ').collect();
    let &[age, outcome, number, revision, fence, time, seats_left] = &words[..] else { return Err(senseless()) };
    let optional = |word: &str| match word {
        "-" => Ok(None),
        word => reply::number::<u64>(word).map(Some),
    };
    let number = optional(number)?.map(u32::try_from).transpose().map_err(|_| senseless())?;
    let revision = optional(revision)?;
    let event = event(&request.change, outcome, number).ok_or_else(senseless)?;
    let is_reused = matches!(event, Event::Refused { refusal: Refusal::RequestIdReused, .. });
    Ok(Ok(Answer {
        trip: trip.clone(),
        event,
        revision,
        fence: Fence(reply::number(fence)?),
        time: time_of(reply::number(time)?).ok_or_else(senseless)?,
        seats_left: reply::number(seats_left)?,
        request_id: (revision.is_some() || is_reused).then(|| request.id.clone()),
        replayed: age == "again",
    }))
}

fn event(change: &Change, outcome: &str, number: Option<u32>) -> Option<Event> {
    if outcome != "done" {
        return Some(Event::Refused { change: change.clone(), refusal: Refusal::from_word(outcome, number)? });
    }
    Some(match change.clone() {
        Change::Add { seats } => Event::Added { seats },
        Change::Book { student, seats } => Event::Booked { student, seats },
        Change::Cancel { student } => Event::Cancelled { student, seats: number? },
        Change::Resize { seats } => Event::Resized { seats },
        Change::Remove => Event::Removed,
    })
}

/// Microseconds since 1970 as a time.
pub(super) fn time_of(micros: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros)
}

/// A trip's sums, if there is such a trip.
pub(super) fn totals(session: &mut RedisSession, trip: &Name) -> Result<Option<Totals>, Failure> {
    let reply = session.ask_one(read_head(&Keys::of_trip(trip)))?;
    totals_of(trip, reply)
}

/// Every trip that is there, in byte order.
pub(super) fn list(session: &mut RedisSession) -> Result<Vec<(Name, Totals)>, Failure> {
    let names = names(session, TRIPS)?;
    let commands: Vec<_> = names.iter().map(|name| read_head(&Keys::of_trip(name))).collect();
    let mut trips = Vec::with_capacity(names.len());
    for (name, reply) in names.into_iter().zip(session.ask(&commands)?) {
        if let Some(totals) = totals_of(&name, reply)? {
            trips.push((name, totals));
        }
    }
    Ok(trips)
}

/// A trip and all its bookings: both are read in one transaction.
pub(super) fn roster(session: &mut RedisSession, trip: &Name) -> Result<Option<Roster>, Failure> {
    let keys = Keys::of_trip(trip);
    let commands = [redis::cmd("MULTI"), read_head(&keys), command("HGETALL", [keys.booked()]), redis::cmd("EXEC")];
    let [.., done] = reply::array::<4>(Value::Array(session.ask(&commands)?))?;
    let [head, booked] = reply::array(Value::Array(super::accepted(reply::list(done)?)?))?;
    let Some(totals) = totals_of(trip, head)? else { return Ok(None) };
    let senseless =
        || Failure::Senseless(format!("trip {trip}: a booking makes no sense; see what has changed its data"));
    let mut bookings = Vec::new();
    let mut fields = reply::list(booked)?.into_iter();
    while let (Some(student), Some(seats)) = (fields.next(), fields.next()) {
        let student = reply::text(student)?.parse().map_err(|_| senseless())?;
        bookings.push((student, reply::number(&reply::text(seats)?)?));
    }
    Roster::of(totals, bookings).map(Some).map_err(|why| Failure::Senseless(format!("trip {trip}: {why}")))
}

/// The names of that kind that there may be, in byte order.
pub(super) fn names(session: &mut RedisSession, kind: &str) -> Result<Vec<Name>, Failure> {
    let mut names = Vec::new();
    for tag in reply::list(session.ask_one(command("SMEMBERS", [NAMES]))?)? {
        let name = reply::text(tag)?.strip_prefix(kind).map(str::parse::<Name>);
        // Whatever else there is, we have not put it there.
        names.extend(name.and_then(Result::ok));
    }
    names.sort();
    Ok(names)
}

fn read_head(keys: &Keys) -> redis::Cmd {
    command("HMGET", [&*keys.head(), "format", "fence", "revision", "added", "seats", "left", "bookings"])
}

fn totals_of(trip: &Name, reply: Value) -> Result<Option<Totals>, Failure> {
    let [format, fence, revision, sums @ ..] = reply::array::<7>(reply)?;
    check_format(reply::optional_text(format)?.as_deref())?;
    // A head without a revision is of a name that was leased, and never a trip.
    let Some(revision) = reply::optional_text(revision)? else { return Ok(None) };
    let number = |value: Value| reply::number::<u64>(&reply::text(value)?);
    let [added, seats, seats_left, bookings] = sums.map(number);
    let (seats, seats_left) = (u32::try_from(seats?), u32::try_from(seats_left?));
    let (Ok(seats), Ok(seats_left)) = (seats, seats_left) else { return Err(contradicts(trip)) };
    let bookings = bookings?;
    if seats_left > seats || bookings > u64::from(seats - seats_left) {
        return Err(contradicts(trip));
    }
    let added = added?;
    let added = (added > 0).then_some(added);
    let fence = Fence(number(fence)?);
    let totals = Totals { seats, seats_left, bookings, revision: reply::number(&revision)?, fence, added };
    Ok(added.map(|_| totals))
}

fn contradicts(trip: &Name) -> Failure {
    Failure::Senseless(format!("trip {trip}: its sums contradict each other; restore its data from a backup"))
}

/// Refuses what a newer triplock wrote.
pub(super) fn check_format(format: Option<&str>) -> Result<(), Failure> {
    match format.map(str::parse::<u64>) {
        None | Some(Ok(crate::FORMAT)) => Ok(()),
        _ => Err(Failure::Format(format.unwrap_or_default().to_owned())),
    }
}
