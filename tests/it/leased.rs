//! Jobs whose lock is a lease on a server: the same of Redis and of PostgreSQL. What networks and killed processes do to
//! them is in `partitions` and its neighbours; here are the promises of a quiet day, and what is refused.

use std::{fs, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    sandbox::{Finished, Sandbox, eventually},
    servers::{Database, Postgres, Redis},
};

/// A server with nothing on it, for one test.
pub(crate) trait Server {
    fn url(&self) -> String;

    /// Puts another text in the place of one in a job's sums.
    fn change_sums(&self, job: &str, from: &str, to: &str);
}

impl Server for Redis {
    fn url(&self) -> String {
        self.url()
    }

    fn change_sums(&self, job: &str, from: &str, to: &str) {
        let key = format!("triplock:{{jobs/{job}}}:head");
        let sums = self.cli(["HGET", &key, "totals"]);
        assert!(sums.contains(from), "{from} in {sums}");
        self.cli(["HSET", &key, "totals", sums.trim_end().replace(from, to).as_str()]);
    }
}

impl Server for Database<'_> {
    fn url(&self) -> String {
        self.url()
    }

    fn change_sums(&self, job: &str, from: &str, to: &str) {
        let changed = self.sql(&format!(
            "UPDATE triplock.jobs SET totals = replace(totals, '{from}', '{to}') \
             WHERE job = '{job}' AND totals LIKE '%{from}%' RETURNING 'changed'"
        ));
        assert!(changed.contains("changed"), "{from} in the sums of {job}: {changed}");
    }
}

/// A host of its own: what it shares with others is the server.
fn host(server: &dyn Server) -> Sandbox {
    Sandbox::new().with_store(&server.url())
}

impl Sandbox {
    /// What `history JOB --json` says, the newest last.
    #[track_caller]
    fn runs(&self, job: &str) -> Vec<Value> {
        let history = self.triplock(["history", job]).run();
        let lines = history.exits(0).stdout.lines();
        lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[track_caller]
    fn last_run(&self, job: &str) -> Value {
        self.runs(job).pop().expect("a run")
    }

    /// What `status JOB --json` says.
    #[track_caller]
    fn state_of(&self, job: &str) -> Value {
        let status = self.triplock(["status", job]).run();
        serde_json::from_str(&status.exits(0).stdout).expect("JSON")
    }

    /// The tick that was run last, as a run that is not due any more tells it.
    #[track_caller]
    fn tick_of(&self, job: &str) -> chrono::DateTime<chrono::Utc> {
        self.sh(job, &["--tick", "@hourly"], "false").run().exits(0);
        let reason = self.last_run(job)["reason"].as_str().expect("a reason").to_owned();
        let time = reason.strip_prefix("the tick of ").and_then(|rest| rest.split(' ').next());
        time.and_then(|time| time.parse().ok()).unwrap_or_else(|| panic!("a time in {reason}"))
    }

    #[track_caller]
    fn runs_now(&self, job: &str) {
        eventually("the job runs", || self.triplock(["status", job]).run().stdout.contains("\"state\":\"running\""));
    }
}

#[track_caller]
fn says(finished: &Finished, what: &str) {
    if !finished.stderr.contains(what) {
        finished.complain(&format!("expected to be told {what:?}"));
    }
}

/// Makes each, of that module, a test on each kind of server.
macro_rules! on_each_server {
    ($module:ident: $($test:ident)*) => {
        mod redis {
            use super::*;
            $(
                #[test]
                fn $test() {
                    if Redis::is_installed(concat!(stringify!($module), "::redis::", stringify!($test))) {
                        super::$test(&Redis::start());
                    }
                }
            )*
        }
        mod postgres {
            use super::*;
            $(
                #[test]
                fn $test() {
                    if Postgres::is_installed(concat!(stringify!($module), "::postgres::", stringify!($test))) {
                        super::$test(&Postgres::shared().database());
                    }
                }
            )*
        }
    };
}

pub(crate) use on_each_server;

on_each_server! { leased:
    a_run_is_the_commands_and_is_recorded
    one_runs_and_the_others_are_skipped_and_name_it
    who_waits_starts_when_it_is_over
    a_run_is_replaced
    stopped_from_another_host
    slots_and_further_locks
    a_run_in_a_run_does_not_wait_for_itself
    signals_and_limits_end_the_job_with_all_it_started
    a_short_lease_is_renewed_for_as_long_as_the_job_takes
    it_is_tried_again_under_the_same_lease
    output_is_kept_where_it_ran
    a_tick_is_run_once
    a_tick_that_nobody_ran_is_found
    files_are_updated_one_at_a_time
    a_wrapper_that_is_gone_leaves_a_lease_that_ends
    both_killed_at_once_leave_no_job
    the_password_of_nobody_is_needed_to_look
}

fn a_run_is_the_commands_and_is_recorded(server: &dyn Server) {
    let host = host(server);
    let script = "echo $TRIPLOCK_JOB $TRIPLOCK_RUN_ID $TRIPLOCK_ATTEMPT $TRIPLOCK_FENCE; exit 3";
    let first = host.sh("nightly", &[], script).run();
    let words: Vec<_> = first.exits(3).stdout.split_whitespace().collect();
    assert_eq!(&words[..3], ["nightly", "1", "1"]);
    let second = host.sh("nightly", &[], "echo $TRIPLOCK_FENCE; kill -USR1 $$").run();
    let fence = |text: &str| text.trim().parse::<u64>().expect("a fence");
    assert!(fence(&second.exits(128 + 10).stdout) > fence(words[3]), "fences grow");
    assert_eq!(host.run("nightly", &[], &["/nonexistent/program"]).run().code(), Some(127));

    let runs = host.runs("nightly");
    let outcomes: Vec<_> = runs.iter().map(|run| run["outcome"].as_str().unwrap_or_default()).collect();
    assert_eq!(outcomes, ["failed", "failed", "not_started"]);
    assert_eq!((&runs[0]["exit"], &runs[1]["signal"]), (&3.into(), &10.into()));
    let state = host.state_of("nightly");
    assert_eq!((&state["state"], &state["last_run"]), (&"idle".into(), &3.into()));
    assert!(host.path("state/jobs").read_dir().expect("a directory").next().is_none(), "files hold output only");
}

fn one_runs_and_the_others_are_skipped_and_name_it(server: &dyn Server) {
    let (one, other) = (host(server), host(server));
    one.pipe("go");
    let running = one.sh("nightly", &[], "read x <go").start();
    other.runs_now("nightly");
    let state = other.state_of("nightly");
    let holder = &state["holders"][0];
    assert_eq!((&holder["state"], &holder["run"]), (&"running".into(), &1.into()), "{state}");
    assert!(holder["host"].is_string() && holder["command"].as_str().is_some_and(|c| c.contains("read x")), "{state}");
    let skipped = other.run("nightly", &[], &["true"]).arg("").run();
    assert_eq!(skipped.code(), Some(75));
    assert_eq!(other.run("nightly", &["-E", "0"], &["true"]).run().code(), Some(0));
    assert_eq!(other.run("nightly", &["-w", "0.3"], &["true"]).run().code(), Some(75));
    one.open_pipe("go");
    running.finish().exits(0);
    let runs = other.runs("nightly");
    let outcomes: Vec<_> = runs.iter().map(|run| run["outcome"].as_str().unwrap_or_default()).collect();
    assert_eq!(outcomes, ["succeeded", "skipped", "skipped", "skipped"]);
    assert_eq!(runs[1]["holder"]["fence"], runs[0]["fence"], "who had it, by its fence");
    assert!(runs[3]["wait"].as_f64() >= Some(0.3), "{}", runs[3]);
}

fn who_waits_starts_when_it_is_over(server: &dyn Server) {
    let (one, other) = (host(server), host(server));
    one.pipe("go");
    // Whoever slept until the lease is over would be here in a minute.
    let running = one.sh("nightly", &["--lease", "80"], "read x <go").start();
    other.runs_now("nightly");
    let waiting = other.run("nightly", &["--policy", "wait"], &["true"]).start();
    let told = other.run("nightly", &["-w", "60"], &["true"]).arg("").start();
    one.open_pipe("go");
    running.finish().exits(0);
    assert!(waiting.finish().exits(0).took < Duration::from_secs(40));
    assert!(told.finish().exits(0).took < Duration::from_secs(40));
    let interrupted = {
        let running = one.sh("nightly", &[], "read x <go").start();
        other.runs_now("nightly");
        let waiting = other.run("nightly", &["-w", "60"], &["true"]).start();
        // It says who is waited for in the ledger only when it is over; that it asks can be seen by its connection.
        std::thread::sleep(Duration::from_millis(300));
        waiting.signal(Signal::TERM);
        let waiting = waiting.finish();
        one.open_pipe("go");
        running.finish().exits(0);
        waiting
    };
    interrupted.exits(128 + 15);
    assert!(other.runs("nightly").iter().any(|run| run["outcome"] == "interrupted"));
}

fn a_run_is_replaced(server: &dyn Server) {
    let (one, other) = (host(server), host(server));
    let running = one.sh("nightly", &[], "sleep 1000").start();
    other.runs_now("nightly");
    other.run("nightly", &["--policy", "replace"], &["true"]).run().exits(0);
    running.finish().exits(128 + 15);
    let outcomes: Vec<_> = one.runs("nightly").iter().map(|run| run["outcome"].clone()).collect();
    assert_eq!(outcomes, ["replaced", "succeeded"]);
    one.nothing_runs();
    // One that has the job's lease and waits for another lock has no start yet: it is ended when it has.
    one.pipe("go");
    let holder = one.sh("holder", &["--lock", "db"], "read x <go").start();
    other.runs_now("holder");
    let waiting = one.sh("late", &["--lock", "db", "-w", "60"], "sleep 1000").start();
    eventually("it has the lease", || other.triplock(["status", "--why", "late"]).run().stdout.contains("\"held\""));
    let replacing = other.run("late", &["--policy", "replace"], &["true"]).start();
    one.open_pipe("go");
    holder.finish().exits(0);
    replacing.finish().exits(0);
    waiting.finish().exits(128 + 15);
    one.nothing_runs();
}

fn stopped_from_another_host(server: &dyn Server) {
    let (one, other) = (host(server), host(server));
    other.triplock(["stop", "nightly"]).fails(66);
    let running = one.sh("nightly", &["--stop-exit-code", "9"], "sleep 1000").start();
    other.runs_now("nightly");
    other.triplock(["stop", "nightly"]).for_people().run().exits(0);
    running.finish().exits(9);
    assert_eq!(other.last_run("nightly")["outcome"], "stopped");
    other.triplock(["stop", "nightly"]).fails(4);
    one.nothing_runs();
}

fn slots_and_further_locks(server: &dyn Server) {
    let host = host(server);
    host.pipe("go");
    host.pipe("go2");
    let two = [("go", 1), ("go2", 2)].map(|(pipe, number)| {
        let running = host.sh("pool", &["--slots", "2"], &format!("read x <{pipe}")).start();
        eventually("it has a slot", || {
            host.triplock(["status", "pool"]).run().stdout.matches("\"state\":\"running\",\"slot\"").count() == number
        });
        running
    });
    host.run("pool", &["--slots", "2"], &["true"]).run().exits(75);
    host.open_pipe("go");
    host.open_pipe("go2");
    for running in two {
        running.finish().exits(0);
    }

    let running = host.sh("a", &["--lock", "db"], "read x <go").start();
    host.runs_now("a");
    let held = host.run("b", &["--lock", "db"], &["true"]).arg("").run();
    held.exits(75);
    assert!(host.last_run("b")["reason"].as_str().is_some_and(|why| why.contains("lock db is held")));
    let why = host.triplock(["status", "--why", "db"]).run();
    assert!(why.exits(0).stdout.contains("\"kind\":\"lock\""), "{}", why.stdout);
    host.run("b", &[], &["true"]).run().exits(0);
    host.open_pipe("go");
    running.finish().exits(0);
    host.run("b", &["--lock", "db", "--lock", "A"], &["true"]).run().exits(0);
}

fn a_run_in_a_run_does_not_wait_for_itself(server: &dyn Server) {
    let host = host(server);
    let triplock = crate::sandbox::TRIPLOCK;
    let nested = host.sh("nightly", &[], &format!("{triplock} run nightly --policy wait -- true")).run();
    nested.exits(125);
    says(&nested, "waiting for it would never end");
    host.sh("nightly", &[], &format!("{triplock} run other -- true")).run().exits(0);
}

fn signals_and_limits_end_the_job_with_all_it_started(server: &dyn Server) {
    let host = host(server);
    let running = host.sh("nightly", &[], "setsid sleep 1000 & sleep 1000").start();
    host.runs_now("nightly");
    running.signal(Signal::TERM);
    running.finish().exits(128 + 15);
    host.nothing_runs();
    let late = host.sh("nightly", &["--time-limit", "0.3", "-k", "0.2"], "trap '' TERM; sleep 1000 & wait; wait").run();
    assert!(matches!(late.code(), Some(124 | 137)), "{:?}", late.code());
    host.nothing_runs();
    let outcomes: Vec<_> = host.runs("nightly").iter().map(|run| run["outcome"].clone()).collect();
    assert_eq!(outcomes, ["stopped", "timed_out"]);
    // The lease is given back at once.
    host.run("nightly", &[], &["true"]).run().exits(0);
}

fn a_short_lease_is_renewed_for_as_long_as_the_job_takes(server: &dyn Server) {
    let host = host(server);
    // A dozen renewals. (A busy machine has none of its time for itself, so not the shortest that there is.)
    host.sh("nightly", &["--lease", "1.8", "-k", "0.1"], "sleep 5").run().exits(0);
    assert_eq!(host.last_run("nightly")["outcome"], "succeeded");
}

fn it_is_tried_again_under_the_same_lease(server: &dyn Server) {
    let host = host(server);
    // The pause is longer than the lease, which is renewed meanwhile.
    let script = "test $TRIPLOCK_ATTEMPT = 2";
    host.sh("patient", &["--lease", "1.5", "--retries", "1", "--retry-delay", "2.5"], script).run().exits(0);
    let patient = host.sh("patient", &["--retries", "1", "--retry-delay", "1000"], "false").start();
    let rests = |run: &Value| run["run"] == 2 && run["attempts"][0]["outcome"] == "failed";
    eventually("it rests", || host.runs("patient").last().is_some_and(rests));
    host.triplock(["stop", "patient"]).for_people().run().exits(0);
    patient.finish().exits(128 + 15);
    assert_eq!(host.last_run("patient")["outcome"], "stopped");
    let script = "echo $TRIPLOCK_ATTEMPT $TRIPLOCK_FENCE >>tries; test $TRIPLOCK_ATTEMPT = 3";
    host.sh("nightly", &["--retries", "5", "--retry-delay", "0.01"], script).run().exits(0);
    let tries = host.written("tries");
    let fences: std::collections::BTreeSet<_> = tries.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!((tries.lines().count(), fences.len()), (3, 1), "{tries}");
    assert_eq!(host.last_run("nightly")["attempts"].as_array().map(Vec::len), Some(3));
}

fn output_is_kept_where_it_ran(server: &dyn Server) {
    let (one, other) = (host(server), host(server));
    one.sh("nightly", &["--output", "capture"], "echo kept").run().exits(0);
    let logs = one.triplock(["logs", "nightly"]).for_people().run();
    assert_eq!(logs.exits(0).stdout, "kept\n");
    // Both are one machine, so its name does not tell them apart; that there is no log is told.
    other.triplock(["logs", "nightly"]).fails(66);
    let failed = one.sh("nightly", &["--output", "on-failure"], "echo said; exit 1").run();
    assert_eq!(failed.exits(1).stdout, "said\n");
    let shut = one.sh("nightly", &["--output", "on-failure"], "echo said").run();
    assert_eq!(shut.exits(0).stdout, "");
}

/// A time of day that is hours away from now, so that no tick comes amid the test.
fn rare() -> String {
    let hour = (chrono::Timelike::hour(&chrono::Local::now()) + 12) % 24;
    format!("30 {hour} * * *")
}

fn a_tick_is_run_once(server: &dyn Server) {
    let hosts = [host(server), host(server), host(server)];
    let tick = rare();
    let all: Vec<_> = (0..12)
        .map(|number| hosts[number % 3].sh("nightly", &["--tick", &tick], "echo ran; sleep 0.2").start())
        .collect();
    let ran: usize = all.into_iter().map(|run| run.finish().exits(0).stdout.matches("ran").count()).sum();
    assert_eq!(ran, 1, "one of twelve runs the tick");
    let late = hosts[1].sh("nightly", &["--tick", &tick], "echo ran").arg("").run();
    assert_eq!(late.exits(0).stdout, "");
    let runs = hosts[2].runs("nightly");
    let count = |outcome: &str| runs.iter().filter(|run| run["outcome"] == outcome).count();
    assert_eq!((count("succeeded"), count("not_due")), (1, 12));
    let reason = runs.last().expect("runs")["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.starts_with("the tick of ") && reason.contains("was run by"), "{reason}");
    // Another time is another run.
    let hour = (chrono::Timelike::hour(&chrono::Local::now()) + 11) % 24;
    let other = hosts[1].sh("nightly", &["--tick", &format!("30 {hour} * * *")], "echo ran").run();
    // (It is the earlier of the two, or the later, depending on the day; both are never run twice.)
    let again = hosts[0].sh("nightly", &["--tick", &format!("30 {hour} * * *")], "echo ran").run();
    assert!(other.exits(0).stdout.len() + again.exits(0).stdout.len() <= "ran\n".len());
}

fn a_tick_that_nobody_ran_is_found(server: &dyn Server) {
    let host = host(server);
    let hourly = ["--tick", "@hourly"];
    host.sh("hourly", &hourly, "true").run().exits(0);
    let check = || host.triplock(["check", "hourly"]).for_people().run();
    check().exits(0);
    // As if all hosts had been down for three hours: the last tick that was run is an earlier one.
    let run = host.triplock(["history", "hourly"]).run().stdout;
    assert!(run.contains("succeeded"), "{run}");
    let ran = host.tick_of("hourly");
    let before = ran - chrono::TimeDelta::hours(3);
    let written = |time: chrono::DateTime<chrono::Utc>| time.format("%Y-%m-%dT%H:%M:%S").to_string();
    server.change_sums("hourly", &written(ran), &written(before));
    let missed = check();
    assert!(missed.exits(2).stdout.contains("ticks were run by no host"), "{}", missed.stdout);
    // The next run is for the tick that is due now, and says how many before it nobody ran.
    host.sh("hourly", &hourly, "true").run().exits(0);
    let found = check();
    assert!(found.exits(1).stdout.contains("2 ticks before that"), "{}", found.stdout);
}

fn files_are_updated_one_at_a_time(server: &dyn Server) {
    // Two hosts with a file that both can see, and state directories that neither shares.
    let (one, other) = (host(server), host(server));
    let file = one.path("count");
    fs::write(&file, "0\n").expect("write");
    let update = |host: &Sandbox| {
        let words = [
            "update".as_ref(),
            file.as_os_str(),
            "--".as_ref(),
            "sh".as_ref(),
            "-c".as_ref(),
            "read n; sleep 0.01; echo $((n + 1))".as_ref(),
        ];
        host.triplock(words).for_people().start()
    };
    let all: Vec<_> = (0..10).map(|number| update(if number % 2 == 0 { &one } else { &other })).collect();
    for update in all {
        update.finish().exits(0);
    }
    assert_eq!(fs::read_to_string(&file).expect("read"), "10\n");

    one.pipe("go");
    let words = ["update", "-n", "count", "--", "sh", "-c", "read x <go; echo done"];
    let running = one.triplock(words).in_directory(one.path("")).for_people().start();
    eventually("the filter runs", || !one.processes().is_empty());
    let busy = other.triplock(["update", "-n", file.to_str().expect("text"), "--", "cat"]).for_people().run();
    busy.exits(75);
    one.open_pipe("go");
    running.finish().exits(0);
    assert_eq!(fs::read_to_string(&file).expect("read"), "done\n");
}

fn both_killed_at_once_leave_no_job(server: &dyn Server) {
    let host = host(server);
    let running = host.sh("nightly", &["--lease", "5"], "echo $$ >pid; sleep 1000 & wait").start();
    let (job, wrapper) = (host.pid_in("pid"), running.id());
    let status = fs::read_to_string(format!("/proc/{job}/status")).expect("the job's status");
    let guardian = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent").trim().to_owned();
    assert_ne!(guardian, wrapper.to_string(), "the guardian stands between");
    let killed = std::process::Command::new("kill").args(["-9", &guardian, &wrapper.to_string()]).status();
    assert!(killed.expect("start kill").success());
    let is_dead = || fs::read_to_string(format!("/proc/{job}/stat")).map_or(true, |stat| stat.contains(") Z "));
    eventually("the command is dead", is_dead);
    // (What it had started keeps the pipe open, and ends with the sandbox.)
    running.dies();
}

fn a_wrapper_that_is_gone_leaves_a_lease_that_ends(server: &dyn Server) {
    let (one, other) = (host(server), host(server));
    let running = one.sh("nightly", &["--lease", "1.5"], "setsid sleep 1000 & sleep 1000").start();
    other.runs_now("nightly");
    running.dies();
    // The guardian ends the job at once; the lease is over when its time is.
    eventually("its job is dead", || one.processes().is_empty());
    other.run("nightly", &["-w", "20"], &["true"]).run().exits(0);
    let outcomes: Vec<_> = other.runs("nightly").iter().map(|run| run["outcome"].clone()).collect();
    assert_eq!(outcomes, ["lease_lost", "succeeded"]);
}

fn the_password_of_nobody_is_needed_to_look(server: &dyn Server) {
    let host = host(server);
    host.triplock(["history"]).for_people().run().exits(0);
    host.triplock(["history", "nightly"]).fails(66);
    host.triplock(["status", "nightly"]).fails(66);
    host.triplock(["logs", "nightly"]).fails(66);
    host.triplock(["check", "nightly"]).run().exits(3);
}

#[test]
fn what_a_lease_cannot_do_is_refused_before_anything_runs() {
    let files = Sandbox::new();
    let alone = files.run("nightly", &["--tick", "* * * * *"], &["touch", "ran"]).run();
    alone.exits(125);
    says(&alone, "--tick is for hosts that share a server");
    files.run("nightly", &["--lease", "30"], &["touch", "ran"]).run().exits(125);
    // Nobody listens there: none of these is a question for the server.
    let host = Sandbox::new().with_store("redis://127.0.0.1:1");
    let short = host.run("nightly", &["--lease", "2s", "-k", "5s"], &["touch", "ran"]).run();
    short.exits(125);
    says(&short, "0.667 s + 5 s + 0.25 s = 5.917 s");
    let tree = host.run("nightly", &["--hold", "tree"], &["touch", "ran"]).run();
    tree.exits(125);
    says(&tree, "--hold tree");
    let down = host.run("nightly", &[], &["touch", "ran"]).run();
    down.exits(125);
    says(&down, "127.0.0.1:1");
    assert!(!files.exists("ran") && !host.exists("ran"));
}

#[test]
fn a_server_that_is_away_for_less_than_the_lease_is_forgiven() {
    if !Redis::is_installed("leased::a_server_that_is_away_for_less_than_the_lease_is_forgiven") {
        return;
    }
    let mut redis = Redis::start();
    let host = host(&redis);
    host.pipe("go");
    let running = host.sh("nightly", &["--lease", "20"], "read x <go").start();
    host.runs_now("nightly");
    redis.kill();
    host.open_pipe("go");
    eventually("the job is over", || host.processes().len() <= 1);
    redis.restart();
    running.finish().exits(0);
    assert_eq!(host.last_run("nightly")["outcome"], "succeeded");
}

#[test]
fn a_server_that_is_away_for_longer_ends_the_job() {
    if !Redis::is_installed("leased::a_server_that_is_away_for_longer_ends_the_job") {
        return;
    }
    let mut redis = Redis::start();
    let host = host(&redis);
    let running =
        host.sh("nightly", &["--lease", "1.5"], "trap 'echo asked >end' TERM; sleep 1000 & wait; wait").start();
    host.runs_now("nightly");
    redis.kill();
    let lost = running.finish();
    lost.exits(76);
    says(&lost, "its lease was lost");
    assert_eq!(host.written("end"), "asked\n", "it had its grace");
    host.nothing_runs();
    redis.restart();
    host.run("nightly", &["-w", "20"], &["true"]).run().exits(0);
    let outcomes: Vec<_> = host.runs("nightly").iter().map(|run| run["outcome"].clone()).collect();
    assert_eq!(outcomes, ["lease_lost", "succeeded"]);
}
