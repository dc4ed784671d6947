use std::{sync::mpsc, thread, time::Duration};

use super::{Server, holder, name};
use crate::{
    booking::{Change, Request},
    clock::BootTime,
    lock::{Acquire, Until},
    state::Prepared,
    store::{Attempt, HeldLease, Lease, Resource, Session, Token},
};

const TTL: Duration = Duration::from_secs(60);

fn job() -> Resource {
    Resource::Job(name("nightly"))
}

#[track_caller]
fn granted(session: &mut dyn Session, resource: &Resource, slots: u32, ttl: Duration) -> Lease {
    match session.acquire(resource, slots, ttl, &holder()).unwrap() {
        Attempt::Granted(lease) => lease,
        Attempt::Held(held) => panic!("held: {held:?}"),
    }
}

#[track_caller]
fn held(session: &mut dyn Session, resource: &Resource, slots: u32) -> HeldLease {
    match session.acquire(resource, slots, TTL, &holder()).unwrap() {
        Attempt::Granted(lease) => panic!("granted: {lease:?}"),
        Attempt::Held(held) => held,
    }
}

#[test]
fn each_slot_has_one_holder_and_all_share_a_fence() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let before = BootTime::now();
    let first = granted(&mut *session, &job(), 2, TTL);
    assert!(first.deadline >= before + TTL && first.deadline <= BootTime::now() + TTL);
    let second = granted(&mut *session, &job(), 2, TTL / 2);
    assert_eq!((first.slot, second.slot), (1, 2));
    assert!(second.fence > first.fence);
    let held = held(&mut *session, &job(), 2);
    assert_eq!((held.slot, held.holder.fence), (2, second.fence), "the one that expires first");
    assert_eq!((held.holder.pid, &*held.holder.command), (7, "a \"b\""));
    assert!(held.left <= TTL / 2 && held.left > TTL / 4, "{:?}", held.left);
    let views = session.leases().unwrap();
    assert_eq!(views.iter().map(|view| view.held.slot).collect::<Vec<_>>(), [1, 2]);
    assert!(session.release(&first).unwrap());
    let third = granted(&mut *session, &job(), 2, TTL);
    assert_eq!(third.slot, 1);
    assert!(third.fence > second.fence);
}

#[test]
fn only_the_token_renews_and_releases() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let mut lease = granted(&mut *session, &job(), 1, TTL);
    let mut forged = Lease { token: Token::new().unwrap(), ..lease.clone() };
    let deadline = forged.deadline;
    assert!(!session.renew(&mut forged).unwrap() && forged.deadline == deadline);
    assert!(!session.release(&forged).unwrap());
    held(&mut *session, &job(), 1);
    assert!(session.renew(&mut lease).unwrap() && lease.deadline > deadline);
    assert!(session.release(&lease).unwrap());
    assert!(!session.release(&lease).unwrap(), "it is given back once");
    assert!(!session.renew(&mut lease).unwrap());
}

#[test]
fn an_expired_lease_is_free_and_lost() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let mut lease = granted(&mut *session, &job(), 1, Duration::from_millis(50));
    while let Attempt::Held(held) = session.acquire(&job(), 1, TTL, &holder()).unwrap() {
        thread::sleep(held.left);
    }
    assert_eq!(lease.deadline.left(), Duration::ZERO, "the holder's time is over before the server's");
    assert!(!session.renew(&mut lease).unwrap());
    assert!(!session.release(&lease).unwrap());
}

#[test]
fn fences_grow_also_when_all_is_lost() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let mut last = granted(&mut *session, &job(), 1, TTL);
    for lost in ["FLUSHALL", "SCRIPT FLUSH"] {
        server.cli(&lost.split(' ').collect::<Vec<_>>());
        if lost != "FLUSHALL" {
            assert!(session.release(&last).unwrap());
        }
        let next = granted(&mut *session, &job(), 1, TTL);
        assert!(next.fence > last.fence);
        last = next;
    }
    // A clock that was set back hands out no fence again.
    let ahead = last.fence.0 + 3_600_000_000;
    server.cli(&["HSET", "triplock:{jobs/nightly}:head", "fence", &ahead.to_string()]);
    assert!(session.release(&last).unwrap());
    assert_eq!(granted(&mut *session, &job(), 1, TTL).fence.0, ahead + 1);
}

#[test]
fn a_waiter_wakes_when_the_lease_is_given_back() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let lease = granted(&mut *session, &job(), 1, TTL);
    let (asleep, is_asleep) = mpsc::channel();
    thread::scope(|scope| {
        let mut waiter = server.session();
        // It takes `asleep` along, so that nobody waits for it should it fail.
        scope.spawn(move || {
            assert!(waiter.wait_for_release(&job(), TTL).unwrap(), "the first call only begins to listen");
            held(&mut *waiter, &job(), 1);
            assert!(!waiter.wait_for_release(&job(), Duration::from_millis(20)).unwrap(), "nothing was released");
            asleep.send(()).unwrap();
            assert!(waiter.wait_for_release(&job(), TTL).unwrap());
            granted(&mut *waiter, &job(), 1, TTL);
        });
        is_asleep.recv().unwrap();
        assert!(session.release(&lease).unwrap());
    });
}

#[test]
fn a_leased_trip_takes_no_bookings_and_takes_them_when_it_is_given_back() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let trip = name("1");
    let request = |change| vec![Prepared::one(&Request::new(change)).unwrap()];
    let add = request(Change::Add { seats: 3 });
    session.submit(&trip, &add, false, Until::Now).unwrap().granted().unwrap();
    let lease = granted(&mut *session, &Resource::Named(trip.clone()), 1, TTL);
    let before = session.trip(&trip).unwrap().unwrap();
    assert_eq!(before.fence, lease.fence, "a trip has one fence");
    let resize = request(Change::Resize { seats: 4 });
    match session.submit(&trip, &resize, false, Until::Now).unwrap() {
        Acquire::Held(Some(found)) => assert_eq!((found.pid, found.fence), (7, lease.fence)),
        other => panic!("{other:?}"),
    }
    assert_eq!(session.trip(&trip).unwrap(), Some(before));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut session = server.session();
            session.submit(&trip, &resize, false, Until::Never).unwrap().granted().unwrap().remove(0).unwrap()
        });
        while server.cli(&["PUBSUB", "NUMSUB", "triplock:{trips/1}:released"]).ends_with('0') {
            thread::yield_now();
        }
        assert!(session.release(&lease).unwrap());
        assert!(waiter.join().unwrap().fence > lease.fence);
    });
}

#[test]
fn a_name_that_was_only_leased_is_forgotten() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let resource = Resource::Named(name("1"));
    let lease = granted(&mut *session, &resource, 1, TTL);
    session.forget(&resource).unwrap();
    assert!(!session.release(&lease).unwrap(), "its lease went with it");
    assert_eq!(server.cli(&["KEYS", "*"]), "");
    let add = [Prepared::one(&Request::new(Change::Add { seats: 3 })).unwrap()];
    session.submit(&name("1"), &add, false, Until::Now).unwrap().granted().unwrap();
    session.forget(&resource).unwrap();
    assert!(session.trip(&name("1")).unwrap().is_some(), "a trip stays");
    assert_eq!(session.trips().unwrap().len(), 1);
}

#[test]
fn a_key_that_is_no_lease_of_ours_is_damage() {
    let Some(server) = Server::start() else { return };
    for plant in [
        &["SET", "triplock:{jobs/nightly}:lease:1", "x", "PX", "60000"][..],
        &["SET", "triplock:{jobs/nightly}:lease:1", "x"],
        &["RPUSH", "triplock:{jobs/nightly}:lease:1", "x"],
        &["SET", "triplock:{jobs/nightly}:head", "x"],
        &["HSET", "triplock:{jobs/nightly}:head", "format", "1"],
        &["HSET", "triplock:{jobs/nightly}:head", "format", "1", "fence", "soon"],
    ] {
        server.cli(&["FLUSHALL"]);
        server.cli(plant);
        let error = server.session().acquire(&job(), 1, TTL, &holder()).unwrap_err();
        assert_eq!(error.kind(), "server_damaged", "{plant:?}: {error}");
    }
    server.cli(&["FLUSHALL"]);
    server.cli(&["HSET", "triplock:{jobs/nightly}:head", "format", "2"]);
    let error = server.session().acquire(&job(), 1, TTL, &holder()).unwrap_err();
    assert_eq!(error.kind(), "server_misconfigured", "{error}");
    assert!(error.to_string().contains("format 2 is newer"), "{error}");
}
