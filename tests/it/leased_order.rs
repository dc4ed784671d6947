//! Who waits for a lease on a server is served in the order of arrival: the same of Redis and of PostgreSQL.

use rustix::process::Signal;

use crate::{
    leased::on_each_server,
    leased_lanes::Lanes,
    sandbox::{Running, Sandbox, eventually},
    servers::{Postgres, Redis},
};

on_each_server! { leased_order:
    who_waits_is_served_in_the_order_of_arrival
    killed_waiters_let_exactly_the_next_one_go
    who_does_not_wait_does_not_overtake
    nobody_overtakes_in_the_moment_of_the_release
    a_replacement_goes_first
    several_slots_are_given_in_order
    who_asks_too_late_is_the_last
    who_gives_up_leaves_the_lane_at_once
    named_locks_have_lanes_of_their_own
    files_have_lanes_of_their_own
}

/// Hosts that share a server, and a file in which jobs write that they run.
struct Hosts<'s> {
    server: &'s dyn Lanes,
    hosts: [Sandbox; 2],
}

impl<'s> Hosts<'s> {
    fn of(server: &'s dyn Lanes) -> Self {
        Self { server, hosts: [(); 2].map(|()| Sandbox::new().with_store(&server.url())) }
    }

    fn one(&self) -> &Sandbox {
        &self.hosts[0]
    }

    /// Starts a run that holds the job until its pipe is opened.
    #[track_caller]
    fn hold(&self, job: &str, options: &[&str], pipe: &str) -> Running {
        self.one().pipe(pipe);
        let running = self.one().sh(job, options, &format!("echo >started-{pipe}; read x <{pipe}")).start();
        self.one().written(&format!("started-{pipe}"));
        running
    }

    /// A script that writes down who runs.
    fn tells(&self, who: impl std::fmt::Display) -> String {
        format!("echo {who} >>'{}'", self.one().path("order").display())
    }

    fn order(&self) -> Vec<String> {
        let order = std::fs::read_to_string(self.one().path("order")).unwrap_or_default();
        order.lines().map(str::to_owned).collect()
    }

    /// Starts a run of a job that waits, on one of the hosts, and waits until it has its ticket.
    #[track_caller]
    fn waiting(&self, number: usize, job: &str, lane: &str, options: &[&str], script: &str) -> Running {
        let before = self.server.lane(lane).len();
        let options = [&["--policy", "wait"], options].concat();
        let running = self.hosts[number % 2].sh(job, &options, script).start();
        eventually("it has its ticket", || self.server.lane(lane).len() > before);
        running
    }

    /// The same for a job's own lane.
    #[track_caller]
    fn waits(&self, number: usize) -> Running {
        self.waiting(number, "nightly", "jobs/nightly", &[], &self.tells(number))
    }
}

fn who_waits_is_served_in_the_order_of_arrival(server: &dyn Lanes) {
    let hosts = Hosts::of(server);
    let holder = hosts.hold("nightly", &[], "go");
    let all: Vec<_> = (1..=8).map(|number| hosts.waits(number)).collect();
    hosts.one().open_pipe("go");
    holder.finish().exits(0);
    for run in all {
        run.finish().exits(0);
    }
    assert_eq!(hosts.order(), ["1", "2", "3", "4", "5", "6", "7", "8"]);
    assert!(server.lane("jobs/nightly").is_empty());
}

fn killed_waiters_let_exactly_the_next_one_go(server: &dyn Lanes) {
    let hosts = Hosts::of(server);
    let holder = hosts.hold("nightly", &[], "go");
    let mut all: Vec<_> = (1..=5).map(|number| hosts.waits(number)).collect();
    // The third, and the first: what has their places is nobody, for as long as their tickets are live.
    all.remove(2).dies();
    all.remove(0).dies();
    hosts.one().open_pipe("go");
    holder.finish().exits(0);
    for run in all {
        run.finish().exits(0);
    }
    assert_eq!(hosts.order(), ["2", "4", "5"]);
}

fn who_does_not_wait_does_not_overtake(server: &dyn Lanes) {
    let hosts = Hosts::of(server);
    let host = hosts.one();
    host.run("nightly", &["--lock", "db"], &["true"]).run().exits(0);
    let reason = |job: &str| {
        let history = host.triplock(["history", job]).run().exits(0).stdout.clone();
        let last: serde_json::Value = serde_json::from_str(history.lines().last().expect("a run")).expect("JSON");
        (last["outcome"].clone(), last["reason"].as_str().unwrap_or_default().to_owned(), last["holder"].clone())
    };
    server.plant("jobs/nightly");
    for options in [&[][..], &["-n"]] {
        host.sh("nightly", options, &hosts.tells("newcomer")).run().exits(75);
        let (outcome, why, holder) = reason("nightly");
        assert_eq!((outcome, holder), ("skipped".into(), serde_json::Value::Null));
        assert!(why.starts_with("others wait for it, the first on elsewhere (since 2026-11-23"), "{why}");
    }
    let status = host.triplock(["status", "nightly"]).run();
    assert!(status.exits(0).stdout.contains("\"state\":\"idle\""), "who waits holds nothing: {}", status.stdout);
    host.triplock(["check", "nightly"]).for_people().run().exits(0);
    let waited = host.sh("nightly", &["-w", "0.3"], &hosts.tells("impatient")).run();
    waited.exits(75);
    assert!(reason("nightly").1.starts_with("others wait for it"));
    server.plant("locks/db");
    host.sh("hourly", &["--lock", "db"], &hosts.tells("newcomer")).run().exits(75);
    let (_, why, holder) = reason("hourly");
    assert!(why.starts_with("others wait for lock db, the first on elsewhere (since") && holder.is_null(), "{why}");
    assert!(hosts.order().is_empty());
    // Who holds it is still told before who waits.
    server.lose("jobs/nightly");
    let holder = hosts.hold("nightly", &[], "go");
    server.plant("jobs/nightly");
    host.run("nightly", &[], &["true"]).run().exits(75);
    assert!(reason("nightly").1.starts_with("it is running already on "));
    host.open_pipe("go");
    holder.finish().exits(0);
}

fn nobody_overtakes_in_the_moment_of_the_release(server: &dyn Lanes) {
    let hosts = Hosts::of(server);
    for round in 0..12 {
        let job = format!("job{round}");
        let pipe = format!("go{round}");
        let holder = hosts.hold(&job, &[], &pipe);
        let first = hosts.waiting(0, &job, &format!("jobs/{job}"), &[], &hosts.tells(format_args!("{job} first")));
        let newcomer =
            |options: &[&str]| hosts.hosts[1].sh(&job, options, &hosts.tells(format_args!("{job} newcomer"))).start();
        let mut newcomers = Vec::new();
        newcomers.push(newcomer(&[]));
        hosts.one().open_pipe(&pipe);
        newcomers.extend((0..4).map(|number| newcomer(if number == 1 { &["--policy", "wait"] } else { &[] })));
        holder.finish().exits(0);
        first.finish().exits(0);
        for newcomer in newcomers {
            newcomer.finish();
        }
        let order: Vec<_> = hosts.order().into_iter().filter(|line| line.starts_with(&format!("{job} "))).collect();
        assert_eq!(order[0], format!("{job} first"), "{order:?}");
        assert!(order.len() > 1, "the one that waits comes as well");
    }
}

fn a_replacement_goes_first(server: &dyn Lanes) {
    let hosts = Hosts::of(server);
    let running = hosts.one().sh("nightly", &[], "echo >started; sleep 1000").start();
    hosts.one().written("started");
    let all = [hosts.waits(1), hosts.waits(2)];
    hosts.hosts[1].sh("nightly", &["--policy", "replace"], &hosts.tells("replacement")).run().exits(0);
    running.finish().exits(128 + 15);
    for run in all {
        run.finish().exits(0);
    }
    assert_eq!(hosts.order(), ["replacement", "1", "2"]);
    // Also when the slot is free at that moment, and others are to have it.
    server.plant("jobs/nightly");
    hosts.one().sh("nightly", &["--policy", "replace"], &hosts.tells("again")).run().exits(0);
    assert_eq!(hosts.order().last().map(String::as_str), Some("again"));
}

fn several_slots_are_given_in_order(server: &dyn Lanes) {
    let hosts = Hosts::of(server);
    let two = ["--slots", "2"];
    let holders = [hosts.hold("pool", &two, "a"), hosts.hold("pool", &two, "b")];
    let all: Vec<_> = (1..=4)
        .map(|number| {
            let host = &hosts.hosts[number % 2];
            host.pipe(&format!("go{number}"));
            let script = format!("{}; read x <go{number}", hosts.tells(number));
            hosts.waiting(number, "pool", "jobs/pool", &two, &script)
        })
        .collect();
    let [a, b] = holders;
    let runs = |so_many: usize| eventually("the next one runs", || hosts.order().len() == so_many);
    hosts.one().open_pipe("a");
    a.finish().exits(0);
    runs(1);
    hosts.one().open_pipe("b");
    b.finish().exits(0);
    runs(2);
    for (number, run) in (1..=4).zip(all) {
        hosts.hosts[number % 2].open_pipe(&format!("go{number}"));
        run.finish().exits(0);
        runs(4.min(number + 2));
    }
    assert_eq!(hosts.order(), ["1", "2", "3", "4"]);
}

fn who_asks_too_late_is_the_last(server: &dyn Lanes) {
    let hosts = Hosts::of(server);
    let lane = || server.lane("jobs/nightly");
    let holder = hosts.hold("nightly", &[], "go");
    let all: Vec<_> = (1..=3).map(|number| hosts.waits(number)).collect();
    let before = lane();
    server.expire("jobs/nightly", &before[0]);
    eventually("it has another place", || lane() == [&*before[1], &*before[2], &*before[0]]);
    // (Tickets that are lost altogether are made again, in whatever order.)
    hosts.one().open_pipe("go");
    holder.finish().exits(0);
    for run in all {
        run.finish().exits(0);
    }
    assert_eq!(hosts.order(), ["2", "3", "1"]);

    let holder = hosts.hold("nightly", &[], "again");
    let all = [hosts.waits(4), hosts.waits(5)];
    server.lose("jobs/nightly");
    eventually("they have tickets again", || lane().len() == 2);
    assert_eq!(hosts.order().len(), 3, "the lease is still held");
    hosts.one().open_pipe("again");
    holder.finish().exits(0);
    for run in all {
        run.finish().exits(0);
    }
}

fn who_gives_up_leaves_the_lane_at_once(server: &dyn Lanes) {
    let hosts = Hosts::of(server);
    let lane = || server.lane("jobs/nightly").len();
    let holder = hosts.hold("nightly", &[], "go");
    let stopped = hosts.waits(1);
    let patient = hosts.waits(2);
    stopped.signal(Signal::TERM);
    stopped.finish().exits(128 + 15);
    assert_eq!(lane(), 1);
    hosts.one().run("nightly", &["-w", "0.3"], &["true"]).run().exits(75);
    assert_eq!(lane(), 1);
    // One that would wait for itself does not stay in its own way.
    let nested = format!("{} run outer --policy wait -- true", crate::sandbox::TRIPLOCK);
    hosts.one().sh("outer", &[], &nested).run().exits(125);
    assert!(server.lane("jobs/outer").is_empty());
    hosts.one().open_pipe("go");
    holder.finish().exits(0);
    patient.finish().exits(0);
    assert_eq!(hosts.order(), ["2"]);
}

fn named_locks_have_lanes_of_their_own(server: &dyn Lanes) {
    let hosts = Hosts::of(server);
    let db = ["--lock", "db"];
    let holder = hosts.hold("zero", &db, "go");
    let all: Vec<_> = (1..=4)
        .map(|number| hosts.waiting(number, &format!("job{number}"), "locks/db", &db, &hosts.tells(number)))
        .collect();
    hosts.one().sh("newcomer", &db, &hosts.tells("newcomer")).run().exits(75);
    hosts.one().open_pipe("go");
    holder.finish().exits(0);
    for run in all {
        run.finish().exits(0);
    }
    assert_eq!(hosts.order(), ["1", "2", "3", "4"]);
}

fn files_have_lanes_of_their_own(server: &dyn Lanes) {
    let hosts = Hosts::of(server);
    let file = hosts.one().path("count");
    std::fs::write(&file, "0\n").expect("write");
    let update = |options: &[&str]| {
        let words = ["update"].iter().chain(options).map(Into::into).chain([file.clone().into_os_string()]);
        let words: Vec<std::ffi::OsString> = words.chain(["--", "sed", "s/$/x/"].map(Into::into)).collect();
        hosts.one().triplock(words).for_people().run()
    };
    update(&[]).exits(0);
    let resources = server.files();
    let [resource] = resources.as_slice() else { panic!("one file: {resources:?}") };
    server.plant(resource);
    update(&["-n"]).exits(75);
    update(&["-w", "0.3"]).exits(75);
    server.lose(resource);
    update(&["-w", "30"]).exits(0);
    assert_eq!(std::fs::read_to_string(&file).expect("read"), "0xx\n");
}
