//! What a process of a test does on a signal must not depend on who started the tests: `nohup tests/run &` ignores three
//! signals, and what is ignored is inherited by every process below. A job that is to be ended by one of them would go
//! on, and its test wait for ever.
//!
//! So the processes of tests begin with the default. The test runner itself goes on to ignore what it was told to: who
//! wrote `nohup` wants it to outlive a terminal.

use std::{ffi::OsStr, fs, process::Command, sync::LazyLock};

use rustix::process::Signal;

/// What nohup(1) and a shell's `&` ignore, and env(1)'s word for them.
const INHERITED: [Signal; 3] = [Signal::HUP, Signal::INT, Signal::QUIT];
const DEFAULT: &str = "--default-signal=HUP,INT,QUIT";

static MUST_RESTORE: LazyLock<bool> = LazyLock::new(|| INHERITED.into_iter().any(is_ignored));

/// A command in which those signals mean what they mean by default. Its first word is looked up in its own `PATH`.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    // Without a need there is no further program before the one that a test may want to trace or to time.
    if !*MUST_RESTORE {
        return Command::new(program);
    }
    let mut command = Command::new("env");
    command.arg(DEFAULT).arg(program);
    command
}

fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("read our own status");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("every status has it");
    let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a mask");
    ignored & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn no_process_of_a_test_inherits_what_the_caller_ignores() {
    let looked = command("grep").args(["SigIgn", "/proc/self/status"]).output().expect("start grep");
    let text = String::from_utf8(looked.stdout).expect("text");
    let mask = text.trim_start_matches("SigIgn:").trim();
    let mask = u64::from_str_radix(mask, 16).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    for signal in INHERITED {
        assert_eq!(mask & (1 << (signal.as_raw() - 1)), 0, "{signal:?} is ignored: {text}");
    }
}
