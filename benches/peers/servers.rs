//! The product on servers, beside hand-written clients of the same servers.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use triplock::{Change, Name, ServerTrips, Trips as _};

use crate::{
    drive::{output, run},
    library::{ROUNDS, book, requests_per_second, threads_booking},
    peer,
    processes::compare,
    report::{Figures, Part, Target},
    server::{self, Server},
    site::Site,
};

/// Threads or connections, and how many requests keep redis-benchmark busy for about a second.
const LOADS: [(usize, u32); 3] = [(1, 2_000), (8, 8_000), (64, 16_000)];

/// What the product commits bookings with, from the product's own source.
const SUBMIT: &str = include_str!("../../src/store/redis/submit.lua");

/// The least that a hand-written client must do, in a transaction of its own for each booking: lock the row, look, take
/// the seat, record who has it. Its tables are those of psql's bookings.
const FOR_UPDATE: &str = "\
\\set student :student + 1
BEGIN;
SELECT seats_left FROM trips WHERE trip = '1' FOR UPDATE;
UPDATE trips SET seats_left = seats_left - 1 WHERE trip = '1';
INSERT INTO bookings VALUES ('1', 'pgbench-' || :run::text || '-' || :client_id::text || '-' || :student::text, 1);
COMMIT;
";

pub(crate) fn measure(site: &Site) -> Part {
    let about = "Bookings per second of one trip on a server of this machine, over loopback: threads of one process that \
                 share a `ServerTrips` (this benchmark's build: dist, dynamic) beside the load generator that the server \
                 comes with, 5 rounds of 1 s (pgbench 2 s) in turn; and a process a booking beside the server's own client, 5 rounds of \
                 0.7 s in turn. PostgreSQL: defaults (`fsync` and `synchronous_commit` on), pgbench -M prepared with a \
                 transaction a booking. Redis: appendfsync always, redis-benchmark EVALSHA with the script that the \
                 product runs";
    let mut part = Part::new("servers", about);
    let measured = [postgres(site, &mut part), redis(site, &mut part)];
    for why in measured.into_iter().filter_map(Result::err) {
        part.note(format!("**Not measured:** {why}"));
    }
    part
}

fn postgres(site: &Site, part: &mut Part) -> Result<(), String> {
    let server = server::postgres(site)?;
    let programs = server::postgres_programs().ok_or("postgres is not installed")?;
    run(server::psql(&programs, server.port).args(["-c", "CREATE DATABASE triplock"]));
    let url = format!("postgres://postgres@127.0.0.1:{}/triplock", server.port);
    let psql = peer::postgres_on(programs.clone(), server.port);
    let script = site.directory("pgbench").join("book.sql");
    fs::write(&script, FOR_UPDATE).expect("a script");

    let store = ServerTrips::new(url.parse().expect("a URL"));
    let bench = Bench { programs, port: server.port, script, runs: AtomicU64::new(0) };
    beside_threads(part, &store, "PostgreSQL", "pgbench", |connections, _| bench.run(connections));
    bench.verify();

    compare(part, peer::triplock_on(site, "triplock on PostgreSQL", url), vec![(psql, Target::at_least(5.0))]);
    Ok(())
}

fn redis(site: &Site, part: &mut Part) -> Result<(), String> {
    let server = server::redis(site)?;
    let url = format!("redis://127.0.0.1:{}", server.port);
    let store = ServerTrips::new(url.parse().expect("a URL"));
    let hash = output(Command::new("redis-cli").args(["-p", &server.port.to_string(), "SCRIPT", "LOAD", SUBMIT]));
    let next = AtomicU64::new(0);
    beside_threads(part, &store, "Redis", "redis-benchmark", |connections, requests| {
        let trip = format!("bench-{}", next.fetch_add(1, Ordering::Relaxed)).parse().expect("a name");
        redis_benchmark(&server, hash.trim(), &store, &trip, connections, requests)
    });

    let redis_cli = peer::redis_on(server.port);
    compare(part, peer::triplock_on(site, "triplock on Redis", url), vec![(redis_cli, Target::at_least(5.0))]);
    Ok(())
}

/// The library's threads in turn with `theirs`, which gives a rate for so many connections and requests.
fn beside_threads(
    part: &mut Part,
    store: &ServerTrips,
    server: &str,
    generator: &str,
    theirs: impl Fn(usize, u32) -> f64,
) {
    let trip: Name = "threads".parse().expect("a name");
    let students = AtomicU64::new(0);
    book(store, &trip, Change::Add { seats: u32::MAX });
    for (threads, requests) in LOADS {
        let (mut our_rates, mut their_rates) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            our_rates.push(threads_booking(store, &trip, threads, &students).rate());
            their_rates.push(theirs(threads, requests));
        }
        let what = format!("{server}: {threads} threads / {generator}, {threads} connections");
        let (ours, theirs) = (Figures::new(&our_rates, "/s"), Figures::new(&their_rates, "/s"));
        part.row(&what, &ours, &theirs, Target::at_least(0.8));
    }
    let held = store.show(&trip).expect("the trip").totals;
    let booked = students.into_inner();
    assert_eq!(
        (held.bookings, u64::from(u32::MAX - held.seats_left)),
        (booked, booked),
        "{server}: not what was booked"
    );
}

/// pgbench, and how many transactions it said that it committed.
struct Bench {
    programs: PathBuf,
    port: u16,
    script: PathBuf,
    runs: AtomicU64,
}

impl Bench {
    /// Transactions per second of its connections once they are made, which the time includes.
    fn run(&self, connections: usize) -> f64 {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let told = output(
            Command::new(self.programs.join("pgbench"))
                .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "-n", "-M", "prepared"])
                .args(["-T", "2", "-c", &connections.to_string(), "-j", &connections.min(2).to_string()])
                .args(["-D", &format!("run={run}"), "-D", "student=0", "-f"])
                .arg(&self.script)
                .arg("postgres")
                .env("PGSSLMODE", "disable"),
        );
        let number = |before: &str| -> f64 {
            let rest = told.split(before).nth(1).unwrap_or_else(|| panic!("no {before:?} in {told}"));
            rest.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
        };
        let (committed, rate) = (number("actually processed: "), number("tps = "));
        let counted = format!("SELECT count(*) FROM bookings WHERE student LIKE 'pgbench-{run}-%'");
        let held = output(server::psql(&self.programs, self.port).args(["-c", &counted]));
        assert_eq!(held.trim(), committed.to_string(), "pgbench's table does not hold what was booked");
        rate
    }

    /// What psql's processes book afterwards is counted from nothing.
    fn verify(self) {
        let left = "SELECT 1000000000 - seats_left - (SELECT count(*) FROM bookings) FROM trips";
        assert_eq!(output(server::psql(&self.programs, self.port).args(["-c", left])).trim(), "0", "lost update");
        run(server::psql(&self.programs, self.port).args(["-c", "TRUNCATE bookings"]));
    }
}

/// What redis-benchmark says that it reached with the product's script, on a trip of its own: its seed is the time XOR
/// its process id, so two runs can draw the same students.
fn redis_benchmark(
    redis: &Server,
    hash: &str,
    store: &ServerTrips,
    trip: &Name,
    connections: usize,
    requests: u32,
) -> f64 {
    book(store, trip, Change::Add { seats: u32::MAX });
    let key = |what: &str| format!("triplock:{{trips/{trip}}}:{what}");
    let told = output(
        Command::new("redis-benchmark")
            .args(["-p", &redis.port.to_string(), "-c", &connections.to_string(), "-n", &requests.to_string()])
            .args(["-q", "-r", "2000000000", "EVALSHA", hash, "4"])
            .args([key("head"), key("booked"), key("lease:1"), key("id:__rand_int__")])
            // As the product calls it: format, no retry, no replicas to wait for, how long an id is kept; a booking.
            .args(["1", "0", "0", "2592000000", "book __rand_int__ 1", "0"]),
    );
    // Of two thousand million students a few come twice.
    let held = store.show(trip).expect("the trip").totals.bookings;
    assert!(held * 1000 >= u64::from(requests) * 999, "Redis holds {held} of {requests} bookings");
    requests_per_second(&told)
}
