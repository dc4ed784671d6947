//! What is Redis's own about the lane; the rest is a contract of both servers, in src/store/tests.

use std::time::Duration;

use super::{Server, holder, name};
use crate::store::{Attempt, Resource, Session, Ticket};

const TTL: Duration = Duration::from_secs(60);

fn job() -> Resource {
    Resource::Job(name("nightly"))
}

fn ticket() -> Ticket {
    Ticket::new(false).unwrap()
}

fn ask(session: &mut dyn Session, ticket: &Ticket) -> Attempt {
    session.acquire_in_turn(&job(), 1, TTL, &holder(), Some(ticket)).unwrap()
}

#[test]
fn a_lane_vanishes_by_itself_and_with_what_it_is_for() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    assert!(matches!(ask(&mut *session, &ticket()), Attempt::Granted(_)));
    assert!(matches!(ask(&mut *session, &ticket()), Attempt::Held(_)));
    for key in ["lane", "tickets"] {
        let left: u128 = server.cli(&["PTTL", &format!("triplock:{{jobs/nightly}}:{key}")]).parse().unwrap();
        assert!(left <= Ticket::TTL.as_millis(), "{key}: {left}");
    }
    session.forget(&job()).unwrap();
    assert_eq!(server.cli(&["KEYS", "*"]), "");
}

#[test]
fn numbers_grow_whatever_the_clock_does() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    ask(&mut *session, &ticket());
    ask(&mut *session, &ticket());
    server.cli(&["HSET", "triplock:{jobs/nightly}:tickets", "last", "4000000000000000"]);
    let last = ticket();
    ask(&mut *session, &last);
    let score = server.cli(&["ZSCORE", "triplock:{jobs/nightly}:lane", last.token.as_str()]);
    assert_eq!(score, "4000000000000001", "one more than the last");
}
