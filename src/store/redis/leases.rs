//! Leases: what the scripts are asked and answer, and waiting for one to be given back.
//!
//! A lease's key holds `TOKEN FENCE NOTE`: 32 digits, a number, and the holder's note as JSON. The fence stands outside
//! the note, because the script gives it.
//!
//! Who waits stands in the lane, a sorted set of tickets ([`crate::store`]'s tickets say why). Who is first, whether its time
//! is over, and to whom a slot is given, one script decides; where nobody waits, that costs it one look at an empty lane.

use std::time::Duration;

use redis::Value;

use super::{
    RedisSession, command,
    keys::{Keys, NAMES},
    open, reply,
    script::{ACQUIRE, FORGET, LEAVE, RELEASE, RENEW},
    trips::check_format,
    trouble::Failure,
};
use crate::{
    clock::BootTime,
    error::{Error, Result, ServerTrouble},
    lock::{Fence, Holder},
    store::{Attempt, HeldLease, Lease, LeaseView, Resource, Ticket, Token},
};

pub(super) fn acquire(
    session: &mut RedisSession,
    resource: &Resource,
    slots: u32,
    ttl: Duration,
    holder: &Holder,
    ticket: Option<&Ticket>,
) -> Result<Attempt> {
    let keys = Keys::of(resource);
    let token = Token::new().map_err(|e| Error::io("get randomness from", "getrandom(2)", e))?;
    let note = serde_json::to_string(holder).expect("a note is plain data");
    let mut call = ACQUIRE.call(&keys.all(slots));
    call.arg(crate::FORMAT).arg(token.as_str()).arg(millis(ttl)).arg(note);
    call.arg(ticket.map_or("", |ticket| ticket.token.as_str())).arg(millis(Ticket::TTL));
    call.arg(if ticket.is_some_and(|ticket| ticket.is_urgent) { "urgent" } else { "" }).arg(keys.released());
    let first = command("SADD", [NAMES, keys.tag()]);
    // From before the request is sent, so that our time is over before the server's.
    let deadline = BootTime::now() + ttl;
    let reply = session.run(Some(first), &ACQUIRE, call, true).map_err(session.error())?;
    let lease = |slot, fence| Lease { resource: resource.clone(), slot, token: token.clone(), fence, ttl, deadline };
    match reply {
        Ok(reply) => {
            let attempt = attempt(reply, lease).map_err(session.error())?;
            if let Attempt::Granted(_) = attempt {
                session.listener = None;
            }
            Ok(attempt)
        }
        // It may be ours, and would keep everybody out until it expires.
        Err(why) => {
            // A job has no more, whatever somebody has written there.
            for slot in 1..=slots.min(crate::job::Options::MAX_SLOTS) {
                let _ = release(session, &lease(slot, Fence(0)));
            }
            if let Some(ticket) = ticket {
                let _ = leave(session, resource, ticket);
            }
            Err(too_few(session, &why))
        }
    }
}

fn attempt(reply: Value, lease: impl Fn(u32, Fence) -> Lease) -> Result<Attempt, Failure> {
    let mut reply = reply::list(reply)?.into_iter();
    let mut next = || reply.next().unwrap_or_default();
    let word = reply::text(next())?;
    let slot = u32::try_from(reply::integer(&next())?).unwrap_or_default();
    let what = reply::text(next())?;
    match &*word {
        "granted" => Ok(Attempt::Granted(lease(slot, Fence(reply::number(&what)?)))),
        word => {
            let held = held(slot, &what, reply::integer(&next())?)?;
            Ok(Attempt::Held(HeldLease { is_awaited: word == "awaited", ..held }))
        }
    }
}

/// A lease as its key has it, which expires in so many milliseconds.
pub(super) fn held(slot: u32, lease: &str, left: i64) -> Result<HeldLease, Failure> {
    let mut parts = lease.splitn(3, ' ').skip(1);
    let fence = parts.next().and_then(|fence| fence.parse().ok());
    let holder = parts.next().and_then(|note| serde_json::from_str::<Holder>(note).ok());
    // -1: it never expires.
    match (fence, holder, u64::try_from(left)) {
        (Some(fence), Some(holder), Ok(left)) => {
            let (holder, left) = (Holder { fence: Fence(fence), ..holder }, Duration::from_millis(left));
            Ok(HeldLease { slot, holder, left, is_awaited: false })
        }
        _ => Err(Failure::Senseless(
            "a lease that triplock did not make; find out who did, then remove its key".to_owned(),
        )),
    }
}

pub(super) fn renew(session: &mut RedisSession, lease: &mut Lease) -> Result<bool> {
    let mut call = RENEW.call(&[Keys::of(&lease.resource).lease(lease.slot)]);
    call.arg(lease.token.as_str()).arg(millis(lease.ttl));
    let deadline = BootTime::now() + lease.ttl;
    let reply =
        session.run(None, &RENEW, call, true).map_err(session.error())?.map_err(|why| too_few(session, &why))?;
    let is_ours = reply::integer(&reply).map_err(session.error())? == 1;
    if is_ours {
        lease.deadline = deadline;
    }
    Ok(is_ours)
}

pub(super) fn release(session: &mut RedisSession, lease: &Lease) -> Result<bool, Failure> {
    let keys = Keys::of(&lease.resource);
    let mut call = RELEASE.call(&[keys.lease(lease.slot)]);
    call.arg(lease.token.as_str()).arg(keys.released());
    let reply = session.run(None, &RELEASE, call, false)?;
    Ok(reply::integer(&reply.unwrap_or_default())? == 1)
}

/// Gives a ticket back, and stops listening.
pub(super) fn leave(session: &mut RedisSession, resource: &Resource, ticket: &Ticket) -> Result<bool, Failure> {
    session.listener = None;
    let keys = Keys::of(resource);
    let mut call = LEAVE.call(&[keys.lane(), keys.tickets()]);
    call.arg(ticket.token.as_str()).arg(keys.released());
    let reply = session.run(None, &LEAVE, call, false)?;
    Ok(reply::integer(&reply.unwrap_or_default())? == 1)
}

/// A trip's head and a ledger's stay, whatever was leased under the name.
pub(super) fn forget(session: &mut RedisSession, resource: &Resource) -> Result<(), Failure> {
    let keys = Keys::of(resource);
    let slots = match reply::optional_text(session.ask_one(command("HGET", [&*keys.head(), "slots"]))?)? {
        Some(slots) => reply::number::<u32>(&slots)?,
        None => 0,
    };
    let reply = session.run(None, &FORGET, FORGET.call(&keys.all(slots)), false)?;
    if reply::integer(&reply.unwrap_or_default())? == 1 {
        session.ask_one(command("SREM", [NAMES, keys.tag()]))?;
    }
    Ok(())
}

/// The first call for a resource only begins to listen, and says that something may have been released: it may, before.
pub(super) fn wait_for_release(session: &mut RedisSession, resource: &Resource, at_most: Duration) -> Result<bool> {
    if let Some((listened, mut listener)) = session.listener.take().filter(|(listened, _)| listened == resource) {
        // The server closes a connection that has not read what it was sent for long. Then another begins.
        if let Ok(is_woken) = listener.listen(at_most) {
            session.listener = Some((listened, listener));
            return Ok(is_woken);
        }
    }
    let mut listener = open(&session.place, session.patience)?;
    let subscribed = listener.call(&[command("SUBSCRIBE", [Keys::of(resource).released()])]);
    subscribed.map_err(Failure::Broken).and_then(super::accepted).map_err(session.error())?;
    session.listener = Some((resource.clone(), listener));
    Ok(true)
}

/// All leases that are held now, of all names.
pub(super) fn list(session: &mut RedisSession) -> Result<Vec<LeaseView>, Failure> {
    let mut resources = Vec::new();
    for tag in reply::list(session.ask_one(command("SMEMBERS", [NAMES]))?)? {
        resources.extend(Keys::resource(&reply::text(tag)?));
    }
    resources.sort();
    let heads = resources.iter().map(|resource| command("HMGET", [&*Keys::of(resource).head(), "format", "slots"]));
    let heads = session.ask(&heads.collect::<Vec<_>>())?;
    let (mut leases, mut commands) = (Vec::new(), Vec::new());
    for (resource, head) in resources.into_iter().zip(heads) {
        let [format, slots] = reply::array(head)?;
        check_format(reply::optional_text(format)?.as_deref())?;
        let slots = reply::optional_text(slots)?.map_or(Ok(0), |slots| reply::number(&slots))?;
        for slot in 1..=slots {
            let key = Keys::of(&resource).lease(slot);
            commands.extend([command("GET", [&key]), command("PTTL", [&key])]);
            leases.push((resource.clone(), slot));
        }
    }
    let mut replies = session.ask(&commands)?.into_iter();
    let mut views = Vec::new();
    for (resource, slot) in leases {
        let (lease, left) = (replies.next().unwrap_or_default(), replies.next().unwrap_or_default());
        let left = reply::integer(&left)?;
        // -2: it has expired since it was read.
        let Some(lease) = reply::optional_text(lease)?.filter(|_| left != -2) else { continue };
        views.push(LeaseView { resource, held: held(slot, &lease, left)? });
    }
    Ok(views)
}

fn too_few(session: &RedisSession, why: &str) -> Error {
    Error::Server { server: session.place.shown.clone(), trouble: ServerTrouble::Unreachable, why: why.to_owned() }
}

/// In whole milliseconds, and never less: the lease must not end before its holder thinks it does.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
