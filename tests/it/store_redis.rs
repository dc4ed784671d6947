//! Redis as a store, against real servers: what it loses, refuses and breaks. What every store promises is tested for all
//! of them elsewhere.

use std::collections::BTreeSet;

use crate::{
    sandbox::{Finished, Invocation, Sandbox, eventually},
    servers::Redis,
};

/// A server, and a sandbox whose store it is.
macro_rules! on_redis {
    ($test:literal, $plan:expr) => {{
        if !Redis::is_installed(concat!("store_redis::", $test)) {
            return;
        }
        let redis = $plan.start();
        let sandbox = Sandbox::new().with_store(&redis.url());
        (redis, sandbox)
    }};
    ($test:literal) => {
        on_redis!($test, Redis::plan())
    };
}

/// It fails with that exit code, and says so.
#[track_caller]
fn fails_saying(invocation: Invocation, code: i32, words: &str) {
    fails_with_saying(&invocation.run(), code, words);
}

#[track_caller]
fn fails_with_saying(finished: &Finished, code: i32, words: &str) {
    let error = finished.fails(code);
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains(words), "{error}");
}

#[test]
fn scripts_that_the_server_forgot_are_loaded_again() {
    let (redis, sandbox) = on_redis!("scripts_that_the_server_forgot_are_loaded_again");
    let sandbox = sandbox.trip("1", 3);
    redis.cli(["SCRIPT", "FLUSH"]);
    sandbox.book("1", "a").succeeds();
    redis.cli(["SCRIPT", "FLUSH"]);
    sandbox.cancel("1", "a").succeeds();
    sandbox.show("1").shows_seats_left(3);
}

#[test]
fn a_server_that_lost_everything_hands_out_no_old_fence() {
    let (mut redis, sandbox) = on_redis!("a_server_that_lost_everything_hands_out_no_old_fence");
    let mut last = sandbox.add("1", 3).succeeds();
    for loss in ["flush", "restart"] {
        match loss {
            "flush" => drop(redis.cli(["FLUSHALL"])),
            _ => redis.restart_empty(),
        }
        assert_eq!(sandbox.show("1").fails(66)["error"], "no_such_trip");
        let next = sandbox.add("1", 3).succeeds();
        assert!(next.fence > last.fence, "after a {loss}: {next:?}");
        assert_eq!(next.revision, Some(1));
        last = next;
    }
    // A removed trip's name keeps both.
    sandbox.triplock(["trip", "remove", "1"]).succeeds();
    let next = sandbox.add("1", 3).succeeds();
    assert!(next.fence > last.fence && next.revision == Some(3), "{next:?}");
}

#[test]
fn what_is_answered_survives_a_kill_of_the_server() {
    let (mut redis, sandbox) = on_redis!("what_is_answered_survives_a_kill_of_the_server");
    let sandbox = sandbox.trip("1", 40);
    let started: Vec<_> =
        (0..40).map(|n| sandbox.book("1", &n.to_string()).request(&format!("r{n}")).start()).collect();
    eventually("somebody has booked", || redis.cli(["HLEN", "triplock:{trips/1}:booked"]) != "0");
    redis.kill();
    let mut answered = BTreeSet::new();
    for (n, running) in started.into_iter().enumerate() {
        let finished = running.finish();
        match finished.code() {
            Some(0) => _ = answered.insert(n),
            Some(69 | 74) => _ = finished.fails(finished.code().unwrap()),
            _ => finished.complain("expected an answer, or 69 or 74"),
        }
    }
    redis.restart();
    for n in 0..40 {
        let again = sandbox.book("1", &n.to_string()).request(&format!("r{n}")).succeeds();
        assert!(again.replayed || !answered.contains(&n), "an answered booking is lost: {again:?}");
    }
    sandbox.show("1").shows_seats_left(0);
}

#[test]
fn an_answer_that_never_came_is_uncertain_and_the_retry_books_once() {
    let (mut redis, sandbox) = on_redis!("an_answer_that_never_came_is_uncertain_and_the_retry_books_once");
    let sandbox = sandbox.trip("1", 3);
    redis.cli(["CLIENT", "PAUSE", "60000", "WRITE"]);
    let waits = || redis.cli(["INFO", "clients"]).contains("blocked_clients:1");
    let booking = sandbox.book("1", "a").request("a").start();
    eventually("the booking waits for its answer", waits);
    // It asks again by itself, under the same id.
    redis.cli(["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("it waits again", waits);
    redis.cli(["CLIENT", "UNPAUSE"]);
    assert!(!booking.finish().succeeds().replayed);

    redis.cli(["CLIENT", "PAUSE", "60000", "WRITE"]);
    let booking = sandbox.book("1", "b").request("b").start();
    eventually("the booking waits for its answer", waits);
    redis.kill();
    fails_with_saying(&booking.finish(), 74, "--request-id b");
    redis.restart();
    for replayed in [false, true] {
        assert_eq!(sandbox.book("1", "b").request("b").succeeds().replayed, replayed);
    }
    sandbox.show("1").shows_seats_left(1);
}

#[test]
fn a_replica_is_refused_also_where_nothing_would_be_written() {
    let (redis, sandbox) = on_redis!("a_replica_is_refused_also_where_nothing_would_be_written");
    let sandbox = sandbox.trip("1", 1);
    sandbox.book("1", "a").succeeds();
    let replica = redis.replica();
    let there = Sandbox::new().with_store(&replica.url());
    for booking in [there.book("1", "b"), there.cancel("1", "a"), there.book("2", "b"), there.add("3", 1)] {
        fails_saying(booking, 78, "it is a replica and takes no writes");
    }
    there.show("1").shows_seats_left(0);
    // As after a fail-over.
    replica.cli(["REPLICAOF", "NO", "ONE"]);
    there.cancel("1", "a").succeeds();
}

#[test]
fn a_node_of_a_cluster_is_refused() {
    let (redis, sandbox) = on_redis!("a_node_of_a_cluster_is_refused", Redis::plan().setting("cluster-enabled yes"));
    fails_saying(sandbox.add("1", 1), 78, "it is a node of a Redis Cluster");
    // A node that knows another one redirects to it.
    let other = Redis::plan().setting("cluster-enabled yes").start();
    redis.cli(["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    other.cli(["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    redis.cli(["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string()]);
    eventually("the cluster is whole", || redis.cli(["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    // Two of these trips, and the set of names, cannot all be at one node.
    let codes: Vec<_> = ["1", "2", "3", "4", "5", "6"].map(|trip| sandbox.add(trip, 1).run().code()).to_vec();
    assert!(codes.contains(&Some(78)) && codes.iter().all(|code| matches!(code, Some(0 | 78))), "{codes:?}");
    sandbox.triplock(["trip", "list"]).run();
}

#[test]
fn what_triplock_did_not_write_is_damage_and_stays_as_it_is() {
    let plan = Redis::plan().setting("enable-debug-command local");
    let (redis, sandbox) = on_redis!("what_triplock_did_not_write_is_damage_and_stays_as_it_is", plan);
    let (head, booked) = ("triplock:{trips/1}:head", "triplock:{trips/1}:booked");
    for plant in [
        vec!["SET", head, "x"],
        vec!["SET", booked, "x"],
        vec!["HSET", booked, "z", "1"],
        vec!["HSET", booked, "a", "many"],
        vec!["DEL", booked],
        vec!["DEL", head],
        vec!["HSET", head, "left", "-1"],
        vec!["HSET", head, "left", "9"],
        vec!["HSET", head, "revision", "1e400"],
        vec!["HDEL", head, "fence"],
        vec!["HDEL", head, "bookings"],
    ] {
        redis.cli(["FLUSHALL"]);
        sandbox.add("1", 3).succeeds();
        sandbox.book("1", "a").succeeds();
        redis.cli(&plant);
        let before = redis.cli(["DEBUG", "DIGEST"]);
        sandbox.cancel("1", "a").fails(65);
        assert_eq!(redis.cli(["DEBUG", "DIGEST"]), before, "{plant:?}");
    }
    redis.cli(["FLUSHALL"]);
    redis.cli(["HSET", head, "format", "2"]);
    for request in [sandbox.add("1", 3), sandbox.show("1")] {
        fails_saying(request, 78, "format 2 is newer than this triplock reads");
    }
}

#[test]
fn a_server_without_room_takes_no_booking() {
    let (redis, sandbox) = on_redis!("a_server_without_room_takes_no_booking");
    let sandbox = sandbox.trip("1", 3);
    redis.cli(["CONFIG", "SET", "maxmemory", "1mb"]);
    fails_saying(sandbox.book("1", "a"), 78, "its memory is full; nothing was changed");
    redis.cli(["CONFIG", "SET", "maxmemory", "0"]);
    sandbox.show("1").shows_seats_left(3);
    sandbox.book("1", "a").succeeds();
}

#[test]
fn a_server_that_wants_replicas_takes_no_booking_without() {
    let (redis, sandbox) = on_redis!("a_server_that_wants_replicas_takes_no_booking_without");
    let sandbox = sandbox.trip("1", 1);
    sandbox.book("1", "a").succeeds();
    redis.cli(["CONFIG", "SET", "min-replicas-to-write", "1"]);
    fails_saying(sandbox.cancel("1", "a"), 69, "min-replicas-to-write");
    let _replica = redis.replica();
    eventually("it counts the replica", || redis.cli(["INFO", "replication"]).contains("min_slaves_good_slaves:1"));
    sandbox.cancel("1", "a").succeeds();
}

#[test]
fn an_answer_waits_for_the_replicas_that_the_url_asks_for() {
    let (redis, sandbox) = on_redis!("an_answer_waits_for_the_replicas_that_the_url_asks_for");
    let plain = sandbox.trip("1", 1);
    let waiting =
        |timeout| Sandbox::new().with_store(&format!("{}?wait_replicas=1&wait_timeout={timeout}", redis.url()));
    // As long as a replica that is there may take on a busy machine, and no longer than one that is not is waited for.
    let (patient, hasty) = (waiting("60"), waiting("0.1"));
    fails_saying(hasty.book("1", "a").request("r1"), 74, "0 replicas have it and wait_replicas asks for 1");
    let replica = redis.replica();
    let booked = patient.book("1", "a").request("r1").succeeds();
    assert!(booked.replayed && booked.seats_left == Some(0), "it was booked at the first time: {booked:?}");
    patient.book("1", "b").refused(3);
    // So does a refusal, which rests on a booking that no replica has.
    replica.stop_answering();
    plain.cancel("1", "a").succeeds();
    plain.book("1", "c").succeeds();
    fails_saying(hasty.book("1", "b"), 74, "0 replicas have it");
    replica.answer_again();
    patient.book("1", "b").refused(3);
    patient.cancel("1", "c").succeeds();
    replica.cli(["REPLICAOF", "NO", "ONE"]);
    Sandbox::new().with_store(&replica.url()).show("1").shows_seats_left(1);
}

#[test]
fn a_user_who_may_touch_only_our_keys_is_enough_and_one_who_may_not_is_refused() {
    let plan = Redis::plan()
        .setting("user ours on nopass ~triplock:* &triplock:* +@all -@admin -@dangerous")
        .setting("user other on nopass ~other:* &other:* +@all");
    let (redis, _) = on_redis!("a_user_who_may_touch_only_our_keys_is_enough_and_one_who_may_not_is_refused", plan);
    let of = |user: &str| redis.url().replace("://", &format!("://{user}:any@"));
    let ours = Sandbox::new().with_store(&of("ours"));
    ours.add("1", 3).succeeds();
    ours.book("1", "a").succeeds();
    ours.show("1").shows_seats_left(2);
    let other = Sandbox::new().with_store(&of("other"));
    fails_saying(other.book("1", "b"), 77, "allow the user the keys and channels triplock:*");
    fails_saying(other.show("1"), 77, "allow the user");
}

#[test]
fn a_batch_is_booked_whole_or_not_at_all() {
    let (redis, sandbox) = on_redis!("a_batch_is_booked_whole_or_not_at_all");
    let sandbox = sandbox.trip("1", 5000);
    let lines: Vec<_> = (0..4000).map(|n| format!("{{\"student\":\"{n}\"}}\n")).collect();
    let batch = || sandbox.triplock(["book", "1", "--batch", "-"]).stdin(lines.concat());
    redis.cli(["CONFIG", "SET", "maxmemory", "1mb"]);
    batch().fails(78);
    redis.cli(["CONFIG", "SET", "maxmemory", "0"]);
    sandbox.show("1").shows_seats_left(5000);
    batch().run().exits(0);
    sandbox.show("1").shows_seats_left(1000);
}
