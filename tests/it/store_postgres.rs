//! PostgreSQL as a store: what it makes of its tables, of people who write to them, of other settings, and of a server
//! that fails in the middle.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use triplock::{
    Acquire, Answer, Change, Error, Name, Refusal, Request, ServerTrips, Trips, Wait,
    lock::{Guard, Lock, LossMode, PostgresLock},
};

use crate::{
    machine,
    sandbox::{Invocation, Running, Sandbox, eventually},
    servers::{Database, PgBouncer, Postgres},
};

fn trip() -> Name {
    "1".parse().unwrap()
}

fn trips(url: &str) -> ServerTrips {
    ServerTrips::new(url.parse().unwrap())
}

fn booking(student: &str) -> Request {
    Request::new(Change::Book { student: student.parse().unwrap(), seats: 1 })
}

#[track_caller]
fn ask(trips: &ServerTrips, request: &Request) -> Answer {
    trips.submit(&trip(), request, Wait::Forever).unwrap().granted().expect("waited for ever")
}

#[track_caller]
fn book(trips: &ServerTrips, student: &str) -> Answer {
    ask(trips, &booking(student))
}

fn add(trips: &ServerTrips, seats: u32) {
    assert_eq!(ask(trips, &Request::new(Change::Add { seats })).refusal(), None);
}

/// A command on that store.
fn triplock(sandbox: &Sandbox, url: &str, args: &[&str]) -> Invocation {
    sandbox.triplock(["--store", url].iter().chain(args))
}

/// A database of its own on the shared server, unless there is none.
#[track_caller]
fn database(test: &str) -> Option<Database<'static>> {
    Postgres::is_installed(test).then(|| Postgres::shared().database())
}

#[test]
fn sixteen_processes_make_the_tables_once() {
    let Some(database) = database("sixteen_processes_make_the_tables_once") else { return };
    let sandbox = Sandbox::new();
    let gate = sandbox.gate();
    let add = |n: usize| {
        let trip = format!("t{n}");
        triplock(&sandbox, &database.url(), &["trip", "add", &trip, "--seats", "1"]).through(&gate).start()
    };
    let processes: Vec<_> = (0..16).map(add).collect();
    gate.open_for(processes.len());
    for process in processes {
        process.finish().succeeds();
    }
    assert_eq!(database.sql("SELECT count(*) FROM triplock.trips"), "16");
    assert_eq!(database.sql("SELECT max(version), count(*) FROM triplock.migrations"), "2|2");
}

#[test]
fn who_only_looks_makes_no_tables() {
    let Some(database) = database("who_only_looks_makes_no_tables") else { return };
    let sandbox = Sandbox::new();
    assert_eq!(triplock(&sandbox, &database.url(), &["trip", "list"]).run().exits(0).stdout, "");
    triplock(&sandbox, &database.url(), &["trip", "show", "1"]).fails(66);
    assert_eq!(database.sql("SELECT to_regnamespace('triplock') IS NULL"), "t");
}

#[test]
fn the_database_itself_refuses_an_oversale() {
    let Some(database) = database("the_database_itself_refuses_an_oversale") else { return };
    let trips = trips(&database.url());
    add(&trips, 2);
    book(&trips, "7");
    for (written, refused) in [
        ("INSERT INTO triplock.bookings VALUES ('1', '8', 1)", "its bookings hold 2 seats, and its row says 1"),
        ("UPDATE triplock.bookings SET seats = 2", "its bookings hold 2 seats, and its row says 1"),
        ("DELETE FROM triplock.bookings", "its bookings hold 0 seats, and its row says 1"),
        ("TRUNCATE triplock.trips", "cannot truncate a table referenced in a foreign key"),
        ("UPDATE triplock.trips SET seats_left = 2, bookings = 0", "its bookings hold 1 seats, and its row says 0"),
        ("UPDATE triplock.trips SET seats_left = -1", "no_oversale"),
        ("UPDATE triplock.trips SET seats_left = 3", "violates check constraint"),
        ("UPDATE triplock.trips SET seats = 0", "violates check constraint"),
        ("INSERT INTO triplock.bookings VALUES ('1', '7', 1)", "bookings_pkey"),
        ("INSERT INTO triplock.bookings VALUES ('1', '8', 0)", "holds_a_seat"),
        ("INSERT INTO triplock.bookings VALUES ('2', '8', 1)", "bookings_trip_fkey"),
        ("DELETE FROM triplock.trips", "bookings_trip_fkey"),
        (
            "BEGIN; INSERT INTO triplock.bookings VALUES ('1', '8', 2); \
             UPDATE triplock.trips SET seats_left = seats_left - 2, bookings = bookings + 1; COMMIT",
            "no_oversale",
        ),
        // Somebody who says that his sums are right, and counts wrong, is still held to the row's own.
        ("BEGIN; SET LOCAL triplock.adds_up = 'yes'; UPDATE triplock.trips SET seats_left = -1; COMMIT", "no_oversale"),
    ] {
        let said = database.refusal(written);
        assert!(said.contains(refused), "{written}: {said}");
    }
    // Whoever does both is welcome.
    database.sql(
        "BEGIN; SELECT FROM triplock.trips WHERE trip = '1' FOR UPDATE; \
         INSERT INTO triplock.bookings VALUES ('1', 'by hand', 1); \
         UPDATE triplock.trips SET seats_left = seats_left - 1, bookings = bookings + 1 WHERE trip = '1'; COMMIT",
    );
    assert_eq!(book(&trips, "8").refusal(), Some(Refusal::SoldOut));
}

#[test]
fn a_trigger_that_changes_what_is_booked_ends_the_booking() {
    let Some(database) = database("a_trigger_that_changes_what_is_booked_ends_the_booking") else { return };
    let trips = trips(&database.url());
    add(&trips, 5);
    database.sql(
        "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.seats = 2; RETURN NEW; END';
         CREATE TRIGGER more BEFORE INSERT ON triplock.bookings FOR EACH ROW EXECUTE FUNCTION more()",
    );
    let error = trips.submit(&trip(), &booking("7"), Wait::Forever).unwrap_err();
    assert_eq!(error.kind(), "server_damaged", "{error}");
    assert!(error.to_string().contains("nothing was committed"), "{error}");
    database.sql("DROP TRIGGER more ON triplock.bookings");
    assert_eq!(trips.show(&trip()).unwrap().totals.seats_left, 5);
    assert_eq!(book(&trips, "7").seats_left, 4);
}

#[test]
fn a_locked_trip_is_waited_for_as_long_as_was_asked() {
    let Some(database) = database("a_locked_trip_is_waited_for_as_long_as_was_asked") else { return };
    let sandbox = Sandbox::new();
    let url = database.url();
    triplock(&sandbox, &url, &["trip", "add", "1", "--seats", "1"]).succeeds();
    let held =
        database.keeps_open("SET application_name = 'till'; SELECT FROM triplock.trips WHERE trip = '1' FOR UPDATE");
    let book = |wait: &[&str]| triplock(&sandbox, &url, &[&["book", "1", "--student", "7"], wait].concat());
    let refused = book(&["-n"]).fails(75);
    assert_eq!(refused["error"], "busy");
    let timed = book(&["-w", "0.3"]).run();
    timed.fails(75);
    assert!(timed.took >= Duration::from_millis(300), "{:?}", timed.took);
    // Who looks does not wait.
    triplock(&sandbox, &url, &["trip", "show", "1"]).shows_seats_left(1);
    let waiter = book(&["-w", "60"]).start();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    eventually("it waits", || database.sql(waits) == "1");
    drop(held);
    waiter.finish().succeeds();
}

#[test]
fn whoever_holds_a_trip_is_named() {
    let Some(database) = database("whoever_holds_a_trip_is_named") else { return };
    let trips = trips(&database.url());
    add(&trips, 1);
    let holder = || match trips.submit(&trip(), &booking("7"), Wait::No).unwrap() {
        Acquire::Held(holder) => holder.expect("a holder"),
        Acquire::Granted(_) => panic!("two holders"),
    };
    let lock = "SELECT FROM triplock.trips WHERE trip = '1' FOR UPDATE";
    let held = database.keeps_open(&format!("SET application_name = 'till'; {lock}"));
    assert_eq!(holder().command, "till");
    drop(held);
    let _held = database.keeps_open(&format!("SET application_name = 'triplock 4711 otherhost'; {lock}"));
    assert_eq!((holder().pid, &*holder().host), (4711, "otherhost"));
}

#[test]
fn other_settings_of_a_database_change_nothing() {
    let Some(database) = database("other_settings_of_a_database_change_nothing") else { return };
    for (setting, value) in [
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
        ("synchronous_commit", "off"),
        ("standard_conforming_strings", "off"),
        ("backslash_quote", "off"),
        ("DateStyle", "SQL, DMY"),
        ("TimeZone", "Asia/Kolkata"),
        ("IntervalStyle", "iso_8601"),
        ("extra_float_digits", "-3"),
        ("search_path", "nowhere"),
        ("lock_timeout", "1"),
        ("statement_timeout", "2000"),
        ("idle_in_transaction_session_timeout", "1000"),
        ("client_encoding", "LATIN1"),
    ] {
        database.sql(&format!("ALTER DATABASE {} SET {setting} = '{value}'", database.name()));
    }
    let sandbox = Sandbox::new();
    let shared = trips(&database.url());
    add(&shared, 20);
    let (done, id) = (AtomicU32::new(0), |n| format!("r{n}").parse().unwrap());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (shared, done, database) = (&shared, &done, &database);
            scope.spawn(move || {
                let own = trips(&database.url());
                let trips = if thread == 0 { shared } else { &own };
                for n in 0..8 {
                    let request = booking(&format!("{thread}-{n}")).with_id(id(thread * 8 + n));
                    let answer = ask(trips, &request);
                    assert_eq!(ask(trips, &request), Answer { replayed: true, ..answer.clone() });
                    if answer.refusal().is_none() {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(done.into_inner(), 20);
    // What is committed is on disk although the database does without.
    let durable = "CREATE FUNCTION triplock.is_durable() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('synchronous_commit') <> 'on' THEN RAISE 'it is not'; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER is_durable AFTER UPDATE ON triplock.trips DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION triplock.is_durable()";
    database.sql(&durable.replace('\n', " "));
    triplock(&sandbox, &database.url(), &["trip", "resize", "1", "--seats", "21"]).succeeds();
}

#[test]
fn tables_of_a_newer_triplock_are_left_alone() {
    let Some(database) = database("tables_of_a_newer_triplock_are_left_alone") else { return };
    let sandbox = Sandbox::new();
    let url = database.url();
    triplock(&sandbox, &url, &["trip", "add", "1", "--seats", "1"]).succeeds();
    database.sql("INSERT INTO triplock.migrations VALUES (3)");
    for args in [
        &["book", "1", "--student", "7"][..],
        &["trip", "show", "1"],
        &["trip", "list"],
        &["trip", "add", "2", "--seats", "1"],
    ] {
        let error = triplock(&sandbox, &url, args).fails(78);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("version 3") && message.ends_with("upgrade triplock"), "{message}");
    }
    assert_eq!(database.sql("SELECT count(*) FROM triplock.bookings"), "0");
    let lock = PostgresLock::connect(url.parse().unwrap()).unwrap();
    assert_eq!(lock.acquire(&trip(), Wait::No).unwrap_err().kind(), "server_misconfigured");
}

#[test]
fn older_tables_are_migrated_by_whoever_comes_first() {
    let Some(database) = database("older_tables_are_migrated_by_whoever_comes_first") else { return };
    // Somebody was about to make them: version 0, as it were.
    database.sql("CREATE SCHEMA triplock");
    database.sql("CREATE TABLE triplock.migrations (version integer PRIMARY KEY, taken timestamptz DEFAULT now())");
    let sandbox = Sandbox::new();
    let gate = sandbox.gate();
    let book = |n: usize| {
        let trip = format!("t{n}");
        triplock(&sandbox, &database.url(), &["trip", "add", &trip, "--seats", "1"]).through(&gate).start()
    };
    let processes: Vec<_> = (0..4).map(book).collect();
    gate.open_for(processes.len());
    for process in processes {
        process.finish().succeeds();
    }
    assert_eq!(database.sql("SELECT max(version), count(*) FROM triplock.migrations"), "2|2");
}

#[test]
fn tables_of_version_1_get_their_lanes_and_keep_what_they_have() {
    let Some(database) = database("tables_of_version_1_get_their_lanes_and_keep_what_they_have") else { return };
    let (old, sandbox) = (include_str!("../../src/store/postgres/schema.sql"), Sandbox::new());
    database.sql(&format!(
        "CREATE SCHEMA triplock; CREATE TABLE triplock.migrations (version integer PRIMARY KEY, \
         taken timestamptz NOT NULL DEFAULT clock_timestamp()); {old}; INSERT INTO triplock.migrations VALUES (1); \
         INSERT INTO triplock.resources VALUES ('jobs/nightly', 7); INSERT INTO triplock.leases VALUES ('jobs/nightly', \
         1, 'old', 7, clock_timestamp() + interval '1 hour', \
         '{{\"pid\":1,\"host\":\"h\",\"since\":\"2026-11-23T20:25:19Z\",\"command\":\"old\",\"fence\":0}}')"
    ));
    let host = sandbox.with_store(&database.url());
    let waiting = host.run("nightly", &["-w", "60"], &["true"]).start();
    let is_waiting = || !database.sql("SELECT to_regclass('triplock.tickets')").is_empty();
    eventually("the tables are migrated", is_waiting);
    eventually("it waits", || database.sql("SELECT count(*) FROM triplock.tickets") == "1");
    assert_eq!(database.sql("SELECT max(version), count(*) FROM triplock.migrations"), "2|2");
    // Nobody waits in a transaction, nor with a row that others want.
    eventually("no transaction is open", || {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND xact_start IS NOT NULL AND pid <> pg_backend_pid()";
        database.sql(open) == "0"
    });
    database.sql("DELETE FROM triplock.leases");
    waiting.finish().exits(0);
}

#[test]
fn tables_that_somebody_has_changed_are_told() {
    let Some(shared) = database("tables_that_somebody_has_changed_are_told") else { return };
    let sandbox = Sandbox::new();
    for change in [
        "ALTER TABLE triplock.trips RENAME seats_left TO free",
        "ALTER TABLE triplock.trips DROP COLUMN added",
        "DROP TABLE triplock.bookings",
        "ALTER TABLE triplock.requests DROP COLUMN event",
        "ALTER TABLE triplock.trips DROP CONSTRAINT no_oversale; \
         SET triplock.adds_up = 'yes'; UPDATE triplock.trips SET seats = -1, seats_left = -2",
    ] {
        let database = Postgres::shared().database();
        let url = database.url();
        triplock(&sandbox, &url, &["trip", "add", "1", "--seats", "1"]).succeeds();
        database.sql(change);
        let finished = triplock(&sandbox, &url, &["book", "1", "--student", "7"]).run();
        assert_eq!(finished.code(), Some(65), "{change}: {}", finished.stderr);
        let error = finished.fails(65);
        assert_eq!(error["error"], "server_damaged");
        assert!(error["message"].as_str().unwrap().contains("somebody has changed"), "{change}: {error}");
    }
    drop(shared);
}

#[test]
fn who_may_not_make_the_tables_is_told() {
    let Some(database) = database("who_may_not_make_the_tables_is_told") else { return };
    let role = format!("role_{}", database.name());
    database.sql(&format!("CREATE ROLE {role} LOGIN"));
    let url = database.url().replace("triplock@", &format!("{role}@"));
    let sandbox = Sandbox::new();
    let error = triplock(&sandbox, &url, &["trip", "add", "1", "--seats", "1"]).fails(77);
    assert!(error["message"].as_str().unwrap().contains("let its user create"), "{error}");
    // Whoever is given the schema needs nothing else of the database.
    database.sql(&format!("CREATE SCHEMA triplock AUTHORIZATION {role}"));
    triplock(&sandbox, &url, &["trip", "add", "1", "--seats", "1"]).succeeds();
    database.sql(&format!("DROP OWNED BY {role}"));
    database.sql(&format!("DROP ROLE {role}"));
}

#[test]
fn through_a_pooler_all_is_as_without() {
    let Some(database) = database("through_a_pooler_all_is_as_without") else { return };
    if !PgBouncer::is_installed("through_a_pooler_all_is_as_without") {
        return;
    }
    let pooler = PgBouncer::before(Postgres::shared());
    let url = pooler.url_of(database.name());
    let sandbox = Sandbox::new();
    triplock(&sandbox, &url, &["trip", "add", "1", "--seats", "60"]).succeeds();
    let processes: Vec<_> =
        (0..8).map(|n| triplock(&sandbox, &url, &["book", "1", "--student", &format!("p{n}")]).start()).collect();
    let booked = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (url, booked) = (&url, &booked);
            scope.spawn(move || {
                let trips = trips(url);
                for n in 0..10 {
                    let request = booking(&format!("{thread}-{n}")).with_id(format!("{thread}-{n}").parse().unwrap());
                    let answer = ask(&trips, &request);
                    assert!(ask(&trips, &request).replayed);
                    if answer.refusal().is_none() {
                        booked.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let codes: Vec<_> = processes.into_iter().map(|process| process.finish().code()).collect();
    let by_processes = codes.iter().filter(|code| **code == Some(0)).count();
    assert_eq!(booked.into_inner() as usize + by_processes, 60, "{codes:?}");
    assert_eq!(database.sql("SELECT count(*) FROM triplock.bookings"), "60");
    // Nothing is left behind in the sessions that others are given.
    let lock = PostgresLock::connect(url.parse().unwrap()).unwrap();
    let guard = lock.acquire(&trip(), Wait::No).unwrap().granted().unwrap();
    assert!(guard.is_valid().unwrap());
    let other = PostgresLock::connect(url.parse().unwrap()).unwrap();
    assert!(std::thread::scope(|scope| {
        scope.spawn(|| other.acquire(&trip(), Wait::No).unwrap().granted().is_none()).join().unwrap()
    }));
}

#[test]
fn a_request_id_is_kept_for_30_days_and_then_makes_room() {
    let Some(database) = database("a_request_id_is_kept_for_30_days_and_then_makes_room") else { return };
    let trips = trips(&database.url());
    add(&trips, 1000);
    let ask = |student: &str| ask(&trips, &booking(student).with_id("r".parse().unwrap()));
    assert!(!ask("7").replayed);
    let age = |days: u32| {
        database.sql(&format!("UPDATE triplock.requests SET time = clock_timestamp() - interval '{days} days'"));
    };
    age(29);
    assert!(ask("7").replayed);
    age(31);
    let after = ask("8");
    assert_eq!((after.outcome(), after.replayed), ("booked", false));
    assert!(ask("8").replayed);
    // And those that nobody asks for go in passing.
    age(40);
    let old = "SELECT count(*) FROM triplock.requests WHERE time < clock_timestamp() - interval '31 days'";
    assert_ne!(database.sql(old), "0");
    for n in 0..64 {
        book(&trips, &format!("s{n}"));
    }
    assert_eq!(database.sql(old), "0");
}

/// A server that answers no commit: it waits for a replica that is not there.
fn answers_no_commit(server: &Postgres) {
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    server.sql("SELECT pg_reload_conf()");
    eventually("it waits for a replica", || server.sql("SHOW synchronous_standby_names") == "nobody");
}

fn waits_for_its_commit(server: &Postgres) {
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    eventually("a commit waits", || server.sql(waits) != "0");
}

fn booked_on(server: &Postgres) -> String {
    server.sql("SELECT string_agg(student, ' ' ORDER BY student) FROM triplock.bookings")
}

fn start_booking(sandbox: &Sandbox, server: &Postgres, student: &str) -> Running {
    triplock(sandbox, &server.url(), &["book", "1", "--student", student, "--request-id", student]).start()
}

#[test]
fn a_server_that_is_killed_in_a_commit_is_asked_again() {
    if !Postgres::is_installed("a_server_that_is_killed_in_a_commit_is_asked_again") {
        return;
    }
    let (mut server, sandbox) = (Postgres::start(), Sandbox::new());
    triplock(&sandbox, &server.url(), &["trip", "add", "1", "--seats", "9"]).succeeds();
    answers_no_commit(&server);
    let process = start_booking(&sandbox, &server, "7");
    waits_for_its_commit(&server);
    server.kill();
    server.restart();
    // It was on disk already; what the second attempt finds is its first answer.
    let answer = process.finish().succeeds();
    assert_eq!((&*answer.outcome, answer.seats_left, answer.replayed), ("booked", Some(8), false));
    assert_eq!(booked_on(&server), "7");
}

#[test]
fn a_commit_that_nobody_can_tell_of_is_uncertain_and_its_retry_books_once() {
    if !Postgres::is_installed("a_commit_that_nobody_can_tell_of_is_uncertain_and_its_retry_books_once") {
        return;
    }
    let (mut server, sandbox) = (Postgres::start(), Sandbox::new());
    triplock(&sandbox, &server.url(), &["trip", "add", "1", "--seats", "9"]).succeeds();
    answers_no_commit(&server);
    let process = start_booking(&sandbox, &server, "7");
    waits_for_its_commit(&server);
    server.kill();
    let error = process.finish().fails(74);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("retry with --request-id 7"), "{message}");
    server.restart();
    let answer = start_booking(&sandbox, &server, "7").finish().succeeds();
    assert!(answer.replayed, "{answer:?}");
    // What was not sent was not booked.
    let error = {
        let held = server.keeps_open("SELECT FROM triplock.trips WHERE trip = '1' FOR UPDATE");
        let process = start_booking(&sandbox, &server, "8");
        eventually("it waits", || {
            server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "1"
        });
        server.kill();
        drop(held);
        process.finish().fails(69)
    };
    assert_eq!(error["error"], "server_unreachable");
    server.restart();
    assert_eq!(booked_on(&server), "7");
    assert!(!start_booking(&sandbox, &server, "8").finish().succeeds().replayed);
    assert_eq!(booked_on(&server), "7 8");
}

#[test]
fn a_commit_that_did_not_wait_for_its_replica_is_uncertain() {
    if !Postgres::is_installed("a_commit_that_did_not_wait_for_its_replica_is_uncertain") {
        return;
    }
    let (server, sandbox) = (Postgres::start(), Sandbox::new());
    triplock(&sandbox, &server.url(), &["trip", "add", "1", "--seats", "9"]).succeeds();
    answers_no_commit(&server);
    let process = start_booking(&sandbox, &server, "7");
    waits_for_its_commit(&server);
    // The server says COMMIT, and warns that it has not waited.
    server.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    // What the second attempt finds is no better off before a replica has it.
    process.finish().fails(74);
    server.sql("ALTER SYSTEM RESET synchronous_standby_names");
    server.sql("SELECT pg_reload_conf()");
    eventually("nobody is waited for", || server.sql("SHOW synchronous_standby_names").is_empty());
    assert!(start_booking(&sandbox, &server, "7").finish().succeeds().replayed);
    assert_eq!(booked_on(&server), "7");
}

#[test]
fn a_server_that_ends_every_connection_loses_no_booking_and_makes_none_twice() {
    if !Postgres::is_installed("a_server_that_ends_every_connection_loses_no_booking_and_makes_none_twice") {
        return;
    }
    let server = Postgres::start();
    let shared = trips(&server.url());
    add(&shared, 400);
    let over = AtomicU32::new(0);
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'triplock %'";
    std::thread::scope(|scope| {
        let booking: Vec<_> = (0..6)
            .map(|thread| {
                let shared = &shared;
                scope.spawn(move || (0..50).map(|n| book(shared, &format!("{thread}-{n}"))).collect::<Vec<_>>())
            })
            .collect();
        scope.spawn(|| {
            while over.load(Ordering::Relaxed) == 0 {
                server.sql(kill);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let answers: Vec<_> = booking.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        over.store(1, Ordering::Relaxed);
        assert!(answers.iter().all(|answer| answer.outcome() == "booked"), "{answers:?}");
        let mut revisions: Vec<_> = answers.iter().map(|answer| answer.revision.unwrap()).collect();
        revisions.sort_unstable();
        revisions.dedup();
        assert_eq!(revisions.len(), 300);
    });
    assert_eq!(shared.roster(&trip()).unwrap().bookings().count(), 300);
}

#[test]
fn a_server_that_stops_answering_is_given_up() {
    if !Postgres::is_installed("a_server_that_stops_answering_is_given_up") {
        return;
    }
    let (server, sandbox) = (Postgres::start(), Sandbox::new());
    triplock(&sandbox, &server.url(), &["trip", "add", "1", "--seats", "9"]).succeeds();
    server.stop_answering();
    let begun = Instant::now();
    triplock(&sandbox, &server.url(), &["book", "1", "--student", "7"]).fails(69);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    server.answer_again();
    triplock(&sandbox, &server.url(), &["book", "1", "--student", "7"]).succeeds();
}

#[test]
fn who_is_stopped_in_the_middle_does_not_keep_the_trip() {
    let test = "who_is_stopped_in_the_middle_does_not_keep_the_trip";
    let Some(database) = database(test) else { return };
    if !machine::may_trace(test) {
        return;
    }
    let (sandbox, url) = (Sandbox::new(), database.url());
    triplock(&sandbox, &url, &["trip", "add", "1", "--seats", "9"]).succeeds();
    // It says hello, locks the trip, and is held up for longer than the server's patience before it commits.
    let stop = ["strace", "-o", "/dev/null", "-e", "inject=sendto:delay_enter=16000000:when=3"];
    let stopped = triplock(&sandbox, &url, &["book", "1", "--student", "7"]).under(stop).start();
    let holds =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'";
    eventually("it holds the trip", || database.sql(holds) == "1");
    triplock(&sandbox, &url, &["book", "1", "--student", "8", "-n"]).fails(75);
    triplock(&sandbox, &url, &["book", "1", "--student", "8", "-w", "60"]).succeeds();
    assert_eq!(database.sql("SELECT string_agg(student, ' ') FROM triplock.bookings"), "8");
    // Its commit comes to nothing; so it asks again.
    stopped.finish().succeeds();
    assert_eq!(database.sql("SELECT string_agg(student, ' ' ORDER BY student) FROM triplock.bookings"), "7 8");
    triplock(&sandbox, &url, &["trip", "show", "1"]).shows_seats_left(7);
}

#[test]
fn a_replica_takes_no_bookings_and_says_so() {
    if !Postgres::is_installed("a_replica_takes_no_bookings_and_says_so") {
        return;
    }
    let (server, sandbox) = (Postgres::start(), Sandbox::new());
    triplock(&sandbox, &server.url(), &["trip", "add", "1", "--seats", "9"]).succeeds();
    let replica = server.replica();
    let error = triplock(&sandbox, &replica.url(), &["book", "1", "--student", "7"]).fails(78);
    assert!(error["message"].as_str().unwrap().contains("name the primary"), "{error}");
    triplock(&sandbox, &replica.url(), &["trip", "show", "1"]).shows_seats_left(9);
}

#[test]
fn a_row_lock_is_lost_with_its_transaction() {
    let Some(database) = database("a_row_lock_is_lost_with_its_transaction") else { return };
    let connect = || PostgresLock::connect(database.url().parse().unwrap()).unwrap();
    let (lock, other) = (connect(), connect());
    assert_eq!(lock.loss_mode(), LossMode::WithTransaction);
    let lost = lock.acquire(&trip(), Wait::No).unwrap().granted().unwrap();
    assert!(lost.is_valid().unwrap());
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND state = 'idle in transaction'";
    assert_eq!(database.sql(end), "1");
    let next = other.acquire(&trip(), Wait::Forever).unwrap().granted().unwrap();
    assert!(!lost.is_valid().unwrap() && next.is_valid().unwrap());
    // The fence that was written in the lost transaction went with it; the next one is larger all the same.
    assert!(next.fence() > lost.fence());
    drop(lost);
    assert!(next.is_valid().unwrap(), "who lost it gives nothing back");
}

#[test]
fn an_error_without_a_server_is_told_at_once() {
    let Some(database) = database("an_error_without_a_server_is_told_at_once") else { return };
    let begun = Instant::now();
    let nobody = database.url().replace(&format!(":{}/", database.port()), ":1/");
    match trips(&nobody).submit(&trip(), &booking("7"), Wait::Forever) {
        Err(Error::Server { trouble: triplock::ServerTrouble::Unreachable, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
