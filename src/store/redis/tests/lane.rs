//! The lane as the scripts keep it; that it is one for whole commands, tests/it has of both servers.

use std::time::Duration;

use super::{Server, holder, name};
use crate::store::{Attempt, HeldLease, Lease, Resource, Session, Ticket};

const TTL: Duration = Duration::from_secs(60);

fn job() -> Resource {
    Resource::Job(name("nightly"))
}

fn ticket() -> Ticket {
    Ticket::new(false).unwrap()
}

fn urgent() -> Ticket {
    Ticket::new(true).unwrap()
}

fn ask(session: &mut dyn Session, slots: u32, ticket: Option<&Ticket>) -> Attempt {
    session.acquire_in_turn(&job(), slots, TTL, &holder(), ticket).unwrap()
}

#[track_caller]
fn granted<'t>(session: &mut dyn Session, slots: u32, ticket: impl Into<Option<&'t Ticket>>) -> Lease {
    match ask(session, slots, ticket.into()) {
        Attempt::Granted(lease) => lease,
        Attempt::Held(held) => panic!("held: {held:?}"),
    }
}

#[track_caller]
fn refused<'t>(session: &mut dyn Session, slots: u32, ticket: impl Into<Option<&'t Ticket>>) -> HeldLease {
    match ask(session, slots, ticket.into()) {
        Attempt::Granted(lease) => panic!("granted: {lease:?}"),
        Attempt::Held(held) => held,
    }
}

/// As if its holder had not asked for so long.
fn expire(server: &Server, ticket: &Ticket) {
    assert_eq!(server.cli(&["HSET", "triplock:{jobs/nightly}:tickets", ticket.token.as_str(), "1 {}"]), "0");
}

fn lane(server: &Server) -> Vec<String> {
    server.cli(&["ZRANGE", "triplock:{jobs/nightly}:lane", "0", "-1"]).lines().map(str::to_owned).collect()
}

#[test]
fn a_slot_goes_to_the_first_in_the_lane_and_to_nobody_else() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let lease = granted(&mut *session, 1, None);
    let (first, second, late) = (ticket(), ticket(), ticket());
    assert!(!refused(&mut *session, 1, &first).is_awaited);
    refused(&mut *session, 1, &second);
    refused(&mut *session, 1, &first);
    assert_eq!(lane(&server), [first.token.as_str(), second.token.as_str()]);
    assert!(session.release(&lease).unwrap());
    for other in [None, Some(&second), Some(&late)] {
        let held = refused(&mut *session, 1, other);
        assert!(held.is_awaited && held.slot == 0 && held.holder.pid == 7 && held.holder.fence.0 == 0, "{held:?}");
        assert!(held.left > Duration::ZERO && held.left <= Ticket::TTL, "{:?}", held.left);
    }
    assert!(session.leases().unwrap().is_empty(), "who waits holds nothing");
    let lease = granted(&mut *session, 1, &first);
    assert!(!refused(&mut *session, 1, &second).is_awaited);
    assert!(session.release(&lease).unwrap());
    let lease = granted(&mut *session, 1, &second);
    assert!(session.release(&lease).unwrap());
    granted(&mut *session, 1, &late);
    assert!(lane(&server).is_empty());
}

#[test]
fn a_ticket_that_is_not_renewed_is_passed_over_and_its_holder_is_the_last() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let lease = granted(&mut *session, 1, None);
    let tickets = [ticket(), ticket(), ticket(), ticket()];
    for ticket in &tickets {
        refused(&mut *session, 1, ticket);
    }
    let [first, second, third, fourth] = &tickets;
    expire(&server, first);
    expire(&server, second);
    expire(&server, third);
    // It comes back, too late; the others never do.
    refused(&mut *session, 1, second);
    assert_eq!(lane(&server).last().map(String::as_str), Some(second.token.as_str()));
    assert!(session.release(&lease).unwrap());
    refused(&mut *session, 1, second);
    let lease = granted(&mut *session, 1, fourth);
    assert!(session.release(&lease).unwrap());
    let lease = granted(&mut *session, 1, second);
    assert!(session.release(&lease).unwrap());
    granted(&mut *session, 1, None);
}

#[test]
fn who_is_urgent_comes_before_all_who_are_not() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let lease = granted(&mut *session, 1, None);
    let (first, one, other) = (ticket(), urgent(), urgent());
    refused(&mut *session, 1, &first);
    refused(&mut *session, 1, &one);
    assert!(session.release(&lease).unwrap());
    refused(&mut *session, 1, &other);
    refused(&mut *session, 1, &first);
    for ticket in [&one, &other] {
        let lease = granted(&mut *session, 1, ticket);
        assert!(session.release(&lease).unwrap());
    }
    // One that has no place yet, when a slot is free.
    let lease = granted(&mut *session, 1, &urgent());
    assert!(session.release(&lease).unwrap());
    granted(&mut *session, 1, &first);
}

#[test]
fn who_is_next_is_woken_by_a_ticket_given_back_and_by_a_grant_that_leaves_a_slot() {
    let Some(server) = Server::start() else { return };
    let (mut session, mut waiter) = (server.session(), server.session());
    let leases = [granted(&mut *session, 2, None), granted(&mut *session, 2, None)];
    let [first, second, third] = [ticket(), ticket(), ticket()];
    for ticket in [&first, &second, &third] {
        refused(&mut *session, 2, ticket);
    }
    assert!(waiter.wait_for_release(&job(), TTL).unwrap(), "the first call only begins to listen");
    for lease in &leases {
        assert!(session.release(lease).unwrap());
        assert!(waiter.wait_for_release(&job(), TTL).unwrap());
    }
    assert!(refused(&mut *session, 2, &second).is_awaited);
    granted(&mut *session, 2, &first);
    assert!(waiter.wait_for_release(&job(), TTL).unwrap(), "a slot is free, and the second was refused it");
    assert!(session.leave(&job(), &second).unwrap());
    assert!(waiter.wait_for_release(&job(), TTL).unwrap());
    granted(&mut *session, 2, &third);
    assert!(!waiter.wait_for_release(&job(), Duration::from_millis(20)).unwrap(), "nobody is left to be woken");
    assert!(!session.leave(&job(), &second).unwrap(), "it is given back once");
}

#[test]
fn a_lane_vanishes_by_itself_and_with_what_it_is_for() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    granted(&mut *session, 1, None);
    refused(&mut *session, 1, &ticket());
    for key in ["lane", "tickets"] {
        let left: u128 = server.cli(&["PTTL", &format!("triplock:{{jobs/nightly}}:{key}")]).parse().unwrap();
        assert!(left <= Ticket::TTL.as_millis(), "{key}: {left}");
    }
    let resource = job();
    session.forget(&resource).unwrap();
    assert_eq!(server.cli(&["KEYS", "*"]), "");
    // Whoever had a place has none, and asks again.
    granted(&mut *session, 1, &ticket());
    refused(&mut *session, 1, &ticket());
    server.cli(&["FLUSHALL"]);
    granted(&mut *session, 1, &ticket());
}

#[test]
fn numbers_grow_whatever_the_clock_does() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    granted(&mut *session, 1, None);
    refused(&mut *session, 1, &ticket());
    let ahead = "4000000000000000";
    server.cli(&["HSET", "triplock:{jobs/nightly}:tickets", "last", ahead]);
    let last = ticket();
    refused(&mut *session, 1, &last);
    assert_eq!(
        server.cli(&["ZSCORE", "triplock:{jobs/nightly}:lane", last.token.as_str()]),
        "4000000000000001",
        "one more than the last"
    );
}
