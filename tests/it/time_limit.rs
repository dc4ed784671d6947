//! `--time-limit`: of a job that reached it nothing is left alive, whatever it started and however that hides. With a
//! control group that is one write; without one, sweeps. Each escape is tried both as root, who may make a control
//! group where the system has them, and as a user, who mostly may not.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use crate::{
    job::is_alive,
    machine,
    sandbox::{Finished, Sandbox, eventually},
};

/// Who runs the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Ourselves,
    Nobody,
}

const USER: &str = "4001";

/// Everybody that this machine lets a test be.
fn everybody(test: &str) -> Vec<Who> {
    if !machine::is_root() {
        machine::skip(test, "needs root, to be a user besides");
        return vec![Who::Ourselves];
    }
    if machine::has(test, &["setpriv"]) { vec![Who::Ourselves, Who::Nobody] } else { vec![Who::Ourselves] }
}

impl Who {
    /// A sandbox in which that one may write.
    fn sandbox(self) -> Sandbox {
        let sandbox = Sandbox::new();
        if self == Self::Ourselves {
            return sandbox;
        }
        let sandbox = sandbox.for_all_users();
        fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o777)).expect("chmod");
        sandbox
    }

    #[track_caller]
    fn runs(self, sandbox: &Sandbox, policy: &[&str], script: &str) -> Finished {
        let run = sandbox.sh("nightly", policy, script);
        match self {
            Self::Ourselves => run,
            Self::Nobody => {
                let user = format!("--reuid={USER}");
                let group = format!("--regid={USER}");
                run.under(["setpriv", &user, &group, "--clear-groups", "--"])
            }
        }
        .run()
    }
}

/// The control group of the job, as it saw it itself, where that is one of its own.
fn own_group(sandbox: &Sandbox) -> Option<PathBuf> {
    let line = |text: &str| text.lines().find_map(|line| line.strip_prefix("0::").map(ToOwned::to_owned));
    let ours = line(&fs::read_to_string("/proc/self/cgroup").ok()?)?;
    let jobs = line(&sandbox.written("cgroup"))?;
    let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find(|root| fs::metadata(format!("{root}/cgroup.procs")).is_ok())?;
    (jobs != ours).then(|| format!("{root}{jobs}").into())
}

/// Runs the script under a limit that it does not keep: it ends with that exit code, and nothing is left.
#[track_caller]
fn ends(test: &str, policy: &[&str], script: &str, code: i32) {
    for who in everybody(test) {
        let sandbox = who.sandbox();
        let script = format!("cat /proc/self/cgroup >cgroup; {script}");
        let finished = who.runs(&sandbox, &[&["--time-limit", "0.5"], policy].concat(), &script);
        finished.exits(code).soon();
        sandbox.nothing_runs();
        assert_eq!(sandbox.outcomes("nightly"), ["timed_out"], "{who:?}");
        assert!(!sandbox.is_locked("nightly.lock"));
        let group = own_group(&sandbox);
        eprintln!("{test}: {who:?}: the job's own control group: {group:?}");
        if let Some(group) = group {
            assert!(!group.exists(), "{} is left behind", group.display());
        }
    }
}

#[test]
fn a_job_that_ends_at_the_first_signal() {
    ends("time_limit::a_job_that_ends_at_the_first_signal", &[], "sleep 1000 & wait", 124);
    // Also if it says that all is well.
    ends("time_limit::a_job_that_ends_at_the_first_signal", &[], "trap 'exit 0' TERM; sleep 1000 & wait", 124);
}

#[test]
fn a_job_that_ignores_the_signal_with_its_child() {
    let script = "trap '' TERM; sleep 100 & wait";
    ends("time_limit::a_job_that_ignores_the_signal_with_its_child", &["-k", "0.3"], script, 137);
}

#[test]
fn a_child_that_left_the_group() {
    ends("time_limit::a_child_that_left_the_group", &["-k", "0.3"], "setsid sleep 1000 & wait", 124);
}

/// Its parent is gone, so nothing in /proc leads from the job to it, except that triplock adopted it.
#[test]
fn a_daemon_that_forked_twice() {
    let test = "time_limit::a_daemon_that_forked_twice";
    let script = "(setsid sh -c 'trap \"\" TERM HUP; sleep 1000 & sleep 1000' &); sleep 1000";
    ends(test, &["-k", "0.3"], script, 124);
}

#[test]
fn a_stopped_job() {
    ends("time_limit::a_stopped_job", &["-k", "0.3"], "(setsid sh -c 'kill -STOP $$' &); kill -STOP $$", 124);
}

/// Each process forks and ends at once, in a group of its own: whoever looks sees one that is gone already.
#[test]
fn a_process_that_never_stays() {
    let test = "time_limit::a_process_that_never_stays";
    if !machine::has(test, &["perl"]) {
        return;
    }
    let hop = "setpgrp; $SIG{TERM} = 'IGNORE'; while (1) { fork and exit; setpgrp; select undef, undef, undef, 0.002 }";
    ends(test, &["-k", "0.3"], &format!("perl -e \"{}\" & sleep 1000", hop.replace('$', "\\$")), 124);
}

/// Many at once.
#[test]
fn a_crowd() {
    let script = "trap '' TERM; i=0; while [ $i -lt 50 ]; do setsid sleep 1000 & i=$((i + 1)); done; wait";
    ends("time_limit::a_crowd", &["-k", "0.3"], script, 137);
}

/// Its group cannot be removed before it is empty, and then its wrapper is gone.
#[test]
fn the_control_group_of_a_killed_wrapper_is_removed_by_the_next() {
    let sandbox = Sandbox::new();
    sandbox.pipe("go");
    let policy = ["--time-limit", "60"];
    let wrapper = sandbox.sh("nightly", &policy, "cat /proc/self/cgroup >cgroup; read x <go").start();
    let group = own_group(&sandbox);
    wrapper.dies();
    sandbox.open_pipe("go");
    eventually("the orphan ends", || sandbox.processes().is_empty());
    sandbox.sh("nightly", &policy, "exit 0").exits(0);
    if let Some(group) = group {
        assert!(!group.exists(), "{} is left behind", group.display());
    }
}

/// As timeout(1) means it: the signal, and no KILL.
#[test]
fn a_grace_of_zero_never_kills() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo TERM >>got' TERM; while [ ! -e got ]; do sleep 0.01; done; sleep 0.5; setsid sleep 1000 >/dev/null 2>&1 & \
                  echo $! >daemon; exit 3";
    sandbox.sh("nightly", &["--time-limit", "0.2", "-k", "0"], script).exits(124).soon();
    assert_eq!(sandbox.outcomes("nightly"), ["timed_out"]);
    assert_eq!(sandbox.events("nightly", "ended")[0]["exit"], 3);
    assert_eq!(sandbox.written("got"), "TERM\n");
    assert!(is_alive(sandbox.pid_in("daemon")), "who is not to be killed was killed");
}

#[test]
fn the_first_signal_can_be_chosen() {
    for (given, trapped) in [("USR1", "USR1"), ("SIGINT", "INT"), ("1", "HUP")] {
        let sandbox = Sandbox::new();
        let script = format!("trap 'echo {trapped} >got; exit 3' {trapped}; while :; do sleep 0.01; done");
        let policy = ["--time-limit", "0.2", "-k", "60", "--signal", given];
        sandbox.sh("nightly", &policy, &script).exits(124).soon();
        assert_eq!(sandbox.written("got"), format!("{trapped}\n"));
    }
    let sandbox = Sandbox::new();
    sandbox.sh("nightly", &["--time-limit", "0.2", "-k", "60", "--signal", "KILL"], "sleep 1000").exits(137).soon();
    assert_eq!(sandbox.outcomes("nightly"), ["timed_out"]);
}

/// A limit that is not reached changes nothing, and what the job leaves behind may stay.
#[test]
fn a_limit_that_is_not_reached() {
    let sandbox = Sandbox::new();
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo $! >daemon; exit 7";
    let finished = sandbox.sh("nightly", &["--time-limit", "60", "-k", "0.1"], script).exits(7);
    finished.soon();
    assert!(is_alive(sandbox.pid_in("daemon")));
    assert_eq!(sandbox.outcomes("nightly"), ["failed"]);
    // By a clock that a stopped machine does not hurry: no limit, and none that is near.
    sandbox.sh("nightly", &["--time-limit", "36500d"], "exit 8").exits(8);
}

/// The limit is each attempt's.
#[test]
fn every_attempt_has_its_limit() {
    let sandbox = Sandbox::new();
    let policy = ["--time-limit", "0.2", "--retries", "2", "--retry-delay", "0.01"];
    sandbox.sh("nightly", &policy, "test $TRIPLOCK_ATTEMPT = 3 || sleep 1000").exits(0).soon();
    let ended: Vec<_> = sandbox.events("nightly", "ended").iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(ended, ["timed_out", "timed_out", "succeeded"]);
}

/// A signal is an end too: what ignores it does not stay.
#[test]
fn a_signal_starts_the_same_clock() {
    let test = "time_limit::a_signal_starts_the_same_clock";
    for who in everybody(test) {
        let sandbox = who.sandbox();
        let script = "trap '' TERM; (setsid sleep 1000 &); kill -TERM $PPID; sleep 1000";
        who.runs(&sandbox, &["-k", "0.3"], script).exits(137).soon();
        sandbox.nothing_runs();
        assert_eq!(sandbox.outcomes("nightly"), ["stopped"], "{who:?}");
    }
}
