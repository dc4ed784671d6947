//! `run`.

use std::ffi::OsString;

use super::{
    super::{
        duration,
        run::{CourseOptions, Run, RunOptions, exit_codes},
    },
    GlobalWords, once, value,
};
use crate::job::{
    settings::{self, Words as _},
    signal,
};

pub(super) fn run(global: &mut GlobalWords, mut arguments: impl Iterator<Item = OsString>) -> Option<Run> {
    let mut options = RunOptions::default();
    let mut job = None;
    let mut command = Vec::new();
    while let Some(word) = arguments.next() {
        let text = word.to_str()?;
        if text == "--" {
            // Without a job before it, it is not the command that follows.
            job.as_ref()?;
            command.extend(arguments);
            break;
        }
        if global.take(text, &mut arguments)? {
            continue;
        }
        match text {
            "-n" | "--nonblock" if !options.nonblock => options.nonblock = true,
            "-o" | "--close" if !options.course.close => options.course.close = true,
            option if option.starts_with('-') => set(&mut options, option, value(&mut arguments)?.to_str()?)?,
            _ if job.is_none() => job = Some(text.parse().ok()?),
            _ => {
                command.push(word);
                command.extend(arguments);
                break;
            }
        }
    }
    if options.nonblock && (options.policy.is_some() || options.wait.is_some()) {
        return None;
    }
    Some(Run { job: job?, options, command })
}

/// Sets an option that has a value; `None` when it is unknown, wrong, or set already.
fn set(options: &mut RunOptions, option: &str, text: &str) -> Option<()> {
    match option {
        "--policy" => once(&mut options.policy, settings::PolicyWord::from_word(text)?),
        "-w" | "--wait" => once(&mut options.wait, duration(text).ok()?),
        "-E" | "--conflict-exit-code" => once(&mut options.conflict_exit_code, settings::exit_code(text).ok()?),
        "--stop-exit-code" => once(&mut options.stop_exit_code, settings::exit_code(text).ok()?),
        "--jitter" => once(&mut options.jitter, duration(text).ok()?),
        "--lease" => once(&mut options.lease, settings::lease(text).ok()?),
        "--tick" => once(&mut options.tick, settings::tick(text).ok()?),
        "--output" => once(&mut options.output, crate::job::OutputMode::from_word(text)?),
        _ => set_course(&mut options.course, option, text),
    }
}

/// The same of what a queued run takes as well.
pub(super) fn set_course(options: &mut CourseOptions, option: &str, text: &str) -> Option<()> {
    match option {
        "--slots" => once(&mut options.slots, settings::slots(text).ok()?),
        "--lock" => {
            options.locks.push(text.parse().ok()?);
            Some(())
        }
        "--time-limit" => once(&mut options.time_limit, settings::time(text).ok()?),
        "-k" | "--kill-after" => once(&mut options.kill_after, duration(text).ok()?),
        "--signal" => once(&mut options.signal, signal::parse(text).ok()?),
        "--retries" => once(&mut options.retries, settings::count(text).ok()?),
        "--retry-delay" => once(&mut options.retry_delay, duration(text).ok()?),
        "--retry-backoff" => once(&mut options.retry_backoff, settings::backoff(text).ok()?),
        "--retry-max-delay" => once(&mut options.retry_max_delay, duration(text).ok()?),
        "--ok-exit" => once(&mut options.ok_exit, exit_codes(text).ok()?),
        "--once-per" => once(&mut options.once_per, settings::time(text).ok()?),
        "--hold" => once(&mut options.hold, crate::job::Hold::from_word(text)?),
        "--keep-runs" => once(&mut options.keep_runs, settings::count(text).ok()?),
        "--log-limit" => once(&mut options.log_limit, settings::bytes(text).ok()?),
        "--config" if text.is_empty() => None,
        "--config" => once(&mut options.config, text.into()),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::tests::{is_plain, words};
    use super::*;

    /// Each option that has a value, with two that are good.
    pub(super) const VALUES: [(&str, [&str; 2]); 25] = [
        ("--policy", ["skip", "replace"]),
        ("-w", ["0.3", "0"]),
        ("--wait", ["5m", "1d"]),
        ("-E", ["0", "255"]),
        ("--conflict-exit-code", ["1", "75"]),
        ("--stop-exit-code", ["0", "143"]),
        ("--slots", ["1", "64"]),
        ("--lock", ["db", "x.y"]),
        ("--time-limit", ["1", "1h"]),
        ("-k", ["0", "10"]),
        ("--kill-after", ["0.5", "3s"]),
        ("--signal", ["sigint", "9"]),
        ("--retries", ["0", "7"]),
        ("--retry-delay", ["2", "0"]),
        ("--retry-backoff", ["1", "1.5"]),
        ("--retry-max-delay", ["1m", "0"]),
        ("--ok-exit", ["0,3", "7"]),
        ("--once-per", ["1d", "3600"]),
        ("--jitter", ["5m", "0"]),
        ("--hold", ["command", "tree"]),
        ("--lease", ["2", "1m"]),
        ("--tick", ["@daily", "@hourly"]),
        ("--output", ["capture", "on-failure"]),
        ("--keep-runs", ["0", "7"]),
        ("--log-limit", ["64k", "16384"]),
    ];
    pub(super) const OTHERS: [&str; 24] = [
        "-n",
        "--nonblock",
        "-o",
        "--close",
        "--json",
        "-q",
        "--quiet",
        "-v",
        "--state-dir",
        "--config",
        "",
        "-",
        "--",
        "run",
        "J",
        "c",
        "a/b",
        "-1",
        "-w3",
        "--wait=3",
        "-no",
        "--unknown",
        "help",
        "--help",
    ];

    #[test]
    fn every_option_is_plain() {
        for (option, values) in VALUES {
            for value in values {
                assert!(is_plain(&words(&format!("run J {option} {value} c"))), "{option} {value}");
            }
        }
    }

    pub(in super::super) fn word() -> impl Strategy<Value = Vec<&'static str>> {
        prop_oneof![
            3 => (prop::sample::select(&VALUES[..]), 0..2_usize).prop_map(|((option, values), at)| vec![option, values[at]]),
            1 => prop::sample::select(&VALUES[..]).prop_map(|(option, _)| vec![option]),
            1 => prop::sample::select(&VALUES[..]).prop_map(|(_, values)| vec![values[1]]),
            3 => prop::sample::select(&OTHERS[..]).prop_map(|word| vec![word]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_is_understood_means_the_same_in_general(
            head in prop::sample::select(vec!["run", "run J", "run J", "-q run J", "run J c"]),
            tail in prop::collection::vec(word(), 0..4),
        ) {
            let mut line = words(head);
            line.extend(tail.concat().into_iter().map(OsString::from));
            is_plain(&line);
        }
    }
}
