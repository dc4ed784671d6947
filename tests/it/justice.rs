//! Nobody pays for another's run: signals, limits and refusals meet what they are meant for, and nothing else.

use rustix::process::Signal;

use crate::{
    job::{is_alive, state},
    machine,
    sandbox::{Sandbox, eventually},
};

/// Makes the shell that it runs in a parent of a process that does not belong to the job, and then the job's wrapper.
const A_STRANGER_BEFORE: &str = "TRIPLOCK_STATE_DIR=$1; export TRIPLOCK_STATE_DIR; sleep 1000 >/dev/null 2>&1 & echo $! >before; sleep 0.3; shift; exec \"$@\"";

#[test]
fn stop_spares_the_children_that_the_wrapper_had_before() {
    let sandbox = Sandbox::new();
    let mark = sandbox.state_dir().to_owned();
    let shell = ["sh", "-c", A_STRANGER_BEFORE, "-"].map(std::ffi::OsString::from).into_iter().chain([mark.into()]);
    let script = "trap '' TERM; echo $$ >pid; sleep 1000 & sleep 1000; sleep 1000";
    let running = sandbox.sh("nightly", &["-k", "60"], script).under(shell).start();
    sandbox.pid_in("pid");
    sandbox.triplock(["stop", "nightly", "-k", "0.2"]).for_people().exits(0).soon();
    running.finish().exits(137);
    let before = sandbox.pid_in("before");
    assert!(is_alive(before), "a stranger was killed");
    assert_eq!(sandbox.processes(), [before].into(), "and nobody else is left");
}

/// On a machine with thousands of processes a look at all of them takes as long as clocks can tell.
#[test]
fn stop_knows_the_job_however_long_it_looks() {
    if !machine::has("a slow look at the processes", &["strace"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let running = sandbox.sh("nightly", &["-k", "60"], "trap '' TERM; echo $$ >pid; sleep 1000; sleep 1000").start();
    sandbox.pid_in("pid");
    let slowly =
        ["strace", "-qq", "-o", "/dev/null", "-e", "trace=getdents64", "-e", "inject=getdents64:delay_exit=20000"];
    let stopped = sandbox.triplock(["stop", "nightly", "-k", "0.2"]).for_people().under(slowly).run();
    stopped.exits(0);
    // Its wrapper lived to record it.
    running.finish().exits(137);
    assert!(sandbox.processes().is_empty(), "the job was taken for a stranger");
}

/// The wrapper slept through the end of the command and through the limit: on a busy or paused machine both are news to
/// it at once.
#[test]
fn a_command_that_ended_by_itself_did_so_whatever_came_later() {
    for signal in [None, Some(Signal::TERM)] {
        let sandbox = Sandbox::new();
        let script = "setsid sleep 1000 >/dev/null 2>&1 & echo $! >daemon; echo $$ >pid; read x <go";
        sandbox.pipe("go");
        let running = sandbox.sh("nightly", &["--time-limit", "0.4", "-k", "0.2"], script).start();
        let command = sandbox.pid_in("pid");
        let wrapper = running.id();
        running.signal(Signal::STOP);
        eventually("it is stopped", || state(wrapper) == Some('T'));
        sandbox.open_pipe("go");
        eventually("the command has ended", || !is_alive(command));
        std::thread::sleep(std::time::Duration::from_millis(500));
        if let Some(signal) = signal {
            running.signal(signal);
        }
        running.signal(Signal::CONT);
        running.finish().exits(0);
        assert_eq!(sandbox.outcomes("nightly"), ["succeeded"], "{signal:?}");
        assert!(is_alive(sandbox.pid_in("daemon")), "its daemon was ended ({signal:?})");
    }
}

/// The lock's note is an earlier run's, under the fence that the daemon inherited; who has the lock now wrote none.
#[test]
fn a_note_that_is_not_its_holders_makes_nothing_nested() {
    if !machine::has("a stale note", &["flock"]) {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sh("nightly", &[], "echo $TRIPLOCK_HELD >held").exits(0);
    sandbox.pipe("go");
    let lock = sandbox.jobs("nightly.lock");
    let holder = std::process::Command::new("flock")
        .arg(lock)
        .args(["sh", "-c", "read x <go"])
        .current_dir(sandbox.path(""))
        .env("TRIPLOCK_STATE_DIR", sandbox.state_dir())
        .spawn();
    let mut holder = holder.unwrap();
    eventually("it is locked", || sandbox.is_locked("nightly.lock"));
    let held = sandbox.written("held");
    let inherits = ["env".into(), format!("TRIPLOCK_HELD={}", held.trim()).into(), {
        let mut state = std::ffi::OsString::from("TRIPLOCK_STATE_DIR=");
        state.push(sandbox.state_dir());
        state
    }];
    sandbox.run("nightly", &["-n"], &["true"]).under(inherits).exits(75);
    sandbox.open_pipe("go");
    assert!(holder.wait().unwrap().success());
    assert_eq!(sandbox.outcomes("nightly"), ["succeeded", "skipped"]);
}

#[test]
fn a_replacement_from_within_a_run_does_not_end_that() {
    let sandbox = Sandbox::new();
    sandbox.pipe("go");
    sandbox.pipe("on");
    let inner = format!(
        "echo $$ >pid; read x <go; '{}' run nightly --slots 2 --policy replace -- touch inner; echo on >on; read x <on",
        crate::sandbox::TRIPLOCK
    );
    let outer = sandbox.sh("nightly", &["--slots", "2"], &inner).start();
    sandbox.pid_in("pid");
    let other = sandbox.sh("nightly", &["--slots", "2"], "echo $$ >other; sleep 1000").start();
    sandbox.pid_in("other");
    sandbox.open_pipe("go");
    eventually("the inner one has run", || sandbox.exists("inner"));
    other.finish().exits(143);
    eventually("its end is recorded", || sandbox.outcomes("nightly").contains(&"succeeded".to_owned()));
    drop(outer);
    let replaced = sandbox.outcomes("nightly");
    assert!(replaced.contains(&"replaced".to_owned()) && replaced.contains(&"succeeded".to_owned()), "{replaced:?}");
    let ended = sandbox.events("nightly", "ended");
    assert!(ended.iter().any(|line| line["run"] == 2 && line["outcome"] == "replaced"), "{ended:?}");
}

/// A file size limit is the job's; the ledger's writes fail under it like any others.
#[test]
fn a_file_size_limit_costs_no_exit_code() {
    let sandbox = Sandbox::new();
    let mut codes = Vec::new();
    for _ in 0..4 {
        let limited = ["sh", "-c", "ulimit -f 2; exec \"$@\"", "-"].map(std::ffi::OsString::from);
        let done = sandbox.sh("nightly", &[], "echo ran >>ran; exit 5").under(limited).run();
        codes.push(done.status.code());
    }
    assert!(codes.iter().all(|code| [Some(5), Some(125)].contains(code)), "{codes:?}");
    assert!(codes.contains(&Some(125)), "the limit was never met: {codes:?}");
    let ran = codes.iter().filter(|code| **code == Some(5)).count();
    assert_eq!(sandbox.written("ran").lines().count(), ran, "a run that was refused ran");
}

#[test]
fn what_a_message_quotes_does_not_steer_the_terminal() {
    let sandbox = Sandbox::new();
    let done = sandbox.run("nightly", &[], &["\x1b[31mred\u{202e}"]).exits(127);
    assert!(done.stderr.contains("\\u{1b}[31mred\\u{202e}"), "{:?}", done.stderr);
}

#[test]
fn doctor_sees_what_was_planted_where_a_lock_belongs() {
    for planted in ["nightly.lock", "nightly.commit"] {
        let sandbox = Sandbox::new();
        sandbox.run("other", &[], &["true"]).exits(0);
        std::fs::create_dir(sandbox.jobs(planted)).unwrap();
        let found = sandbox.triplock(["doctor"]).for_people().exits(65);
        let said = found.stdout + &found.stderr;
        assert!(said.contains(planted) && said.contains("is a directory"), "{said}");
    }
}

/// As systemd ends a unit: every process of it gets TERM at once, and the command's end is as early news as the signal.
#[test]
fn a_signal_to_the_command_and_its_wrapper_alike_stops_the_run() {
    let sandbox = Sandbox::new();
    let running = sandbox.sh("nightly", &[], "echo $$ >pid; exec sleep 1000").start();
    let command = sandbox.pid_in("pid");
    running.signal(Signal::STOP);
    eventually("it is stopped", || state(running.id()) == Some('T'));
    sandbox.send(command, Signal::TERM);
    running.signal(Signal::TERM);
    eventually("the command has ended", || !is_alive(command));
    running.signal(Signal::CONT);
    running.finish().exits(143);
    assert_eq!(sandbox.outcomes("nightly"), ["stopped"]);
}
