//! The packaged units, run by a real systemd.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{
    machine,
    sandbox::{Running, eventually},
    systemd_box::{SystemdBox, UNITS},
};

/// A job that writes what it is asked for, waits for a word, and ends.
const WAITS: &str = "mkfifo /run/gate; chmod 666 /run/gate; echo waiting; read word </run/gate; echo \"got $word\"";

/// A job that TERM does not end, nor what it starts, nor what that leaves behind in a session of its own.
const STUBBORN: &str = "trap '' TERM; cat /proc/self/cgroup >/var/tmp/group
    (setsid sh -c 'sleep 4711 & sleep 4711' &)
    touch /run/stubborn; sleep 4711; sleep 4711";

impl SystemdBox {
    /// Starts the job's unit; its exit code says how that went.
    fn start(&self, job: &str) -> Running {
        self.systemctl(["start", &format!("triplock@{job}.service")]).start()
    }

    #[track_caller]
    fn unit_succeeds(&self, job: &str) {
        self.start(job).finish().exits(0);
    }

    #[track_caller]
    fn unit_fails(&self, job: &str) {
        self.start(job).finish().exits(1);
        eventually("its failure is reported", || self.reports(job) > 0);
    }

    /// How many lines `OnFailure=` has brought.
    #[track_caller]
    fn reports(&self, job: &str) -> usize {
        self.journal(&[&format!("_SYSTEMD_UNIT=triplock-failure@{job}.service")]).len()
    }

    /// Whether systemd calls a unit failed.
    #[track_caller]
    fn has_failed(&self, job: &str) -> bool {
        self.property(&format!("triplock@{job}.service"), "ActiveState") == "failed"
    }

    /// What the job's unit has printed.
    #[track_caller]
    fn printed(&self, job: &str) -> Vec<String> {
        let entries = self.journal(&[&format!("_SYSTEMD_UNIT=triplock@{job}.service")]);
        entries.iter().map(|entry| entry["MESSAGE"].as_str().expect("text").to_owned()).collect()
    }

    /// Lets a job that [`WAITS`] go on.
    #[track_caller]
    fn open_gate(&self) {
        eventually("the job waits", || self.exists("/run/gate"));
        self.sh("root", "echo word >/run/gate; rm /run/gate").exits(0);
    }

    #[track_caller]
    fn drop_in(&self, unit: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{unit}.d/test.conf"), text);
        self.systemctl(["daemon-reload"]).exits(0);
    }

    #[track_caller]
    fn harden(&self, job: &str, more: &str) {
        let hardened = fs::read_to_string(format!("{UNITS}/hardened.conf")).expect("read hardened.conf");
        self.write(&format!("/etc/systemd/system/triplock@{job}.service.d/hardened.conf"), &hardened);
        self.drop_in(&format!("triplock@{job}.service"), more);
    }
}

#[test]
fn a_unit_succeeds_and_fails_as_its_job_does() {
    let Some(machine) = SystemdBox::booted("a_unit_succeeds_and_fails_as_its_job_does") else { return };
    machine.job("good", &format!("echo $INVOCATION_ID; echo 'to stderr' >&2; {WAITS}"), "");
    let start = machine.start("good");
    // (Of what a unit printed just before it was gone, journald does not know which start of it that was.)
    eventually("its lines are in the journal", || machine.printed("good").len() == 3);
    machine.open_gate();
    start.finish().exits(0);
    let printed = machine.printed("good");
    assert_eq!(printed[1..], ["to stderr", "waiting", "got word"]);
    let id = &printed[0];
    // The ledger leads to what the unit printed.
    let ledger = machine.ledger("good");
    assert_eq!((&ledger[0]["invocation_id"], &ledger[1]["invocation_id"]), (&Value::from(&**id), &Value::Null));
    let history = machine.sh("root", "triplock history good --json").exits(0).stdout;
    let history: Value = serde_json::from_str(&history).expect("JSON");
    assert_eq!(history["invocation_id"], **id);
    assert!(machine.journal(&[&format!("_SYSTEMD_INVOCATION_ID={id}")]).iter().any(|line| line["MESSAGE"] == **id));
    machine.sh("root", "triplock run shell -- true; INVOCATION_ID=made-up triplock run shell -- true").exits(0);
    assert!(machine.ledger("shell").iter().all(|line| line["invocation_id"].is_null()));

    // Every allowed name is an instance.
    machine.job("my-job.v2", "true", "");
    machine.unit_succeeds("my-job.v2");
    machine.comes_to("my-job.v2", &["succeeded"]);

    // A job's own 75 looks like a skip, and is none.
    machine.job("own-75", "exit 75", "");
    machine.unit_fails("own-75");
    machine.job("bad", "triplock run nosuch 2>/run/redirected; exit 3", "output = \"capture\"");
    machine.unit_fails("bad");
    eventually("its report is whole", || machine.reports("bad") == 3);
    assert!(machine.read("/run/redirected").starts_with("triplock: "), "not the journal's stream");
    let ours = machine.journal(&["_SYSTEMD_UNIT=triplock@bad.service"]);
    let [line] = &ours[..] else { panic!("{ours:#?}") };
    assert_eq!(
        (&line["PRIORITY"], &line["MESSAGE"]),
        (&"3".into(), &"triplock: bad: run 1 failed: exit code 3".into())
    );
    let report = machine.journal(&["_SYSTEMD_UNIT=triplock-failure@bad.service"]);
    assert!(report.iter().all(|line| line["PRIORITY"] == "3"), "{report:#?}");
    assert_eq!(report[0]["MESSAGE"], "triplock@bad.service failed: exit-code, exited 3");
    assert!(report.last().expect("a report")["MESSAGE"].as_str().expect("text").contains("failed"));

    // Somebody who kills the job is not somebody who stops the unit.
    machine.job("killed", "kill -TERM $$; sleep 4711", "");
    machine.unit_fails("killed");
    machine.comes_to("killed", &["failed"]);

    machine.job("slow", STUBBORN, "time_limit = 0.2\nkill_after = 0.2");
    machine.unit_fails("slow");
    machine.comes_to("slow", &["timed_out"]);
    assert_eq!(machine.processes("sleep 4711"), [0; 0]);
    let group = machine.read("/var/tmp/group");
    assert!(group.contains("/triplock@slow.service/triplock-slow-1-"), "a control group of its own: {group}");

    // A skip is success, and is recorded.
    machine.job("held", WAITS, "");
    let shell = machine.sh("root", "triplock run held").start();
    eventually("the shell's run waits", || machine.exists("/run/gate"));
    machine.unit_succeeds("held");
    machine.comes_to("held", &["skipped"]);
    assert!(machine.ledger("held").iter().any(|line| line["event"] == "not_run" && line["invocation_id"].is_string()));
    machine.open_gate();
    shell.finish().exits(0);
    for successful in ["good", "held", "my-job.v2"] {
        assert!(!machine.has_failed(successful) && machine.reports(successful) == 0, "{successful}");
    }
}

#[test]
fn a_stop_ends_the_whole_tree_and_is_no_failure() {
    let Some(machine) = SystemdBox::booted("a_stop_ends_the_whole_tree_and_is_no_failure") else { return };
    for (job, lines) in [("alone", "kill_after = 0.2"), ("limited", "time_limit = \"1h\"\nkill_after = 0.2")] {
        machine.job(job, STUBBORN, lines);
        let unit = format!("triplock@{job}.service");
        let start = machine.start(job);
        eventually("it runs", || machine.exists("/run/stubborn") && machine.processes("sleep 4711").len() >= 3);
        let status = machine.systemctl(["status", &unit]).run().stdout;
        assert!(status.contains("sleep 4711") && status.contains("activating"), "{status}");
        machine.systemctl(["stop", &unit]).exits(0);
        assert_eq!(machine.processes("sleep 4711"), [0; 0]);
        machine.comes_to(job, &["stopped"]);
        // The job was told to go on without having finished.
        start.finish().exits(1);
        fs::remove_file(machine.path("/run/stubborn")).expect("remove the mark");
    }
    // What it makes of its TERM is its own business.
    machine.job("moody", "trap 'exit 3' TERM; touch /run/moody; sleep 4711 & wait", "");
    let start = machine.start("moody");
    eventually("it runs", || machine.exists("/run/moody"));
    machine.systemctl(["stop", "triplock@moody.service"]).exits(0);
    machine.comes_to("moody", &["stopped"]);
    start.finish();
    // In a wait for the lock, too.
    machine.job("waiting", WAITS, "policy = \"wait\"");
    let shell = machine.sh("root", "triplock run waiting").start();
    eventually("the shell's run waits", || machine.exists("/run/gate"));
    let start = machine.start("waiting");
    eventually("the unit waits for the lock", || !machine.processes("triplock run waiting -E").is_empty());
    machine.systemctl(["stop", "triplock@waiting.service"]).exits(0);
    start.finish();
    machine.open_gate();
    shell.finish().exits(0);

    machine.job("bad", "exit 3", "");
    // After this one's report, one of the others would be there too.
    machine.unit_fails("bad");
    for stopped in ["alone", "limited", "moody", "waiting"] {
        assert!(!machine.has_failed(stopped) && machine.reports(stopped) == 0, "{stopped}");
    }
}

#[test]
fn a_plain_unit_takes_nothing_from_its_job() {
    let Some(machine) = SystemdBox::booted("a_plain_unit_takes_nothing_from_its_job") else { return };
    // Everything that a job may depend on: environment, limits, umask, rights, signals, files.
    let script = "env | grep -Ev '^(TRIPLOCK|INVOCATION_ID|JOURNAL_STREAM|SYSTEMD_EXEC_PID|_=|SHLVL=|PWD=)' | sort
        pwd; umask; ulimit -a; grep -E '^(Cap|NoNewPrivs|Seccomp|Sig(Blk|Ign)|Groups|Uid|Gid)' /proc/self/status
        ls -ld / /tmp /var/tmp /dev /home /root /proc/locks /sys/fs/cgroup; ls /tmp /dev; cat /proc/self/oom_score_adj; nice
        readlink /proc/self/ns/*";
    machine.write("/run/script", script);
    machine.write("/tmp/shared", "");
    machine.add_user("alice", &["triplock"]);
    machine.write("/run/systemd/system/bare.service", "[Service]\nType=oneshot\nExecStart=/bin/sh /run/script\n");
    machine.job("plain", "exec sh /run/script", "");
    for user in ["", "[Service]\nUser=alice\n"] {
        machine.drop_in("bare.service", user);
        machine.drop_in("triplock@plain.service", user);
        let before = machine.printed("plain").len();
        machine.systemctl(["start", "bare.service"]).exits(0);
        machine.unit_succeeds("plain");
        let bare = machine.journal(&["_SYSTEMD_UNIT=bare.service"]);
        let bare: Vec<_> = bare[before..].iter().map(|entry| entry["MESSAGE"].as_str().expect("text")).collect();
        assert!(bare.contains(&"shared"), "{bare:#?}");
        assert_eq!(machine.printed("plain")[before..], bare);
    }
    // What it took is the unit's, also what ran in a control group below it.
    let burn =
        "until [ $(($(cut -d' ' -f14 /proc/$$/stat))) -ge 10 ]; do :; done; mkfifo /run/gate; read word </run/gate";
    machine.job("busy", burn, "time_limit = \"1h\"");
    let start = machine.start("busy");
    eventually("it has worked", || machine.exists("/run/gate"));
    let took: u64 = machine.property("triplock@busy.service", "CPUUsageNSec").parse().expect("a number");
    assert!(took >= 90_000_000, "{took} ns");
    machine.open_gate();
    start.finish().exits(0);
}

#[test]
fn a_hardened_unit_runs_a_job_with_all_that_triplock_offers() {
    let Some(machine) = SystemdBox::booted("a_hardened_unit_runs_a_job_with_all_that_triplock_offers") else { return };
    machine.add_user("alice", &["triplock"]);
    // What a member of the group has made is root's too, although he may not do here what root may.
    machine.sh("alice", "TRIPLOCK_STATE_DIR=/var/lib/triplock triplock run as-root -- true").exits(0);
    // Each line can be taken back by a later one, as the file says.
    let given_back = "[Service]\nReadWritePaths=/srv\nCapabilityBoundingSet=CAP_CHOWN\nSystemCallFilter=@resources\n";
    machine.job("loosened", "touch /srv/x && chown 1:1 /srv/x && nice -n 5 true", "");
    machine.harden("loosened", "");
    machine.unit_fails("loosened");
    machine.drop_in("triplock@loosened.service", given_back);
    machine.unit_succeeds("loosened");
    for (job, user, before) in [("as-root", "", 1), ("as-alice", "User=alice\n", 0)] {
        let user = format!("[Service]\n{user}");
        machine.job(
            job,
            "head -c 200000 /dev/zero | tr '\\0' x; touch /var/lib/mine 2>&1; unshare -n true 2>&1; ls /tmp; triplock status --why $TRIPLOCK_JOB; exit 3",
            "output = \"capture\"\nlog_limit = \"64k\"\nretries = 1\nretry_delay = 0",
        );
        machine.write("/tmp/shared", "");
        machine.harden(job, &user);
        machine.unit_fails(job);
        machine.comes_to(job, &["succeeded", "failed"][1 - before..]);
        let log = machine.sh("root", &format!("triplock logs {job}")).exits(0).stdout;
        for said in ["Read-only file system", "unshare", "held, run "] {
            assert!(log.contains(said), "{said}: {}", &log[log.len().saturating_sub(2000)..]);
        }
        assert!(!log.contains("shared") && log.len() < 100_000, "{}", log.len());

        let slow = format!("slow-{job}");
        machine.job(&slow, STUBBORN, "time_limit = 0.3\nkill_after = 0.2");
        machine.harden(&slow, &format!("{user}PrivateTmp=no\nReadWritePaths=/run /var/tmp\nUMask=0000\n"));
        machine.sh("root", "chmod 1777 /run /var/tmp; rm -f /var/tmp/group /run/stubborn").exits(0);
        machine.unit_fails(&slow);
        machine.comes_to(&slow, &["timed_out"]);
        assert_eq!(machine.processes("sleep 4711"), [0; 0]);
        let group = machine.read("/var/tmp/group");
        assert!(group.contains(&format!("/triplock-{slow}-1-")), "a control group of its own: {group}");

        let stopped = format!("stopped-{job}");
        machine.job(&stopped, STUBBORN, "kill_after = 0.2");
        machine.harden(&stopped, &format!("{user}PrivateTmp=no\nReadWritePaths=/run /var/tmp\nUMask=0000\n"));
        machine.sh("root", "rm -f /var/tmp/group /run/stubborn").exits(0);
        let start = machine.start(&stopped);
        eventually("it runs", || machine.exists("/run/stubborn") && machine.processes("sleep 4711").len() >= 3);
        machine.systemctl(["stop", &format!("triplock@{stopped}.service")]).exits(0);
        machine.comes_to(&stopped, &["stopped"]);
        assert_eq!(machine.processes("sleep 4711"), [0; 0]);
        assert!(!machine.has_failed(&stopped));
        start.finish();
    }
}

#[test]
fn users_of_the_group_share_locks_and_history_and_others_are_refused() {
    let test = "users_of_the_group_share_locks_and_history_and_others_are_refused";
    let Some(machine) = SystemdBox::booted(test) else { return };
    // As sysusers.d and tmpfiles.d have it, at boot.
    let found = machine.sh("root", "stat -c '%U:%G %a' /var/lib/triplock").exits(0).stdout;
    assert_eq!(found, "root:triplock 2770\n");
    for (user, groups) in [("alice", "triplock"), ("bob", "triplock"), ("carol", "triplock"), ("dave", "users")] {
        machine.add_user(user, &[groups]);
    }
    // alice's unit and bob's run one job, and each a job of its own that needs the same lock.
    machine.job("shared", WAITS, "");
    machine.job("of-alice", "true", "locks = [\"db\"]");
    machine.job("of-bob", WAITS, "locks = [\"db\"]");
    machine.drop_in("triplock@shared.service", "[Service]\nUser=alice\nExecStartPre=+install -d -m 777 /run/gates\n");
    machine.harden("of-alice", "[Service]\nUser=alice\n");
    machine.drop_in("triplock@of-bob.service", "[Service]\nUser=bob\n");
    machine.sh("root", "chmod 1777 /run").exits(0);

    let start = machine.start("shared");
    eventually("alice's runs", || machine.exists("/run/gate"));
    let shell = |user: &str, command: &str| {
        machine.sh(user, &format!("export TRIPLOCK_STATE_DIR=/var/lib/triplock; {command}"))
    };
    for user in ["bob", "carol", "root"] {
        shell(user, "triplock run shared").exits(75);
        assert!(shell(user, "triplock status shared").exits(0).stdout.contains("running"), "{user}");
    }
    let refused = shell("dave", "triplock run shared").run();
    refused.exits(125);
    assert!(refused.stderr.contains("permission denied; run as its owner, join its group"), "{}", refused.stderr);
    shell("dave", "triplock history shared").exits(77);
    machine.open_gate();
    start.finish().exits(0);
    machine.comes_to("shared", &["skipped", "skipped", "skipped", "succeeded"]);

    let start = machine.start("of-bob");
    eventually("bob's runs", || machine.exists("/run/gate"));
    machine.unit_succeeds("of-alice");
    machine.comes_to("of-alice", &["skipped"]);
    shell("carol", "triplock run of-carol --lock db -- true").exits(75);
    machine.open_gate();
    start.finish().exits(0);
    machine.unit_succeeds("of-alice");
    machine.comes_to("of-alice", &["skipped", "succeeded"]);
    shell("carol", "triplock run of-alice").exits(0);
    // Whatever the umask (a hardened unit's is 0077), and without a moment in which it was not so.
    let closed = machine.sh("root", "find /var/lib/triplock ! -perm -g=rw").exits(0).stdout;
    assert_eq!(closed, "");
    let history = shell("carol", "triplock history --json").exits(0).stdout;
    assert_eq!(history.lines().count(), 4 + 1 + 1 + 1 + 1 + 1, "{history}");
}

#[test]
fn timers_fire_and_runs_survive_what_happens_to_systemd() {
    let Some(mut machine) = SystemdBox::booted("timers_fire_and_runs_survive_what_happens_to_systemd") else { return };
    let every_second = "[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nAccuracySec=1ms\n";
    machine.job("tick", "true", "");
    machine.drop_in("triplock@tick.timer", every_second);
    machine.systemctl(["start", "triplock@tick.timer"]).exits(0);
    eventually("it has fired twice", || machine.outcomes("tick").len() >= 2);
    machine.systemctl(["stop", "triplock@tick.timer"]).exits(0);
    assert!(machine.outcomes("tick").iter().all(|outcome| outcome == "succeeded"));

    // A skip under the timer.
    machine.job("held", WAITS, "");
    let shell = machine.sh("root", "triplock run held").start();
    eventually("the shell's run waits", || machine.exists("/run/gate"));
    machine.drop_in("triplock@held.timer", every_second);
    machine.systemctl(["start", "triplock@held.timer"]).exits(0);
    eventually("it has fired", || !machine.outcomes("held").is_empty());
    machine.systemctl(["stop", "triplock@held.timer"]).exits(0);
    machine.open_gate();
    shell.finish().exits(0);
    assert_eq!(machine.outcomes("held")[0], "skipped");
    assert!(!machine.has_failed("held") && machine.reports("held") == 0);

    // systemd is replaced, and reads its files anew, under a running job.
    machine.job("long", WAITS, "time_limit = \"1h\"");
    machine.systemctl(["start", "--no-block", "triplock@long.service"]).exits(0);
    eventually("it runs", || machine.exists("/run/gate"));
    machine.systemctl(["daemon-reexec"]).exits(0);
    machine.drop_in("triplock@long.service", "[Service]\nNice=5\n");
    assert_eq!(machine.property("triplock@long.service", "ActiveState"), "activating");
    machine.open_gate();
    machine.comes_to("long", &["succeeded"]);
    eventually("systemd has seen it end", || machine.property("triplock@long.service", "ActiveState") == "inactive");

    // The machine goes down, as one should, and then as one should not.
    machine.systemctl(["start", "--no-block", "triplock@long.service"]).exits(0);
    eventually("it runs", || machine.exists("/run/gate"));
    machine.power_off();
    assert_eq!(machine.outcomes("long"), ["succeeded", "stopped"]);
    machine.boot();
    machine.systemctl(["start", "--no-block", "triplock@long.service"]).exits(0);
    eventually("it runs", || machine.exists("/run/gate"));
    machine.systemctl(["enable", "triplock@tick.timer", "triplock@late.timer", "triplock@fresh.timer"]).exits(0);
    machine.kill();
    assert_eq!(machine.outcomes("long"), ["succeeded", "stopped"]);

    // Daily, and it was off for days: made up for at boot, once. (One that never ran has missed nothing.)
    fs::remove_dir_all(machine.path("/etc/systemd/system/triplock@tick.timer.d")).expect("remove the drop-in");
    for job in ["late", "fresh"] {
        machine.job(job, "true", "");
    }
    let stamp = "/var/lib/systemd/timers/stamp-triplock@late.timer";
    machine.write(stamp, "");
    let days_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 86400);
    let stamp = fs::File::options().write(true).open(machine.path(stamp)).expect("open the stamp");
    stamp.set_modified(days_ago).expect("set the stamp's time");
    drop(stamp);
    machine.boot();
    machine.comes_to("late", &["succeeded"]);
    assert_eq!(machine.outcomes("fresh"), [""; 0]);

    let start = machine.start("long");
    machine.open_gate();
    start.finish().exits(0);
    assert_eq!(machine.outcomes("long"), ["succeeded", "stopped", "lost", "succeeded"]);
}

#[test]
fn a_users_own_systemd_runs_the_units() {
    let Some(machine) = SystemdBox::booted("a_users_own_systemd_runs_the_units") else { return };
    machine.add_user("alice", &["triplock"]);
    for unit in ["triplock@.service", "triplock@.timer", "triplock-failure@.service"] {
        let text = fs::read_to_string(format!("{UNITS}/{unit}")).expect("read the unit");
        let text = text.replace("=/var/lib/triplock", "=/home/alice/state");
        machine.write(&format!("/home/alice/.config/systemd/user/{unit}"), &text);
    }
    // (systemd 252 marks no group as delegated here, so a limit must do without.)
    let script = STUBBORN.replace("/run/", "/tmp/");
    let definition = format!("command = [\"sh\", \"-c\", {}]\n", Value::from(script));
    let limits = "time_limit = 0.3\nkill_after = 0.2\noutput = \"capture\"\n";
    let path = "/home/alice/.config/triplock/jobs.d/own.toml";
    machine.write(path, &format!("[jobs.own]\n{definition}{limits}[jobs.stopped]\n{definition}kill_after = 0.2\n"));
    machine.sh("root", "chown -R alice: /home/alice").exits(0);
    let user = machine.start_user_manager("alice");
    let triplock = |args: &[&str]| {
        let command = ["triplock", "--state-dir", "/home/alice/state"].iter().chain(args);
        user.command(command).exits(0).stdout
    };
    user.systemctl(["start", "triplock@own.service"]).exits(1);
    assert_eq!(machine.processes("sleep 4711"), [0; 0]);
    assert!(triplock(&["history", "own", "--json"]).contains("\"outcome\":\"timed_out\""));
    assert!(machine.read("/var/tmp/group").contains("/triplock@own.service"));
    fs::remove_file(machine.path("/tmp/stubborn")).expect("remove the mark");
    let start = user.systemctl(["start", "triplock@stopped.service"]).start();
    eventually("it runs", || machine.exists("/tmp/stubborn") && machine.processes("sleep 4711").len() >= 3);
    user.systemctl(["stop", "triplock@stopped.service"]).exits(0);
    start.finish();
    assert_eq!(machine.processes("sleep 4711"), [0; 0]);
    assert!(triplock(&["history", "stopped", "--json"]).contains("\"outcome\":\"stopped\""));
    user.systemctl(["is-failed", "triplock@stopped.service"]).exits(1);
    user.systemctl(["start", "triplock@own.timer"]).exits(0);
}

#[test]
fn the_units_are_what_systemd_expects() {
    if !machine::has("the_units_are_what_systemd_expects", &["systemd-analyze"]) {
        return;
    }
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let hardened = directory.path().join("triplock@hard.service.d");
    fs::create_dir(&hardened).expect("make a directory");
    fs::copy(format!("{UNITS}/hardened.conf"), hardened.join("hardened.conf")).expect("copy");
    // (Where it is not installed, the program would be missing.)
    for (unit, instance) in [
        ("triplock@.service", "triplock@plain.service"),
        ("triplock@.service", "triplock@hard.service"),
        ("triplock@.timer", "triplock@plain.timer"),
        ("triplock@.timer", "triplock@hard.timer"),
        ("triplock-failure@.service", "triplock-failure@plain.service"),
        ("triplock-failure@.service", "triplock-failure@hard.service"),
    ] {
        let text = fs::read_to_string(format!("{UNITS}/{unit}")).expect("read the unit");
        let text = text.replace("/usr/bin/triplock", crate::sandbox::TRIPLOCK);
        fs::write(directory.path().join(instance), &text).expect("write the unit");
        fs::write(directory.path().join(unit), text).expect("write the unit");
    }
    let analyze = |args: &[&str], unit: &str| {
        let unit = directory.path().join(unit);
        let mut command = Command::new("systemd-analyze");
        command.args(args).arg(unit).env("SYSTEMD_UNIT_PATH", format!("{}:", directory.path().display()));
        let output = command.output().expect("start systemd-analyze");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    for unit in
        ["triplock@plain.service", "triplock@hard.service", "triplock@plain.timer", "triplock-failure@plain.service"]
    {
        let (well, _, complaints) = analyze(&["verify", "--man=no"], unit);
        let ours: Vec<_> = complaints.lines().filter(|line| line.contains("triplock")).collect();
        assert!(well && ours.is_empty(), "{unit}: {complaints}");
    }
    let (well, table, complaints) = analyze(&["security", "--offline=true", "--no-pager"], "triplock@hard.service");
    let overall = table.lines().rfind(|line| line.contains("exposure level")).unwrap_or_else(|| panic!("{complaints}"));
    eprintln!("{overall}");
    let exposure = overall.split(": ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    assert!(well && exposure.is_some_and(|exposure| exposure <= 3.0), "{table}");
}
