//! Where a job's output goes. (What `logs` makes of it is tested where `logs` is.)

use std::{
    fs::{self, File},
    path::PathBuf,
};

use crate::sandbox::{Finished, Sandbox, eventually};

impl Sandbox {
    /// The captured output of a run.
    fn log(&self, job: &str, run: u64) -> PathBuf {
        self.jobs(&format!("{job}.logs")).join(format!("{run}.log"))
    }

    #[track_caller]
    fn logged(&self, job: &str, run: u64) -> Vec<u8> {
        let path = self.log(job, run);
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

#[track_caller]
fn is_silent(finished: &Finished) {
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("", ""));
}

/// Alternating, so that an order that is kept by chance is not.
const MIXED: &str = "for n in 1 2 3 4 5 6 7 8 9; do echo out $n; echo err $n >&2; done";

fn mixed() -> String {
    (1..=9).flat_map(|n| [format!("out {n}\n"), format!("err {n}\n")]).collect()
}

#[test]
fn inherited_output_goes_where_ours_goes() {
    let sandbox = Sandbox::new();
    for policy in [&[][..], &["--output", "inherit"]] {
        let finished = sandbox.sh("j", policy, "echo out; echo err >&2").exits(0);
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out\n", "err\n"));
    }
    assert!(!sandbox.jobs("j.logs").exists());
}

#[test]
fn captured_output_keeps_its_order() {
    let sandbox = Sandbox::new();
    is_silent(&sandbox.sh("j", &["--output", "capture"], MIXED).exits(0));
    let failed = sandbox.sh("j", &["--output", "capture"], &format!("{MIXED}; exit 3")).exits(3);
    assert_eq!((failed.stdout.as_str(), failed.stderr.as_str()), ("", "triplock: j: run 2 failed: exit code 3\n"));
    for run in [1, 2] {
        assert_eq!(String::from_utf8(sandbox.logged("j", run)).unwrap(), mixed());
    }
}

#[test]
fn all_attempts_of_a_run_are_in_its_log() {
    let sandbox = Sandbox::new();
    let policy = ["--output", "capture", "--retries", "2", "--retry-delay", "0.01"];
    sandbox.sh("j", &policy, "echo attempt $TRIPLOCK_ATTEMPT; exit 1").exits(1);
    assert_eq!(String::from_utf8(sandbox.logged("j", 1)).unwrap(), "attempt 1\nattempt 2\nattempt 3\n");
}

#[test]
fn a_success_is_silent_and_a_failure_tells_everything() {
    let sandbox = Sandbox::new();
    let policy = ["--output", "on-failure"];
    is_silent(&sandbox.sh("j", &policy, MIXED).exits(0));
    is_silent(&sandbox.sh("j", &["--output", "on-failure", "--ok-exit", "3"], "echo out; exit 3").exits(3));
    let failed = sandbox.sh("j", &policy, &format!("{MIXED}; exit 3")).exits(3);
    assert_eq!((failed.stdout, failed.stderr), (mixed(), "triplock: j: run 3 failed: exit code 3\n".to_owned()));
    // A command that fails without a word does not fail in silence.
    let mute = sandbox.sh("j", &policy, "kill -SEGV $$").exits(128 + 11);
    assert_eq!((mute.stdout.as_str(), mute.stderr.as_str()), ("", "triplock: j: run 4 failed: signal SEGV\n"));
    // By its time limit, too. (Why is on stderr.)
    let policy = ["--output", "on-failure", "--time-limit", "0.2"];
    assert_eq!(sandbox.sh("j", &policy, "echo before; sleep 1000").exits(124).stdout, "before\n");
    let policy = ["--output", "on-failure", "--retries", "1", "--retry-delay", "0.01"];
    is_silent(&sandbox.sh("j", &policy, "echo out; test $TRIPLOCK_ATTEMPT = 2").exits(0));
}

/// The pipe that a wrapper would read stays open as long as the grandchild keeps it.
#[test]
fn a_grandchild_that_keeps_the_output_holds_nobody_up() {
    for (mode, shown) in [("capture", ""), ("on-failure", "out\n")] {
        let sandbox = Sandbox::new();
        let finished = sandbox.sh("j", &["--output", mode], "echo out; setsid sleep 1000 & exit 3").exits(3);
        assert_eq!(finished.soon().stdout, shown);
        assert_eq!(sandbox.logged("j", 1), b"out\n");
        assert!(!sandbox.is_locked("j.lock"));
        assert_eq!(sandbox.processes().len(), 1, "the grandchild lives on");
    }
}

#[test]
fn what_is_printed_after_the_end_is_logged() {
    let sandbox = Sandbox::new();
    sandbox.pipe("go");
    let script = "echo early; (read x <go; echo late; echo $? >late) & exit 0";
    sandbox.sh("j", &["--output", "capture"], script).exits(0).soon();
    assert_eq!(sandbox.logged("j", 1), b"early\n");
    // Other runs come and go meanwhile, and tidy up; this log is still written to.
    for _ in 0..3 {
        sandbox.sh("j", &["--output", "capture", "--keep-runs", "1"], "echo other").exits(0);
    }
    sandbox.open_pipe("go");
    assert_eq!(sandbox.written("late"), "0\n", "it got an error, or SIGPIPE");
    assert_eq!(sandbox.logged("j", 1), b"early\nlate\n");
}

#[test]
fn a_killed_wrapper_loses_no_output() {
    let sandbox = Sandbox::new();
    sandbox.pipe("go");
    let wrapper = sandbox.sh("j", &["--output", "capture"], "echo early; echo r >ready; read x <go; echo late").start();
    sandbox.written("ready");
    wrapper.dies();
    sandbox.open_pipe("go");
    eventually("the orphan ends", || !sandbox.is_locked("j.lock"));
    assert_eq!(sandbox.logged("j", 1), b"early\nlate\n");
}

/// Who reads what cron would mail may be gone, or out of space.
#[test]
fn output_that_nobody_takes_changes_no_exit_code() {
    let sandbox = Sandbox::new();
    let script = "i=0; while [ $i -lt 2000 ]; do echo 0123456789012345678901234567890123456789012345678901234567890123456789; \
                  i=$((i + 1)); done; exit 3";
    let full = File::options().write(true).open("/dev/full").unwrap();
    let finished = sandbox.sh("j", &["--output", "on-failure"], script).stdout(full).exits(3);
    assert!(finished.stderr.contains("space"), "{finished:?}");
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    sandbox.sh("j", &["--output", "on-failure"], script).stdout(writer).exits(3);
    assert_eq!(sandbox.outcomes("j"), ["failed", "failed"]);
}

/// 10 MB without a newline, and every byte there is.
#[test]
fn lines_may_be_long_and_bytes_any() {
    let sandbox = Sandbox::new();
    let bytes: Vec<u8> = (0..10_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).chain(0..=255).collect();
    fs::write(sandbox.path("bytes"), &bytes).unwrap();
    for mode in ["inherit", "on-failure"] {
        let out = File::create(sandbox.path("out")).unwrap();
        sandbox.sh("j", &["--output", mode], "cat bytes; exit 3").stdout(out).exits(3).soon();
        assert!(fs::read(sandbox.path("out")).unwrap() == bytes, "{mode}: other bytes came out");
    }
    assert!(sandbox.logged("j", 2) == bytes);
}

/// A job that prints for ever does not fill the disk.
#[test]
fn a_log_has_a_limit_and_the_cut_is_marked() {
    let sandbox = Sandbox::new();
    let script = "echo first; i=0; while [ $i -lt 200 ]; do head -c 10000 /dev/zero | tr '\\0' x; i=$((i + 1)); done; echo; echo last; exit 3";
    let policy = ["--output", "on-failure", "--log-limit", "100000"];
    let shown = sandbox.sh("j", &policy, script).exits(3).stdout;
    assert!(shown.starts_with("first\nxxx") && shown.contains("xxx\nlast\n"), "{} bytes", shown.len());
    assert!(shown.len() < 200_000, "{} bytes of 2,000,012 were kept", shown.len());
    let marks = shown.lines().filter(|line| line.contains("triplock")).count();
    assert_eq!(marks, 1, "the cut is not marked");
    let used = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(sandbox.log("j", 1)).unwrap()) * 512;
    assert!(used < 300_000, "the log takes {used} bytes of the disk");
}

#[test]
fn old_logs_go() {
    let sandbox = Sandbox::new();
    for _ in 0..6 {
        sandbox.sh("j", &["--output", "capture", "--keep-runs", "2"], "echo $TRIPLOCK_RUN_ID").exits(0);
    }
    let kept: Vec<_> = (1..=6).filter(|run| sandbox.log("j", *run).exists()).collect();
    assert_eq!(kept, [5, 6]);
}
