use std::time::Duration;

use super::{Server, holder, name, skipped};
use crate::{
    job::Totals,
    store::{Append, Attempt, LedgerHead, Resource, Session},
};

#[track_caller]
fn append(session: &mut dyn Session, head: &LedgerHead, runs: std::ops::RangeInclusive<u64>) -> Append {
    let entries: Vec<_> = runs.map(skipped).collect();
    let totals = entries.iter().fold(head.totals.clone(), Totals::after);
    session.append(&name("nightly"), head, &entries, &totals, None).unwrap()
}

#[test]
fn entries_are_numbered_and_sums_follow_them() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let job = name("nightly");
    let empty = session.ledger(&job).unwrap();
    assert_eq!((empty.revision, &empty.totals), (0, &Totals::default()));
    assert!((session.now().unwrap() - empty.now).num_seconds() < 60);
    assert_eq!(session.jobs().unwrap(), []);
    assert_eq!(append(&mut *session, &empty, 1..=3), Append::Done);
    let head = session.ledger(&job).unwrap();
    assert_eq!((head.revision, head.totals.last_run, head.totals.skips_in_a_row), (3, 3, 3));
    assert_eq!(append(&mut *session, &empty, 1..=1), Append::Moved, "somebody has appended since");
    assert_eq!(append(&mut *session, &head, 4..=5), Append::Done);
    let all = session.entries(&job, None, 10).unwrap();
    assert_eq!(all, (1..=5).rev().map(|run| (run, skipped(run))).collect::<Vec<_>>());
    assert_eq!(session.entries(&job, Some(4), 2).unwrap(), all[2..4]);
    assert_eq!(session.entries(&job, Some(1), 2).unwrap(), []);
    assert_eq!(session.entries(&job, Some(0), 2).unwrap(), []);
    let jobs = session.jobs().unwrap();
    assert_eq!((jobs.len(), &jobs[0].0, jobs[0].1.last_run), (1, &job, 5));
}

#[test]
fn who_has_lost_the_lease_appends_nothing() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let job = name("nightly");
    let head = session.ledger(&job).unwrap();
    let ttl = Duration::from_secs(60);
    let Attempt::Granted(lease) = session.acquire(&Resource::Job(job.clone()), 1, ttl, &holder()).unwrap() else {
        panic!("it is free");
    };
    let totals = head.totals.clone().after(&skipped(1));
    let mut append = |head: &LedgerHead| session.append(&job, head, &[skipped(1)], &totals, Some(&lease)).unwrap();
    assert_eq!(append(&head), Append::Done);
    let head = LedgerHead { revision: 1, ..head };
    server.cli(&["DEL", "triplock:{jobs/nightly}:lease:1"]);
    assert_eq!(append(&head), Append::LeaseLost);
    assert_eq!(session.ledger(&job).unwrap().revision, 1);
    // The fence of the job's leases is not the ledger's to reset.
    let fence = server.cli(&["HGET", "triplock:{jobs/nightly}:head", "fence"]);
    assert_eq!(fence, lease.fence.to_string());
}

#[test]
fn the_newest_twenty_thousand_are_kept() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let job = name("nightly");
    for round in 0..7 {
        let head = session.ledger(&job).unwrap();
        assert_eq!(append(&mut *session, &head, round * 3000 + 1..=(round + 1) * 3000), Append::Done);
    }
    let kept = session.entries(&job, None, 30_000).unwrap();
    assert!((20_000..20_200).contains(&kept.len()), "{}", kept.len());
    assert_eq!((kept[0].0, kept[0].1.clone()), (21_000, skipped(21_000)));
}

#[test]
fn a_ledger_that_makes_no_sense_is_damage() {
    let Some(server) = Server::start() else { return };
    let key = "triplock:{jobs/nightly}:head";
    for plant in [
        &["SET", key, "x"][..],
        &["HSET", key, "format", "1", "revision", "7"],
        &["XADD", "triplock:{jobs/nightly}:entries", "9-0", "e", "x"],
    ] {
        server.cli(&["FLUSHALL"]);
        server.cli(plant);
        let mut session = server.session();
        let entries = [skipped(1)];
        let totals = Totals::default().after(&entries[0]);
        let error = session.append(&name("nightly"), &LedgerHead::default(), &entries, &totals, None).unwrap_err();
        assert_eq!(error.kind(), "server_damaged", "{plant:?}: {error}");
    }
    assert_eq!(server.session().entries(&name("nightly"), None, 9).unwrap_err().kind(), "server_damaged");
}
