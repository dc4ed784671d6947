//! A run inside a run: refused where it would wait for itself, and only there.

use crate::sandbox::{Sandbox, TRIPLOCK, eventually};

/// Waiting for itself would never end.
#[test]
fn a_run_inside_its_own_run_is_refused() {
    for policy in [&["-n"][..], &["-w", "60"], &["--policy", "wait"], &["--policy", "replace"]] {
        let sandbox = Sandbox::new();
        let inner = [&[TRIPLOCK, "run", "nightly"], policy, &["--", "touch", "inner"]].concat();
        let finished = sandbox.run("nightly", &[], &inner).exits(125);
        finished.soon();
        assert!(finished.stderr.contains("nightly"), "{finished:?}");
        assert!(!sandbox.exists("inner"));
        assert_eq!(sandbox.outcomes("nightly"), ["refused", "failed"], "{policy:?}");
    }
}

#[test]
fn a_run_inside_a_run_that_holds_its_lock_is_refused() {
    let sandbox = Sandbox::new();
    let between = format!("exec '{TRIPLOCK}' run between -- '{TRIPLOCK}' run inner --lock db -w 60 -- touch inner");
    sandbox.sh("outer", &["--lock", "db"], &between).exits(125).soon();
    assert!(!sandbox.exists("inner"));
    let outcomes = ["outer", "between", "inner"].map(|job| sandbox.outcomes(job));
    assert_eq!(outcomes, [["failed"], ["failed"], ["refused"]]);
}

/// However the state directory is spelled.
#[test]
fn a_nested_run_is_refused_under_another_path_of_the_same_directory() {
    let sandbox = Sandbox::new();
    std::os::unix::fs::symlink(sandbox.state_dir(), sandbox.path("link")).unwrap();
    for spelling in ["link", "state", "./state/", "state/../state"] {
        let inner = [TRIPLOCK, "--state-dir", spelling, "run", "nightly", "-w", "60", "--", "touch", "inner"];
        sandbox.run("nightly", &[], &inner).exits(125).soon();
        assert!(!sandbox.exists("inner"), "{spelling}");
    }
}

#[test]
fn a_run_of_another_state_directory_is_no_nested_one() {
    let sandbox = Sandbox::new();
    let other = [TRIPLOCK, "--state-dir", "other", "run", "nightly", "-n", "--"];
    let inner = [&other[..], &["touch", "inner"]].concat();
    sandbox.run("nightly", &[], &inner).exits(0);
    assert!(sandbox.exists("inner"));
    // And where a stranger holds the lock there, it is busy: also if his fence has the number of ours.
    sandbox.pipe("go");
    let stranger = [&other[..], &["sh", "-c", "echo $TRIPLOCK_FENCE >fence; read x <go"]].concat();
    let stranger = sandbox.run("stranger", &[], &stranger).start();
    let fence = sandbox.written("fence");
    let held = format!("'{TRIPLOCK}' --state-dir other run nightly -n -- true; echo $? $TRIPLOCK_FENCE >code");
    sandbox.sh("nightly", &[], &held).exits(0);
    assert_eq!(sandbox.written("code"), format!("75 {fence}"), "(the fences are to be equal here)");
    sandbox.open_pipe("go");
    stranger.finish().exits(0);
}

/// The daemon's `TRIPLOCK_HELD` speaks of a run that is over.
#[test]
fn a_daemon_that_a_run_left_may_run_the_job_itself() {
    let sandbox = Sandbox::new();
    sandbox.pipe("go");
    let again = format!("'{TRIPLOCK}' run nightly -n -- true; echo $? >>codes");
    let daemon = format!("(read x <go; {again}; read x <go; {again}) >/dev/null 2>&1 &");
    sandbox.sh("nightly", &[], &daemon).exits(0);
    sandbox.open_pipe("go");
    assert_eq!(sandbox.written("codes"), "0\n");
    // A stranger's run is in its way now: busy, and not nested.
    sandbox.pipe("end");
    let stranger = sandbox.sh("nightly", &[], "echo ready >ready; read x <end").start();
    sandbox.written("ready");
    sandbox.open_pipe("go");
    eventually("the daemon has tried again", || sandbox.written("codes").lines().count() == 2);
    assert_eq!(sandbox.written("codes"), "0\n75\n");
    sandbox.open_pipe("end");
    stranger.finish().exits(0);
    assert_eq!(sandbox.outcomes("nightly"), ["succeeded", "succeeded", "skipped", "succeeded"]);
}

/// Two levels down, through a run of another job and a daemon of that: as long as the outer one runs.
#[test]
fn a_nested_run_is_refused_however_deep() {
    let sandbox = Sandbox::new();
    let inner = format!("'{TRIPLOCK}' run outer -w 60 -- touch inner; echo $? >code");
    let middle = format!("exec '{TRIPLOCK}' run middle -- sh -c \"$INNER\"");
    let outer = sandbox.sh("outer", &[], &middle).under(["env", &format!("INNER={inner}")]);
    outer.exits(0).soon();
    assert_eq!(sandbox.written("code"), "125\n");
    assert!(!sandbox.exists("inner"));
    assert_eq!(
        (sandbox.outcomes("outer"), sandbox.outcomes("middle")),
        (vec!["refused".into(), "succeeded".into()], vec!["succeeded".into()])
    );
}
