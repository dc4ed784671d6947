//! Leases: a row for each slot that is held, which expires by the server's clock.
//!
//! The time is `clock_timestamp()`, never `now()`, which stands still from the begin of a transaction on: who waited for
//! the row of a resource would otherwise be granted a lease that is as old as its wait.
//!
//! 1. Who asks locks the row of the resource, and only then looks for a free slot: in a statement of its own, so that it
//!    sees what those before it have committed. So no two are granted one slot, and the fence, which is in that row, grows
//!    from one grant to the next, whatever the slot. It is at least the server's time in microseconds: a server that has
//!    lost its tables starts above every fence that it ever gave, and does not give one twice.
//! 2. Renewal and release name the token, in the condition of the one statement that does it; an expired lease is not
//!    renewed, although nobody else may have it: its holder has counted on losing it.
//! 3. Between the lock of the resource's row and the commit it also looks at the lane ([`super::lane`]): no slot is granted to who
//!    has somebody in front, and who is refused and waits has its ticket before anybody else can ask. It waits outside: no
//!    transaction is open while it does.
//! 4. All of it is one message, without a moment in which the client could be stopped while it holds a row. When the
//!    connection breaks, nobody knows whether the lease was granted; it expires by itself.
//!
//! A release notifies (`NOTIFY`) who listens. Through a pooler nobody hears it, and a holder that dies releases nothing;
//! so nobody sleeps for longer than [`NAP`].

use std::time::Duration;

use super::{
    PostgresSession,
    failure::changed,
    lane::Lane,
    literal::literal,
    row::{Row, Unexpected},
    schema::{FITS, with_tables, with_tables_if_any},
    script::Script,
};
use crate::{
    clock::BootTime,
    error::{Error, Result},
    lock::{Fence, Holder},
    store::{Attempt, HeldLease, Lease, LeaseView, Resource, Ticket, Token},
};

/// The channel on which releases are told, and tickets that are given back, with the resource for a payload.
pub(super) const CHANNEL: &str = "triplock_released";

/// For how long a waiter sleeps at most.
const NAP: Duration = Duration::from_secs(1);

/// How long something lasts that expires.
const LEFT: &str = "greatest(0, (extract(epoch FROM expires - clock_timestamp()) * 1000000)::bigint) AS left";

/// A lease's columns but the last, [`LEFT`], as [`held`] reads them.
const HELD: &str = "slot, holder, fence";

pub(super) fn interval(time: Duration) -> String {
    format!("interval '{} microseconds'", time.as_micros())
}

pub(super) fn acquire(
    session: &mut PostgresSession,
    resource: &Resource,
    slots: u32,
    ttl: Duration,
    holder: &Holder,
    ticket: Option<&Ticket>,
) -> Result<Attempt> {
    let client = &mut session.client;
    let token = Token::new().map_err(|e| Error::io("get randomness from", "getrandom(2)", e))?;
    let key = literal(resource.key());
    let note = literal(serde_json::to_string(holder).expect("a note is plain data"));
    let lane = Lane { key: &key, note: &note, ticket };
    let mut script = Script::short_transaction(client);
    script.add(format_args!("INSERT INTO triplock.resources (resource) VALUES ({key}) ON CONFLICT DO NOTHING"));
    script.add(format_args!("SELECT fence FROM triplock.resources WHERE resource = {key} FOR UPDATE"));
    let granted = script.add(format_args!(
        "WITH free AS (SELECT slot FROM generate_series(1, {slots}) slot WHERE NOT EXISTS (\
         SELECT FROM triplock.leases WHERE resource = {key} AND leases.slot = slot.slot \
         AND expires > clock_timestamp()) AND NOT EXISTS (SELECT FROM triplock.tickets WHERE {}) \
         ORDER BY slot LIMIT 1), \
         fenced AS (UPDATE triplock.resources \
         SET fence = greatest(fence + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) \
         WHERE resource = {key} AND EXISTS (SELECT FROM free) RETURNING fence) \
         INSERT INTO triplock.leases (resource, slot, token, fence, expires, holder) \
         SELECT {key}, slot, {}, fence, clock_timestamp() + {}, {note} FROM free, fenced \
         ON CONFLICT (resource, slot) DO UPDATE SET token = excluded.token, fence = excluded.fence, \
         expires = excluded.expires, holder = excluded.holder RETURNING slot, fence",
        lane.before_us(),
        literal(token.as_str()),
        interval(ttl),
    ));
    lane.take(&mut script, &token, slots);
    let others = script.add(format_args!(
        "SELECT {HELD}, {LEFT}, count(*) OVER () AS slots FROM triplock.leases WHERE resource = {key} AND slot <= {slots} \
         AND expires > clock_timestamp() ORDER BY expires LIMIT 1"
    ));
    let in_front = script.add(lane.in_front(&format!("0 AS slot, holder, 0 AS fence, {LEFT}")));
    script.add("COMMIT");
    // A second attempt, after the tables were made, grants no more time than the first.
    let deadline = BootTime::now() + ttl;
    let answers = with_tables(client, |client| script.send(client))?;
    let read = || {
        if let Some(row) = answers.row(granted) {
            let (slot, fence) = (row.get(0)?, Fence(row.get(1)?));
            return Ok(Some(Attempt::Granted(Lease { resource: resource.clone(), slot, token, fence, ttl, deadline })));
        }
        if let Some(row) = answers.row(others) {
            if row.get::<u32>(4)? >= slots {
                return Ok(Some(Attempt::Held(held(row)?)));
            }
        }
        let awaited = |row| Ok(Attempt::Held(HeldLease { is_awaited: true, ..held(row)? }));
        answers.row(in_front).map(awaited).transpose()
    };
    match read().map_err(|why: Unexpected| changed(client.server(), &why))? {
        Some(attempt) => Ok(attempt),
        // One was released, or expired, between the two statements; or who was in front of us gave up.
        None => acquire(session, resource, slots, ttl, holder, ticket),
    }
}

fn held(row: &Row) -> Result<HeldLease, Unexpected> {
    let note = row.text(1)?;
    let holder: Holder = serde_json::from_str(note).map_err(|e| format!("holder is not a note ({e})"))?;
    let holder = Holder { fence: Fence(row.get(2)?), ..holder };
    Ok(HeldLease { slot: row.get(0)?, holder, left: Duration::from_micros(row.get(3)?), is_awaited: false })
}

/// The condition for a row to be that of a lease.
fn row_of(lease: &Lease) -> String {
    let (resource, token) = (literal(lease.resource.key()), literal(lease.token.as_str()));
    format!("resource = {resource} AND slot = {} AND token = {token}", lease.slot)
}

/// The same, and for the lease to be still held.
fn ours(lease: &Lease) -> String {
    format!("{} AND expires > clock_timestamp()", row_of(lease))
}

/// A condition for a lease's holder to be still alone, which keeps it so until the end of the transaction.
pub(super) fn still_held(lease: &Lease) -> String {
    format!("SELECT FROM triplock.leases WHERE {} FOR UPDATE", ours(lease))
}

pub(super) fn renew(session: &mut PostgresSession, lease: &mut Lease) -> Result<bool> {
    let client = &mut session.client;
    let mut script = Script::short_transaction(client);
    let renewed = script.add(format_args!(
        "UPDATE triplock.leases SET expires = clock_timestamp() + {} WHERE {} RETURNING slot",
        interval(lease.ttl),
        ours(lease)
    ));
    script.add("COMMIT");
    let deadline = BootTime::now() + lease.ttl;
    let is_ours = with_tables(client, |client| script.send(client))?.row(renewed).is_some();
    if is_ours {
        lease.deadline = deadline;
    }
    Ok(is_ours)
}

pub(super) fn release(session: &mut PostgresSession, lease: &Lease) -> Result<bool> {
    let client = &mut session.client;
    let mut script = Script::short_transaction(client);
    let released = script
        .add(format_args!("DELETE FROM triplock.leases WHERE {} RETURNING expires > clock_timestamp()", row_of(lease)));
    script.add(format_args!("SELECT pg_notify('{CHANNEL}', {})", literal(lease.resource.key())));
    script.add("COMMIT");
    Ok(with_tables(client, |client| script.send(client))?.row(released).is_some_and(|row| row.is_true(0)))
}

pub(super) fn forget(session: &mut PostgresSession, resource: &Resource) -> Result<()> {
    let client = &mut session.client;
    let key = literal(resource.key());
    let mut script = Script::short_transaction(client);
    script.add(format_args!("SELECT FROM triplock.resources WHERE resource = {key} FOR UPDATE"));
    script.add(format_args!("DELETE FROM triplock.tickets WHERE resource = {key}"));
    script.add(format_args!("DELETE FROM triplock.leases WHERE resource = {key}"));
    script.add(format_args!("DELETE FROM triplock.resources WHERE resource = {key}"));
    if let Resource::Named(name) = resource {
        script.add(format_args!("DELETE FROM triplock.locks WHERE name = {}", literal(name.as_str())));
    }
    script.add("COMMIT");
    with_tables(client, |client| script.send(client)).map(drop)
}

pub(super) fn leases(session: &mut PostgresSession) -> Result<Vec<LeaseView>> {
    let client = &mut session.client;
    let mut script = Script::new();
    let found = script.add(format_args!(
        "SELECT {HELD}, {LEFT}, resource, {FITS} FROM triplock.leases WHERE expires > clock_timestamp() ORDER BY resource, slot"
    ));
    let answers = with_tables_if_any(client, |client| script.send(client).map(Some))?;
    let view = |row: &Row| {
        let resource = row.text(4)?;
        let resource = Resource::from_key(resource).ok_or_else(|| format!("resource is {resource:?}"))?;
        Ok(LeaseView { resource, held: held(row)? })
    };
    let rows = answers.iter().flat_map(|answers| answers.rows(found));
    rows.map(view).collect::<Result<_, Unexpected>>().map_err(|why| changed(client.server(), &why))
}

pub(super) fn wait_for_release(session: &mut PostgresSession, resource: &Resource, at_most: Duration) -> Result<bool> {
    if !session.listens {
        session.client.ask(&format!("LISTEN {CHANNEL}"))?;
        session.listens = true;
        return Ok(true);
    }
    let heard = session.client.wait_for(&resource.key(), at_most.min(NAP))?;
    // One who has slept for so long asks again in any case.
    Ok(heard || at_most > NAP)
}
