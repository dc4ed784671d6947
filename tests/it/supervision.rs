//! What becomes of a job, its descendants and its lock when its wrapper is killed, gets a signal, or ends.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    job::{command_line, descriptors, is_alive, state, status},
    machine,
    sandbox::{Running, Sandbox, eventually},
};

/// A job that waits at the pipe `go`, and has written its process id to `pid`.
const WAITING: &str = "echo $$ >pid; read x <go; echo went on >after";

impl Sandbox {
    /// A running job of that kind, with its process id.
    #[track_caller]
    fn waiting(&self, job: &str, policy: &[&str]) -> (Running, u32) {
        self.pipe("go");
        let running = self.sh(job, policy, WAITING).start();
        (running, self.pid_in("pid"))
    }

    /// Waits until the job's processes are that many.
    #[track_caller]
    fn has_processes(&self, number: usize) {
        eventually(&format!("{number} processes run"), || self.processes().len() == number);
    }
}

#[test]
fn a_killed_wrapper_leaves_the_job_running_and_the_lock_with_it() {
    let sandbox = Sandbox::new();
    let (wrapper, job) = sandbox.waiting("nightly", &[]);
    wrapper.dies();
    assert!(is_alive(job), "the job died with its wrapper");
    assert!(sandbox.is_locked("nightly.lock"));
    sandbox.sh("nightly", &["-n"], "touch overlap").exits(75);
    sandbox.open_pipe("go");
    eventually("the lock ends with the job", || !sandbox.is_locked("nightly.lock"));
    assert!(sandbox.exists("after"), "the lock ended before the job");
    sandbox.sh("nightly", &["-n"], "exit 0").exits(0);
    assert!(!sandbox.exists("overlap"));
    assert_eq!(sandbox.outcomes("nightly"), ["skipped", "lost", "succeeded"]);
    let lost = &sandbox.events("nightly", "ended")[0];
    assert_eq!((&lost["run"], &lost["exit"]), (&1.into(), &serde_json::Value::Null), "{lost}");
}

/// The same with nobody skipped in between, and a waiter: it gets the lock when the orphaned job ends, not before.
#[test]
fn a_waiter_gets_the_lock_of_an_orphaned_job_when_that_ends() {
    let sandbox = Sandbox::new();
    let (wrapper, _) = sandbox.waiting("nightly", &[]);
    wrapper.dies();
    let waiter = sandbox.sh("nightly", &["-w", "60"], "test -e after").start();
    sandbox.waits_for_lock("nightly.lock", 1);
    sandbox.open_pipe("go");
    waiter.finish().exits(0).soon();
    assert_eq!(sandbox.outcomes("nightly"), ["lost", "succeeded"]);
}

/// A job is one process, its child in its group, and one that left it with setsid.
#[test]
fn a_signal_that_ends_the_wrapper_ends_the_whole_tree() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let sandbox = Sandbox::new();
        // (A shell makes its background jobs ignore INT and QUIT, so here only KILL ends the children then.)
        let script = "sleep 1000 & setsid sleep 1000 & wait";
        let wrapper = sandbox.sh("nightly", &["-k", "0.3"], script).start();
        sandbox.has_processes(3);
        wrapper.signal(signal);
        wrapper.finish().exits(code).soon();
        sandbox.nothing_runs();
        assert!(!sandbox.is_locked("nightly.lock"));
        assert_eq!(sandbox.outcomes("nightly"), ["stopped"], "{signal:?}");
        assert_eq!(sandbox.events("nightly", "ended")[0]["signal"], signal.as_raw());
    }
}

/// What the first signal ends within the grace is not killed: it may tidy up.
#[test]
fn a_job_has_its_grace_to_tidy_up() {
    let sandbox = Sandbox::new();
    let script = "trap 'sleep 0.3; echo tidied >tidied; exit 9' TERM; echo ready >ready; while :; do sleep 0.01; done";
    let wrapper = sandbox.sh("nightly", &["-k", "60"], script).start();
    sandbox.written("ready");
    wrapper.signal(Signal::TERM);
    wrapper.finish().exits(9).soon();
    assert_eq!(sandbox.written("tidied"), "tidied\n");
    assert_eq!(sandbox.outcomes("nightly"), ["stopped"]);
}

/// TERM reaches a stopped process only once it goes on.
#[test]
fn a_stopped_job_can_be_ended() {
    let sandbox = Sandbox::new();
    let wrapper = sandbox.sh("nightly", &["-k", "60"], "echo $$ >pid; kill -STOP $$; sleep 1000").start();
    let job = sandbox.pid_in("pid");
    eventually("it is stopped", || state(job) == Some('T'));
    wrapper.signal(Signal::TERM);
    wrapper.finish().exits(143).soon();
    sandbox.nothing_runs();
}

/// `kill -TSTP` and `kill -CONT` mean the job.
#[test]
fn a_job_is_stopped_and_continued_with_its_wrapper() {
    let sandbox = Sandbox::new();
    let (wrapper, job) = sandbox.waiting("nightly", &[]);
    for _ in 0..2 {
        wrapper.signal(Signal::TSTP);
        eventually("both stop", || state(wrapper.id()) == Some('T') && state(job) == Some('T'));
        wrapper.signal(Signal::CONT);
        eventually("both go on", || state(wrapper.id()) == Some('S') && state(job) == Some('S'));
    }
    sandbox.open_pipe("go");
    wrapper.finish().exits(0);
}

#[test]
fn signals_are_passed_on() {
    let script = |signals: &str| {
        format!(
            "for s in {signals}; do trap \"echo $s >>got\" $s; done; echo ready >ready; \
             while [ ! -e end ]; do sleep 0.01; done; exit 5"
        )
    };
    let harmless: &[_] = &[("HUP", Signal::HUP), ("USR1", Signal::USR1), ("USR2", Signal::USR2)];
    let ending: &[_] = &[("INT", Signal::INT), ("QUIT", Signal::QUIT), ("TERM", Signal::TERM)];
    for (signals, outcome) in [(harmless, "failed"), (ending, "stopped")] {
        let sandbox = Sandbox::new();
        let names: Vec<_> = signals.iter().map(|(name, _)| *name).collect();
        let wrapper = sandbox.sh("nightly", &["-k", "60"], &script(&names.join(" "))).start();
        sandbox.written("ready");
        for (name, signal) in signals {
            wrapper.signal(*signal);
            eventually(&format!("{name} arrives"), || {
                std::fs::read_to_string(sandbox.path("got")).is_ok_and(|got| got.ends_with(&format!("{name}\n")))
            });
        }
        std::fs::write(sandbox.path("end"), "").unwrap();
        wrapper.finish().exits(5).soon();
        assert_eq!(sandbox.outcomes("nightly"), [outcome]);
        let once_each = names.join("\n") + "\n";
        assert_eq!(sandbox.written("got"), once_each);
    }
}

#[test]
fn an_ignored_signal_stays_ignored() {
    for (name, signal) in [("HUP", Signal::HUP), ("TERM", Signal::TERM), ("INT", Signal::INT)] {
        let sandbox = Sandbox::new();
        sandbox.pipe("go");
        let nohup = format!("trap '' {name}; exec \"$0\" \"$@\"");
        let wrapper = sandbox.sh("nightly", &["-k", "0.1"], WAITING).under(["sh", "-c", &nohup]).start();
        let job = sandbox.pid_in("pid");
        let ignored = u64::from_str_radix(&status(job, "SigIgn"), 16).unwrap();
        assert_eq!(
            ignored & (1 << (signal.as_raw() - 1)),
            1 << (signal.as_raw() - 1),
            "{name} is not ignored by the job"
        );
        wrapper.signal(signal);
        // It would be gone soon, or its job killed after the grace.
        std::thread::sleep(Duration::from_millis(300));
        assert!(is_alive(wrapper.id()) && is_alive(job), "{name}");
        sandbox.open_pipe("go");
        wrapper.finish().exits(0);
        assert_eq!(sandbox.outcomes("nightly"), ["succeeded"]);
    }
}

/// What a supervisor needs for itself, blocked signals above all, is not the job's.
#[test]
fn a_job_starts_with_its_callers_signals() {
    let sandbox = Sandbox::new();
    let look = ["grep", "^Sig[BI]", "/proc/self/status"];
    for (ignored, bit) in [("", 0), ("trap '' USR1; ", 1 << (Signal::USR1.as_raw() - 1))] {
        let caller = format!("{ignored}exec \"$0\" \"$@\"");
        let with = sandbox.run("nightly", &[], &look).under(["sh", "-c", &caller]).exits(0).stdout;
        let without = std::process::Command::new("sh").args(["-c", &caller]).args(look).output().unwrap();
        assert_eq!(with, String::from_utf8(without.stdout).unwrap());
        let ignored = with.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
        assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & bit, bit, "the test itself: {with}");
    }
}

/// Held back by the caller, as some daemons' children find it.
#[test]
fn a_job_starts_with_its_callers_mask() {
    let test = "supervision::a_job_starts_with_its_callers_mask";
    if !machine::has(test, &["perl"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let block = "use POSIX; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGUSR2, SIGTERM)); exec @ARGV or die";
    let look = sandbox.run("nightly", &[], &["grep", "^SigBlk", "/proc/self/status"]);
    let seen = look.under(["perl", "-e", block, "--"]).exits(0).stdout;
    let bits = (1_u64 << (Signal::USR2.as_raw() - 1)) | (1 << (Signal::TERM.as_raw() - 1));
    assert_eq!(seen, format!("SigBlk:\t{bits:016x}\n"));
}

/// Then the kernel buries children unseen, unless it is told otherwise.
#[test]
fn a_caller_that_ignores_the_end_of_its_children_does_no_harm() {
    let test = "supervision::a_caller_that_ignores_the_end_of_its_children_does_no_harm";
    if !machine::has(test, &["perl"]) {
        return;
    }
    let sandbox = Sandbox::new();
    // (A shell does not hand that on.)
    let ignoring = ["perl", "-e", "$SIG{CHLD} = 'IGNORE'; exec @ARGV or die", "--"];
    sandbox.sh("nightly", &["--time-limit", "60"], "sleep 0.1; exit 6").under(ignoring).exits(6).soon();
    assert_eq!(sandbox.outcomes("nightly"), ["failed"]);
}

/// A shell starts something, and then becomes triplock: that is not the job's.
#[test]
fn children_that_the_wrapper_had_before_are_left_alone() {
    let sandbox = Sandbox::new();
    // (In the state directory's name, so that the test knows and ends it.)
    let before = "TRIPLOCK_STATE_DIR=$1; export TRIPLOCK_STATE_DIR; setsid sleep 1000 >/dev/null 2>&1 & echo $! >before; shift; \
                  exec \"$@\"";
    let mark = sandbox.state_dir().to_owned();
    let shell = ["sh", "-c", before, "-"].map(std::ffi::OsString::from).into_iter().chain([mark.into()]);
    let policy = ["--time-limit", "0.3", "-k", "0.3"];
    let script = "trap '' TERM; setsid sleep 1000 & sleep 1000";
    sandbox.sh("nightly", &policy, script).under(shell).exits(137).soon();
    let before = sandbox.pid_in("before");
    assert!(is_alive(before), "a stranger was killed");
    assert_eq!(sandbox.processes(), [before].into(), "and nobody else is left");
}

#[test]
fn a_job_gets_the_locks_descriptor_and_no_other_of_ours() {
    let sandbox = Sandbox::new();
    let (wrapper, job) = sandbox.waiting("nightly", &["--lock", "db"]);
    let of_ours: Vec<_> = descriptors(job)
        .into_iter()
        .filter(|path| path.starts_with(sandbox.state_dir()) || path.to_string_lossy().starts_with("anon_inode:"))
        .collect();
    assert_eq!(of_ours, [sandbox.jobs("nightly.lock"), sandbox.state_dir().join("locks/db.lock")]);
    sandbox.open_pipe("go");
    wrapper.finish().exits(0);
}

#[test]
fn a_job_may_be_given_no_descriptor_at_all() {
    for close in ["-o", "--close"] {
        let sandbox = Sandbox::new();
        let (wrapper, job) = sandbox.waiting("nightly", &[close]);
        let of_ours: Vec<_> =
            descriptors(job).into_iter().filter(|path| path.starts_with(sandbox.state_dir())).collect();
        assert!(of_ours.is_empty(), "{of_ours:?}");
        assert!(sandbox.is_locked("nightly.lock"), "the wrapper holds it");
        // That is what it costs.
        wrapper.dies();
        assert!(!sandbox.is_locked("nightly.lock") && is_alive(job));
    }
}

/// Leaves a daemon that keeps every descriptor it was given, except those that the test reads.
const DAEMON: &str = "setsid sleep 1000 >/dev/null 2>&1 & echo $! >daemon";

#[test]
fn a_job_that_ends_releases_its_lock_although_its_daemon_keeps_the_descriptor() {
    let sandbox = Sandbox::new();
    sandbox.sh("nightly", &[], DAEMON).exits(0).soon();
    let daemon = sandbox.pid_in("daemon");
    assert!(descriptors(daemon).contains(&sandbox.jobs("nightly.lock")), "{}", command_line(daemon));
    assert!(!sandbox.is_locked("nightly.lock"));
    sandbox.sh("nightly", &["-n"], "exit 0").exits(0);
    assert!(is_alive(daemon), "a daemon is not the job's end's business");
    assert_eq!(sandbox.outcomes("nightly"), ["succeeded", "succeeded"]);
}

#[test]
fn with_hold_tree_a_daemon_keeps_the_lock() {
    let sandbox = Sandbox::new();
    sandbox.sh("nightly", &["--hold", "tree", "--lock", "db"], DAEMON).exits(0).soon();
    let daemon = sandbox.pid_in("daemon");
    assert!(sandbox.is_locked("nightly.lock"));
    sandbox.sh("nightly", &["-n"], "exit 0").exits(75);
    sandbox.sh("other", &["-n", "--lock", "db"], "exit 0").exits(75);
    let waiter = sandbox.sh("nightly", &["-w", "60"], "exit 0").start();
    sandbox.waits_for_lock("nightly.lock", 1);
    sandbox.send(daemon, Signal::KILL);
    waiter.finish().exits(0).soon();
    assert_eq!(sandbox.outcomes("nightly"), ["succeeded", "skipped", "succeeded"]);
}

#[test]
fn a_signal_ends_a_wait_and_is_recorded() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        for policy in [&["-w", "60"][..], &["--policy", "wait"], &["--policy", "wait", "--slots", "1", "--lock", "db"]]
        {
            let sandbox = Sandbox::new();
            let (holder, _) = sandbox.waiting("nightly", &[]);
            let waiter = sandbox.sh("nightly", policy, "touch overlap").start();
            sandbox.waits_for_lock("nightly.lock", 1);
            waiter.signal(signal);
            waiter.finish().exits(code).soon();
            sandbox.open_pipe("go");
            holder.finish().exits(0);
            assert!(!sandbox.exists("overlap"));
            assert_eq!(sandbox.outcomes("nightly"), ["interrupted", "succeeded"]);
        }
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_slot_and_a_random_wait() {
    let sandbox = Sandbox::new();
    let slots = ["--slots", "2", "-w", "60"];
    sandbox.pipe("go");
    let holders: Vec<_> =
        (0..2).map(|n| sandbox.sh("s", &slots, &format!("echo r >r{n}; read x <go")).start()).collect();
    let waits = |waiter: &Running, what: &str| {
        eventually(what, || state(waiter.id()) == Some('S') && command_line(waiter.id()).contains("overlap"));
        std::thread::sleep(Duration::from_millis(100));
    };
    for n in 0..2 {
        sandbox.written(&format!("r{n}"));
    }
    let waiter = sandbox.sh("s", &slots, "touch overlap").start();
    waits(&waiter, "it waits for a slot");
    waiter.signal(Signal::TERM);
    waiter.finish().exits(143).soon();
    drop(holders);
    let waiter = sandbox.sh("j", &["--jitter", "1000d"], "touch overlap").start();
    waits(&waiter, "it waits a random time");
    waiter.signal(Signal::TERM);
    waiter.finish().exits(143).soon();
    assert!(!sandbox.exists("overlap"));
    assert_eq!(
        (sandbox.outcomes("s"), sandbox.outcomes("j")),
        (vec!["interrupted".into()], vec!["interrupted".into()])
    );
}

/// A shared machine's other users cannot be signalled; a job may well be one of theirs.
#[test]
fn a_job_that_became_another_user_is_still_waited_for() {
    let test = "supervision::a_job_that_became_another_user_is_still_waited_for";
    if !machine::is_root() {
        return machine::skip(test, "needs root, to be another user");
    }
    if !machine::has(test, &["setpriv"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let command = ["setpriv", "--reuid=4001", "--regid=4001", "--clear-groups", "--", "sh", "-c", "exit 6"];
    sandbox.run("nightly", &["--time-limit", "60"], &command).exits(6);
}
