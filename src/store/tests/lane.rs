//! The lane in front of what can be leased. A promise asks for a resource of its own, so they may share a server.

use std::time::Duration;

use super::Site;
use crate::{
    lock::{Fence, Holder},
    store::{Attempt, HeldLease, Lease, Resource, Session, Ticket},
};

const TTL: Duration = Duration::from_secs(60);

const PROMISES: [fn(&dyn Site); 6] = [
    a_slot_goes_to_the_first_in_the_lane_and_to_nobody_else,
    a_ticket_that_is_not_renewed_is_passed_over_and_its_holder_is_the_last,
    who_is_urgent_comes_before_all_who_are_not,
    several_slots_are_given_in_order,
    who_is_next_is_woken,
    a_lane_that_is_lost_loses_no_lease,
];

#[cfg(feature = "redis")]
#[test]
fn redis_keeps_its_promises() {
    if let Some(server) = crate::store::redis::tests::Server::start() {
        for promise in PROMISES {
            promise(&server);
        }
    }
}

#[cfg(feature = "postgres")]
#[test]
fn postgres_keeps_its_promises() {
    if let Some(server) = crate::store::postgres::tests::Server::start() {
        for promise in PROMISES {
            promise(&server);
        }
    }
}

/// One session, which asks for a job in the names of many.
struct Asker<'s> {
    site: &'s dyn Site,
    session: Box<dyn Session>,
    job: Resource,
    slots: u32,
}

impl<'s> Asker<'s> {
    fn of(site: &'s dyn Site, job: &str, slots: u32) -> Self {
        Self { site, session: site.session(), job: Resource::Job(job.parse().unwrap()), slots }
    }

    fn ask(&mut self, ticket: Option<&Ticket>) -> Attempt {
        let since = "2026-11-23T20:25:19.123456+00:00".parse().unwrap();
        let holder = Holder { pid: 7, host: "h".to_owned(), since, command: "a \"b\"".to_owned(), fence: Fence(0) };
        self.session.acquire_in_turn(&self.job, self.slots, TTL, &holder, ticket).unwrap()
    }

    #[track_caller]
    fn granted<'t>(&mut self, ticket: impl Into<Option<&'t Ticket>>) -> Lease {
        match self.ask(ticket.into()) {
            Attempt::Granted(lease) => lease,
            Attempt::Held(held) => panic!("held: {held:?}"),
        }
    }

    /// A slot is held.
    #[track_caller]
    fn held<'t>(&mut self, ticket: impl Into<Option<&'t Ticket>>) -> HeldLease {
        match self.ask(ticket.into()) {
            Attempt::Held(held) if !held.is_awaited => held,
            other => panic!("{other:?}"),
        }
    }

    /// A slot is free, and others wait for it.
    #[track_caller]
    fn awaited<'t>(&mut self, ticket: impl Into<Option<&'t Ticket>>) {
        match self.ask(ticket.into()) {
            Attempt::Held(held) if held.is_awaited => {
                let HeldLease { slot, holder, left, .. } = held;
                assert_eq!((slot, holder.pid, &*holder.command, holder.fence), (0, 7, "a \"b\"", Fence(0)));
                assert!(left > Duration::ZERO && left <= Ticket::TTL, "{left:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn release(&mut self, lease: &Lease) {
        assert!(self.session.release(lease).unwrap());
    }

    /// Is granted the lease, and gives it back.
    #[track_caller]
    fn has_its_turn<'t>(&mut self, ticket: impl Into<Option<&'t Ticket>>) {
        let lease = self.granted(ticket);
        self.release(&lease);
    }

    #[track_caller]
    fn lane_is(&self, tickets: &[&Ticket]) {
        let expected: Vec<_> = tickets.iter().map(|ticket| ticket.token.as_str()).collect();
        assert_eq!(self.site.lane(&self.job), expected);
    }
}

fn ticket() -> Ticket {
    Ticket::new(false).unwrap()
}

fn urgent() -> Ticket {
    Ticket::new(true).unwrap()
}

fn a_slot_goes_to_the_first_in_the_lane_and_to_nobody_else(site: &dyn Site) {
    let mut asker = Asker::of(site, "first", 1);
    // Who need not wait leaves no ticket.
    let alone = ticket();
    let lease = asker.granted(&alone);
    asker.lane_is(&[]);
    let [one, two, late] = [ticket(), ticket(), ticket()];
    for ticket in [&one, &two, &one] {
        asker.held(ticket);
    }
    asker.held(None);
    asker.lane_is(&[&one, &two]);
    asker.release(&lease);
    for other in [None, Some(&two), Some(&late), None] {
        asker.awaited(other);
    }
    let leases = asker.session.leases().unwrap();
    assert!(!leases.iter().any(|view| view.resource == asker.job), "who waits holds nothing");
    let lease = asker.granted(&one);
    asker.lane_is(&[&two, &late]);
    asker.held(&two);
    asker.release(&lease);
    asker.awaited(&late);
    asker.has_its_turn(&two);
    asker.has_its_turn(&late);
    asker.lane_is(&[]);
    asker.has_its_turn(None);
}

fn a_ticket_that_is_not_renewed_is_passed_over_and_its_holder_is_the_last(site: &dyn Site) {
    let mut asker = Asker::of(site, "late", 1);
    let lease = asker.granted(None);
    let tickets = [ticket(), ticket(), ticket(), ticket()];
    for ticket in &tickets {
        asker.held(ticket);
    }
    let [one, two, three, four] = &tickets;
    for ticket in [one, two, three] {
        site.expire(&asker.job, ticket);
    }
    // It comes back, too late; the others never do.
    asker.held(two);
    assert_eq!(site.lane(&asker.job).last().map(String::as_str), Some(two.token.as_str()));
    asker.release(&lease);
    asker.awaited(two);
    asker.has_its_turn(four);
    asker.has_its_turn(two);
    // One whose place is gone has its turn all the same when nobody waits.
    let lease = asker.granted(None);
    asker.held(one);
    site.expire(&asker.job, one);
    asker.release(&lease);
    asker.has_its_turn(one);
    asker.lane_is(&[]);
}

fn who_is_urgent_comes_before_all_who_are_not(site: &dyn Site) {
    let mut asker = Asker::of(site, "urgent", 1);
    let lease = asker.granted(None);
    let [first, one, other] = [ticket(), urgent(), urgent()];
    asker.held(&first);
    asker.held(&one);
    asker.release(&lease);
    asker.awaited(&other);
    asker.awaited(&first);
    asker.lane_is(&[&one, &other, &first]);
    asker.has_its_turn(&one);
    asker.has_its_turn(&other);
    // One that has no place yet, when a slot is free.
    asker.has_its_turn(&urgent());
    asker.awaited(None);
    asker.has_its_turn(&first);
}

fn several_slots_are_given_in_order(site: &dyn Site) {
    let mut asker = Asker::of(site, "slots", 2);
    let leases = [asker.granted(None), asker.granted(None)];
    let tickets = [ticket(), ticket(), ticket()];
    for ticket in &tickets {
        asker.held(ticket);
    }
    let [one, two, three] = &tickets;
    for lease in &leases {
        asker.release(lease);
    }
    asker.awaited(two);
    let lease = asker.granted(one);
    asker.awaited(three);
    asker.granted(two);
    asker.held(three);
    asker.release(&lease);
    asker.awaited(None);
    asker.granted(three);
}

fn who_is_next_is_woken(site: &dyn Site) {
    let mut asker = Asker::of(site, "woken", 2);
    let mut waiter = site.session();
    let job = asker.job.clone();
    let mut is_woken = |at_most| waiter.wait_for_release(&job, at_most).unwrap();
    // (A longer sleep than a second may end by itself.)
    let soon = Duration::from_millis(900);
    let leases = [asker.granted(None), asker.granted(None)];
    let tickets = [ticket(), ticket(), ticket()];
    for ticket in &tickets {
        asker.held(ticket);
    }
    let [one, two, three] = &tickets;
    assert!(is_woken(TTL), "the first call only begins to listen");
    for lease in &leases {
        asker.release(lease);
        assert!((0..30).any(|_| is_woken(soon)), "one was released");
    }
    asker.awaited(two);
    asker.granted(one);
    assert!((0..30).any(|_| is_woken(soon)), "a slot is free, and the second was refused it");
    assert!(asker.session.leave(&job, two).unwrap());
    assert!((0..30).any(|_| is_woken(soon)), "the first gave up");
    asker.lane_is(&[three]);
    assert!(!asker.session.leave(&job, two).unwrap(), "it is given back once");
    asker.granted(three);
    assert!(!is_woken(Duration::from_millis(20)), "nobody is left to be woken");
}

fn a_lane_that_is_lost_loses_no_lease(site: &dyn Site) {
    let mut asker = Asker::of(site, "lost", 1);
    let lease = asker.granted(None);
    let [one, two] = [ticket(), ticket()];
    asker.held(&one);
    asker.held(&two);
    site.lose(&asker.job);
    asker.held(&two);
    asker.held(&one);
    asker.lane_is(&[&two, &one]);
    asker.release(&lease);
    asker.awaited(&one);
    asker.has_its_turn(&two);
    // A resource that nobody asks for again takes its lane along.
    let job = asker.job.clone();
    asker.session.forget(&job).unwrap();
    asker.lane_is(&[]);
    asker.has_its_turn(&two);
}
