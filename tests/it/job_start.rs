//! What a job finds of what triplock was started with.

use std::fs;

use crate::{
    latch::{Latch, run, shell},
    sandbox::Sandbox,
};

const BROKEN_PIPE: u64 = 1 << (libc::SIGPIPE - 1);

#[test]
fn broken_pipes_mean_what_they_meant_to_who_started_it() {
    let sandbox = Sandbox::new();
    let found = sandbox.path("found");
    for (option, expected) in [("--ignore-signal=PIPE", BROKEN_PIPE), ("--default-signal=PIPE", 0)] {
        let look = format!("while read -r l; do echo \"$l\"; done </proc/$$/status >'{}'", found.display());
        run(&sandbox, "j", "", shell(&look)).under(["env", option]).run().exits(0);
        let status = fs::read_to_string(&found).unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("such a line");
        let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
        assert_eq!(ignored & BROKEN_PIPE, expected, "{option}: {status}");
    }
}

/// Neither closed, so that the job's first file would take the place of its output, nor a file of triplock's.
#[test]
fn standard_descriptors_that_are_closed_are_dev_null() {
    let sandbox = Sandbox::new();
    let found = sandbox.path("found");
    let look = format!("for n in 0 1 2; do readlink /proc/$$/fd/$n; done | cat >'{}'", found.display());
    let closed = ["sh", "-c", "exec \"$@\" <&- >&- 2>&-", "sh"];
    run(&sandbox, "j", "", shell(&look)).under(closed).run().exits(0);
    assert_eq!(fs::read_to_string(&found).unwrap(), "/dev/null\n".repeat(3));
}

/// `exec 9>>file` in a script closes what was behind a 9.
#[test]
fn a_script_that_uses_descriptors_itself_keeps_its_lock() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let own = format!("for n in 3 4 5 6 7 8 9; do eval \"exec $n>>'{}'\"; done;", sandbox.path("own").display());
    let first = run(&sandbox, "j", "--lock other", latch.after(&own)).start();
    latch.keeps(1);
    first.kill();
    assert_eq!(first.finish().code(), None);
    // Both locks are the job's now.
    run(&sandbox, "j", "-n", ["true"]).fails(75);
    run(&sandbox, "k", "-n --lock other", ["true"]).fails(75);
    latch.open();
    run(&sandbox, "j", "-w 60 --lock other", ["true"]).run().exits(0);
}
