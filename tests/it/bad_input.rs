//! A wrong command line: one line that says what is wrong, the exit code of its kind, and nothing made or run.

use std::{os::unix::ffi::OsStrExt as _, process::Command};

use crate::sandbox::{Sandbox, TRIPLOCK};

/// It says `expected`, in one line for people and in one object for programs, and makes nothing.
#[track_caller]
fn refuses(line: &str, code: i32, expected: &str) {
    let sandbox = Sandbox::new();
    // The command would leave a file behind.
    let ran = sandbox.path("ran");
    let words: Vec<_> =
        line.split_whitespace().map(|word| word.replace("CMD", &format!("touch {}", ran.display()))).collect();
    let words: Vec<_> = words.iter().flat_map(|word| word.split(' ')).collect();
    let error = sandbox.triplock(&words).fails(code);
    assert_eq!(error["error"], "usage", "{line}: {error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with(expected), "{line}\nexpected: {expected}\nsaid: {message}");
    let plain = Command::new(TRIPLOCK).arg("--state-dir").arg(sandbox.state_dir()).args(&words).output().unwrap();
    let said = String::from_utf8(plain.stderr).unwrap();
    assert_eq!((plain.status.code(), said.as_str()), (Some(code), format!("triplock: {message}\n").as_str()), "{line}");
    assert!(message.len() < 300, "{line}: {message}");
    assert!(!ran.exists() && !sandbox.state_dir().exists(), "{line}: something was made");
}

#[test]
fn bad_values_of_run_are_refused_in_one_line() {
    let duration = "give seconds (0.3) or a number with a unit (90s 5m 1h 1d)";
    for (options, expected) in [
        (
            "--time-limit 0",
            "--time-limit <DURATION>: 0 is no duration; leave it out for none; see `triplock run --help`",
        ),
        ("--time-limit -5", "--time-limit <DURATION>: it must not be negative"),
        ("--time-limit 99999999d", "--time-limit <DURATION>: it is more than 100 years"),
        ("--time-limit soon", &format!("--time-limit <DURATION>: \"soon\": {duration}")),
        ("--time-limit 2h30m", &format!("--time-limit <DURATION>: \"2h30m\": {duration}")),
        ("-w -1", "--wait <DURATION>: it must not be negative"),
        ("-k x", &format!("--kill-after <DURATION>: \"x\": {duration}")),
        ("-E 256", "--conflict-exit-code <N>: give a whole number from 0 to 255"),
        ("-E -1", "--conflict-exit-code <N>: give a whole number from 0 to 255"),
        ("--slots 0", "--slots <N>: give a whole number from 1 to 64"),
        ("--slots 65", "--slots <N>: give a whole number from 1 to 64"),
        ("--retries 1.5", "--retries <N>: give a whole number from 0 to 4294967295"),
        ("--retry-backoff 0", "--retry-backoff <FACTOR>: give a factor of 1 or more"),
        ("--ok-exit 0,x", "--ok-exit <CODES>: give a whole number from 0 to 255, with commas between several"),
        ("--once-per 0", "--once-per <DURATION>: 0 is no duration"),
        ("--signal NONE", "--signal <SIGNAL>: give a signal's name (TERM, SIGINT, HUP …) or its number"),
        ("--log-limit 0", "--log-limit <BYTES>: give a number of bytes, at least 1"),
        ("--lock ../x", "--lock <NAME>: invalid name \"../x\": it must not start with '.' or '-'"),
        ("--policy often", "invalid value 'often' for '--policy <POLICY>' [possible values: skip, wait, replace]"),
        ("--hold all", "invalid value 'all' for '--hold <HOLD>' [possible values: command, tree]"),
        ("--output both", "invalid value 'both' for '--output <OUTPUT>'"),
        ("--nonblok", "unexpected argument '--nonblok' found; tip: a similar argument exists: '--nonblock'"),
    ] {
        refuses(&format!("run J {options} -- CMD"), 125, expected);
    }
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    for (options, expected) in [
        ("-n -w 3", "the argument '--nonblock' cannot be used with '--wait <DURATION>'"),
        ("-n --policy wait", "the argument '--nonblock' cannot be used with '--policy <POLICY>'"),
        ("--policy skip -w 3", "a time to wait goes with the policy wait only"),
        ("--policy replace -w 3", "a time to wait goes with the policy wait only"),
        ("-o --hold tree", "hold tree keeps the lock"),
        ("--retry-delay 5 --retry-max-delay 1", "the retry delay is longer than the longest retry delay"),
        ("-w 1 -w 2", "the argument '--wait <DURATION>' cannot be used multiple times"),
        ("-q -v", "the argument '--quiet' cannot be used with '--verbose'"),
    ] {
        refuses(&format!("run J {options} -- CMD"), 125, expected);
    }
}

#[test]
fn bad_names_and_missing_words_are_refused() {
    for (line, code, expected) in [
        ("run", 125, "the following required arguments were not provided: <JOB>"),
        ("run a/b CMD", 125, "<JOB>: invalid name \"a/b\": '/' is not allowed"),
        ("run .. CMD", 125, "<JOB>: invalid name \"..\": it must not start with '.' or '-'"),
        ("stop", 64, "the following required arguments were not provided: <JOB>"),
        ("stop a/b", 64, "<JOB>: invalid name \"a/b\": '/' is not allowed"),
        ("stop J -k -1", 64, "--kill-after <DURATION>: it must not be negative"),
        ("doctor J", 64, "unexpected argument 'J' found"),
        ("trip add J --seats 0", 64, "--seats <N>: at least 1 is needed"),
        ("rum J CMD", 64, "unrecognized subcommand 'rum'"),
    ] {
        refuses(line, code, expected);
    }
}

/// What is after the job's command is the command's, however wrong it looks.
#[test]
fn the_commands_own_words_are_not_judged() {
    let sandbox = Sandbox::new();
    for command in
        [&["--", "printf", "%s ", "-n", "--json", "--", "-x"][..], &["printf", "%s ", "-n", "--json", "--", "-x"]]
    {
        let finished = sandbox.triplock([&["run", "J"], command].concat()).run();
        assert_eq!((finished.code(), finished.stdout.as_str()), (Some(0), "-n --json -- -x "), "{finished:?}");
    }
    let bytes = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let finished = sandbox.triplock(["run", "J", "--", "printf", "%s"]).arg(bytes).arg("x").run();
    assert_eq!(finished.code(), Some(0), "{finished:?}");
}
