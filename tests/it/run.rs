//! `run` as seen by its caller and by the job: exit codes, environment, attempts, what was used, and a full disk.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::Path,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    machine,
    mount::SmallDisk,
    sandbox::{Sandbox, eventually},
};

#[test]
fn the_exit_code_is_the_jobs() {
    let sandbox = Sandbox::new();
    let cases = [
        ("exit 0", 0, "succeeded"),
        ("exit 1", 1, "failed"),
        ("exit 75", 75, "failed"),
        ("exit 124", 124, "failed"),
        ("exit 255", 255, "failed"),
        ("kill -TERM $$", 143, "failed"),
        ("kill -KILL $$", 137, "failed"),
        ("ulimit -c 0; kill -SEGV $$", 139, "failed"),
    ];
    for (script, code, _) in cases {
        let finished = sandbox.sh("j", &[], script).exits(code);
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("", ""), "{script}");
    }
    assert_eq!(sandbox.outcomes("j"), cases.map(|(_, _, outcome)| outcome));
    let ended = sandbox.events("j", "ended");
    let how: Vec<_> = ended.iter().map(|line| (line["exit"].as_u64(), line["signal"].as_u64())).collect();
    assert_eq!(
        how[1..],
        [1, 75, 124, 255]
            .map(|code| (Some(code), None))
            .into_iter()
            .chain([15, 9, 11].map(|s| (None, Some(s))))
            .collect::<Vec<_>>()
    );
}

#[test]
fn what_cannot_be_executed_is_told_from_what_is_not_there() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("not-executable"), "#!/bin/sh\n").unwrap();
    for (name, text) in [("bad-interpreter", "#!/nowhere/sh\n"), ("noise", "\x7fELF and no more")] {
        fs::write(sandbox.path(name), text).unwrap();
        fs::set_permissions(sandbox.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let cases = [
        ("./not-executable", 126),
        ("/", 126),
        (".", 126),
        ("./not-executable/below", 126),
        ("./missing", 127),
        ("/nowhere/missing", 127),
        ("no-such-command-anywhere", 127),
        ("./bad-interpreter", 127),
        ("", 127),
    ];
    for (command, code) in cases {
        let finished = sandbox.run("j", &[], &[command]).exits(code);
        let said = &finished.stderr;
        assert!(said.lines().count() == 1 && said.contains(command) && finished.stdout.is_empty(), "{finished:?}");
        assert!(!sandbox.is_locked("j.lock"));
    }
    assert_eq!(sandbox.outcomes("j"), cases.map(|_| "not_started"));
    let said = sandbox.run("j", &[], &["./bad-interpreter"]).exits(127).stderr;
    assert!(said.contains("the interpreter that its first line names is missing: /"), "{said}");
    let said = sandbox.run("j", &[], &["echo hi | wc -l"]).exits(127).stderr;
    assert!(said.ends_with("there is no such command; for a line of shell, `sh -c '…'`\n"), "{said}");
    // What timeout(1) says of the same, where it has a say.
    for (command, code) in &cases[..8] {
        let peer = std::process::Command::new("timeout").args(["60", command]).current_dir(sandbox.path("")).output();
        if let Ok(peer) = peer {
            assert_eq!(peer.status.code(), Some(*code), "timeout {command}");
        }
    }
    // Nobody tries again what can never work.
    sandbox.run("again", &["--retries", "5", "--retry-delay", "60"], &["./missing"]).exits(127).soon();
}

#[test]
fn a_script_without_an_interpreter_line_is_the_shells() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("bin")).unwrap();
    for name in ["script", "bin/in-path"] {
        fs::write(sandbox.path(name), "echo \"$0 $1 $#\"; exit 5\n").unwrap();
        fs::set_permissions(sandbox.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(sandbox.run("j", &[], &["./script", "a b", ""]).exits(5).stdout, "./script a b 2\n");
    let path = format!("PATH={}:{}", sandbox.path("bin").display(), std::env::var("PATH").unwrap());
    let found = sandbox.run("j", &[], &["in-path", "x"]).under(["env", &path]).exits(5).stdout;
    assert_eq!(found, format!("{} x 1\n", sandbox.path("bin/in-path").display()));
}

#[test]
fn a_command_line_that_is_wrong_runs_nothing() {
    let sandbox = Sandbox::new();
    for arguments in [
        &["run", "j"][..],
        &["run", "j", "--"],
        &["run"],
        &["run", "../j", "true"],
        &["run", "j", "--unknown", "--", "true"],
        &["run", "j", "--time-limit", "0", "--", "true"],
        &["run", "j", "--policy", "replace", "-w", "3", "--", "true"],
    ] {
        let finished = sandbox.triplock(arguments).for_people().exits(125);
        assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    }
    assert!(sandbox.outcomes("j").is_empty());
}

#[test]
fn arguments_are_passed_on_byte_for_byte() {
    let sandbox = Sandbox::new();
    let odd = OsStr::from_bytes(b"\xff\xfe \n\t'\"$x");
    let run = sandbox.run("j", &[], &["sh", "-c", "printf '%s|' \"$@\" >got", "-", "", "--json", "-n", "--"]).arg(odd);
    run.exits(0);
    assert_eq!(fs::read(sandbox.path("got")).unwrap(), b"|--json|-n|--|\xff\xfe \n\t'\"$x|");
}

#[test]
fn a_job_knows_its_run() {
    let sandbox = Sandbox::new();
    sandbox.sh("other", &["-n"], "exit 0").exits(0);
    let policy = ["--retries", "1", "--retry-delay", "0.01", "--lock", "db"];
    for _ in 0..2 {
        sandbox.sh("j", &policy, "env | grep ^TRIPLOCK_ | sort >>seen; echo >>seen; exit 1").exits(1);
    }
    let seen = sandbox.written("seen");
    let seen: Vec<Vec<(&str, &str)>> = seen
        .split_terminator("\n\n")
        .map(|attempt| attempt.lines().map(|line| line.split_once('=').unwrap()).collect())
        .collect();
    let names =
        ["ATTEMPT", "FENCE", "HELD", "JOB", "LOCK_FILE", "RUN_ID", "STATE_DIR"].map(|name| format!("TRIPLOCK_{name}"));
    for attempt in &seen {
        assert_eq!(attempt.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
    }
    let of = |name: &str| -> Vec<&str> {
        seen.iter().map(|attempt| attempt.iter().find(|(n, _)| n.ends_with(name)).unwrap().1).collect()
    };
    assert_eq!(of("ATTEMPT"), ["1", "2", "1", "2"]);
    assert_eq!(of("RUN_ID"), ["1", "1", "2", "2"]);
    assert_eq!(of("JOB"), ["j"; 4]);
    assert_eq!(of("STATE_DIR"), [sandbox.state_dir().to_str().unwrap(); 4]);
    assert_eq!(of("LOCK_FILE"), [sandbox.jobs("j.lock").to_str().unwrap(); 4]);
    let fences: Vec<u64> = of("FENCE").iter().map(|fence| fence.parse().unwrap()).collect();
    assert!(fences[0] == fences[1] && fences[1] < fences[2] && fences[2] == fences[3], "{fences:?}");
    for (held, fence) in of("HELD").iter().zip(&fences) {
        let mut held = held.split(' ');
        assert_eq!(held.next(), Some(&*format!("j:{fence}")));
        assert!(held.next().is_some_and(|lock| lock.starts_with("locks/db:")) && held.next().is_none());
    }
    let recorded: Vec<_> = sandbox.events("j", "started").iter().map(|line| line["fence"].as_u64().unwrap()).collect();
    assert_eq!(recorded, fences);
}

/// A relative path would mean something else wherever the job goes.
#[test]
fn the_paths_that_a_job_is_given_are_absolute() {
    let sandbox = Sandbox::new().with_state("relative");
    let sandbox_dir = sandbox.path("");
    let look = "cd /; ls \"$TRIPLOCK_LOCK_FILE\" && ls -d \"$TRIPLOCK_STATE_DIR/jobs\"";
    let finished = sandbox.sh("j", &[], look).exits(0);
    let expected = |tail: &str| sandbox_dir.join("relative").join(tail).display().to_string();
    assert_eq!(finished.stdout.lines().collect::<Vec<_>>(), [expected("jobs/j.lock"), expected("jobs")]);
}

/// However a run ended, and whatever became of its ledger's last line.
#[test]
fn the_fence_always_grows() {
    let sandbox = Sandbox::new();
    let mut last = 0;
    for round in 0..5 {
        let wrapper =
            sandbox.sh("j", &[], &format!("echo $TRIPLOCK_FENCE >fence{round}; read x <&- || sleep 1000")).start();
        let fence: u64 = sandbox.written(&format!("fence{round}")).trim().parse().unwrap();
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        wrapper.dies();
        for pid in sandbox.processes() {
            sandbox.send(pid, Signal::KILL);
        }
        eventually("the lock is free", || !sandbox.is_locked("j.lock"));
        if round == 2 {
            // As after a power cut: the note in the lock file is never synced.
            fs::write(sandbox.jobs("j.lock"), "").unwrap();
        }
    }
    assert_eq!(sandbox.outcomes("j"), ["lost"; 4]);
}

#[test]
fn everything_else_is_as_the_caller_has_it() {
    let sandbox = Sandbox::new();
    let finished = sandbox.run("j", &[], &["cat"]).stdin("line\n\0\n").exits(0);
    assert_eq!(finished.stdout, "line\n\0\n");
    let caller = ["sh", "-c", "umask 027; ulimit -n 100; exec nice -n 5 env GIVEN='a b' LANG=xx \"$0\" \"$@\""];
    let look = "pwd; umask; ulimit -n; nice; echo \"$GIVEN $LANG\"; echo err >&2";
    let finished = sandbox.sh("j", &[], look).under(caller).exits(0);
    let cwd = fs::canonicalize(sandbox.path("")).unwrap();
    let seen: Vec<_> = finished.stdout.lines().collect();
    assert_eq!(Path::new(seen[0]), cwd);
    // (The tests themselves may run at a lower priority.)
    let nicer = std::process::Command::new("nice").args(["-n", "5", "nice"]).output().expect("run nice");
    assert_eq!(seen[2..], ["100", String::from_utf8_lossy(&nicer.stdout).trim(), "a b xx"]);
    assert!(seen[1].ends_with("027"), "{seen:?}");
    assert_eq!(finished.stderr, "err\n");
}

#[test]
fn a_failure_is_tried_again() {
    let sandbox = Sandbox::new();
    let policy = ["--retries", "3", "--retry-delay", "0.1", "--retry-backoff", "2", "--retry-max-delay", "0.25"];
    sandbox.sh("never", &policy, "echo $TRIPLOCK_ATTEMPT >>tries; exit $((10 + TRIPLOCK_ATTEMPT))").exits(14);
    assert_eq!(sandbox.written("tries"), "1\n2\n3\n4\n");
    assert_eq!(sandbox.outcomes("never"), ["failed"], "it is one run");
    let ended = sandbox.events("never", "ended");
    assert_eq!(ended.iter().map(|line| line["exit"].as_u64().unwrap()).collect::<Vec<_>>(), [11, 12, 13, 14]);
    assert_eq!(ended.iter().map(|line| line["again"] == true).collect::<Vec<_>>(), [true, true, true, false]);
    let pauses: Vec<_> = ended.windows(2).map(|pair| seconds(&pair[1]["start"]) - end_of(&pair[0])).collect();
    for (pause, least) in pauses.iter().zip([0.1, 0.2, 0.25]) {
        // (The start is by a clock that may be set; a millisecond is forgiven.)
        assert!(*pause >= least - 0.001 && *pause < least + 5.0, "{pauses:?}");
    }
    let policy = ["--retries", "5", "--retry-delay", "0.01"];
    sandbox.sh("third", &policy, "test $TRIPLOCK_ATTEMPT = 3").exits(0);
    assert_eq!(sandbox.outcomes("third"), ["succeeded"]);
    assert_eq!(sandbox.events("third", "ended").len(), 3);
}

/// RFC 3339, on one day of which a test does not see the end twice.
fn seconds(time: &Value) -> f64 {
    let time = chrono::DateTime::parse_from_rfc3339(time.as_str().expect("a time")).expect("RFC 3339");
    #[allow(clippy::cast_precision_loss)] // microseconds of this century fit
    let micros = time.timestamp_micros() as f64;
    micros / 1e6
}

fn end_of(ended: &Value) -> f64 {
    seconds(&ended["start"]) + ended["duration"].as_f64().expect("a duration")
}

#[test]
fn other_exit_codes_may_count_as_success() {
    let sandbox = Sandbox::new();
    let policy = ["--ok-exit", "0,3", "--retries", "5", "--retry-delay", "60"];
    sandbox.sh("j", &policy, "exit 3").exits(3).soon();
    sandbox.sh("j", &policy, "exit 0").exits(0).soon();
    sandbox.sh("j", &["--ok-exit", "3"], "exit 0").exits(0);
    assert_eq!(sandbox.outcomes("j"), ["succeeded", "succeeded", "failed"]);
}

#[test]
fn a_signal_ends_the_pause_before_another_attempt() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let sandbox = Sandbox::new();
        let policy = ["--retries", "5", "--retry-delay", "1000", "--retry-max-delay", "1000"];
        let wrapper = sandbox.sh("j", &policy, "echo x >>tries; exit 7").start();
        eventually("the first attempt has failed", || sandbox.events("j", "ended").len() == 1);
        wrapper.signal(signal);
        wrapper.finish().exits(code).soon();
        assert_eq!((sandbox.outcomes("j"), sandbox.written("tries")), (vec!["stopped".into()], "x\n".into()));
        assert!(!sandbox.is_locked("j.lock"));
    }
}

/// Who asks for the end of a run does not want another attempt of it.
#[test]
fn a_run_that_was_ended_is_not_tried_again() {
    let sandbox = Sandbox::new();
    let policy = ["--retries", "5", "--retry-delay", "0.01"];
    let wrapper = sandbox.sh("j", &policy, "echo x >>tries; sleep 1000").start();
    sandbox.written("tries");
    wrapper.signal(Signal::TERM);
    wrapper.finish().exits(143).soon();
    assert_eq!(sandbox.written("tries"), "x\n");
}

#[test]
fn what_a_job_used_is_recorded() {
    let test = "run::what_a_job_used_is_recorded";
    if !machine::has(test, &["perl"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let burn = "perl -e '$x = \"a\" x 50_000_000; 1 while (times)[0] < 0.3'";
    // The shell's child, and the shell waits for it.
    sandbox.sh("j", &[], &format!("{burn}; sleep 0.2; exit 0")).exits(0);
    sandbox.sh("j", &[], "exit 0").exits(0);
    let ended = sandbox.events("j", "ended");
    let number = |line: &Value, field: &str| line[field].as_f64().unwrap_or_else(|| panic!("{field} in {line}"));
    let busy = &ended[0];
    assert!((0.29..2.0).contains(&number(busy, "user")), "{busy}");
    assert!((0.0..2.0).contains(&number(busy, "system")), "{busy}");
    assert!((50e6..200e6).contains(&number(busy, "peak_memory")), "{busy}");
    assert!((0.5..30.0).contains(&number(busy, "duration")), "{busy}");
    let idle = &ended[1];
    assert!(number(idle, "user") + number(idle, "system") < 0.2, "{idle}");
    // As much as triplock itself has, whose memory it is until it has its own.
    assert!((1e5..50e6).contains(&number(idle, "peak_memory")), "{idle}");
}

#[test]
fn on_a_disk_that_is_full_nothing_is_run() {
    let test = "run::on_a_disk_that_is_full_nothing_is_run";
    if !machine::may_mount(test) {
        return;
    }
    let disk = SmallDisk::new("size=1m,mode=700");
    let sandbox = Sandbox::new().with_state(disk.point());
    disk.fill();
    let finished = sandbox.sh("j", &[], "touch ran").exits(125);
    assert!(finished.stderr.contains("space") && finished.stderr.lines().count() == 1, "{finished:?}");
    assert!(!sandbox.exists("ran"));
    disk.free();
    sandbox.sh("j", &[], "touch ran").exits(0);
    assert_eq!(sandbox.outcomes("j"), ["succeeded"]);
}

/// A page of the ledger that has room takes lines on a full disk too. So this runs until it has none, and each line of
/// a run, the start or the end, is the first that finds no room once.
#[test]
fn a_disk_that_gets_full_takes_no_run_away() {
    let test = "run::a_disk_that_gets_full_takes_no_run_away";
    if !machine::may_mount(test) {
        return;
    }
    let mut unrecorded = 0;
    // Where the disk's end falls depends on the lengths of paths and lines: so until it falls before the end of a run.
    for round in 0..100 {
        if round >= 12 && unrecorded > 0 {
            break;
        }
        let disk = SmallDisk::new("size=1m,mode=700");
        let sandbox = Sandbox::new().with_state(disk.point());
        let script = format!("echo $TRIPLOCK_RUN_ID >>ran; exit 7 # {}", "x".repeat(round * 17 % 100));
        let mut runs = 1 + round % 5;
        for _ in 0..runs {
            sandbox.sh("j", &[], &script).exits(7);
        }
        disk.fill();
        loop {
            let finished = sandbox.sh("j", &[], &script).run();
            match finished.code() {
                // The job's own, also when its end finds no room; then that is said.
                Some(7) => {
                    runs += 1;
                    unrecorded += usize::from(!finished.stderr.is_empty());
                }
                Some(125) => break,
                _ => finished.complain("expected 7 or 125"),
            }
            assert!(runs < 100, "a full disk takes it all");
        }
        assert_eq!(sandbox.written("ran").lines().count(), runs, "a refused run has run, or one has not");
        disk.free();
        sandbox.sh("j", &[], &script).exits(7);
        runs += 1;
        // Every run that the job saw is there, each once, under the number that it was told.
        let ended: Vec<_> = sandbox.events("j", "ended").iter().map(|line| line["run"].to_string()).collect();
        let ran: Vec<_> = sandbox.written("ran").lines().map(ToOwned::to_owned).collect();
        assert_eq!(ended, ran);
        let outcomes = sandbox.outcomes("j");
        assert_eq!(outcomes.len(), runs);
        assert!(outcomes.iter().all(|outcome| ["failed", "lost"].contains(&&**outcome)), "{outcomes:?}");
    }
    assert!(unrecorded > 0, "no end found the disk full");
}

/// A killed run leaves nothing that the next one would stumble over.
#[test]
fn a_run_that_is_killed_anywhere_is_followed_by_a_good_one() {
    let test = "run::a_run_that_is_killed_anywhere_is_followed_by_a_good_one";
    if !machine::may_trace(test) {
        return;
    }
    let sandbox = Sandbox::new();
    let mut killed = 0;
    for call in ["openat", "write", "pwrite64", "fdatasync", "flock", "mkdirat"] {
        for nth in 1..=6 {
            let inject = format!("inject={call}:signal=KILL:when={nth}");
            // (Without -f: the wrapper alone.)
            let trace = ["strace", "-o", "/dev/null", "-e", &inject, "--"];
            let finished = sandbox.run("j", &["-n"], &["true"]).under(trace).run();
            killed += usize::from(finished.status.signal() == Some(Signal::KILL.as_raw()));
            eventually("its job is gone too", || !sandbox.jobs("j.lock").exists() || !sandbox.is_locked("j.lock"));
            sandbox.run("j", &["-n"], &["true"]).exits(0);
        }
    }
    assert!(killed > 10, "killed {killed} times only");
    let outcomes = sandbox.outcomes("j");
    assert!(outcomes.iter().all(|outcome| ["succeeded", "lost"].contains(&&**outcome)), "{outcomes:?}");
}
