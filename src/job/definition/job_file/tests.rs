use super::*;
use crate::job::{Hold, Options, OutputMode, Policy, Retries};

fn understand(source: &str) -> JobFile {
    JobFile::understand(Path::new("/j.toml"), source)
}

fn problems(source: &str) -> Vec<String> {
    understand(source).problems.iter().map(ToString::to_string).collect()
}

/// A definition and one more line, the fourth.
#[track_caller]
fn complains(line: &str, expected: &str) {
    let source = format!("# a comment\n[jobs.nightly]\ncommand = ['true']\n{line}\n");
    assert_eq!(problems(&source), [format!("/j.toml: line 4: job nightly: {expected}")], "{line}");
    assert!(understand(&source).definitions.is_empty(), "{line}");
}

#[test]
fn every_setting_is_read() {
    let file = understand(
        "[jobs.other]\ncommand = 'echo \"a b\" | wc'\n\n[jobs.nightly]\ncommand = ['backup', '--all']\n\
         description = 'the whole disk'\nwait = 60\nconflict_exit_code = 0\nstop_exit_code = 9\nslots = 0x2\nlocks = ['db', 'A']\ntime_limit = '1h'\n\
         kill_after = 0.5\nsignal = 'SIGINT'\nretries = 1_0\nretry_delay = '2s'\nretry_backoff = 1.5\n\
         retry_max_delay = 60\nok_exit = [3, 0]\nonce_per = '1d'\njitter = '5m'\nhold = 'tree'\nclose = false\n\
         output = 'on-failure'\nkeep_runs = 7\nlog_limit = '64k'\nlease = '1m'\ntick = '*/5 * * * *'\n",
    );
    assert_eq!(file.problems, []);
    let [nightly, other] = &file.definitions[..] else { panic!("{file:?}") };
    assert_eq!(other.command, ["/bin/sh", "-c", "echo \"a b\" | wc"]);
    assert_eq!((nightly.line, nightly.description.as_deref()), (4, Some("the whole disk")));
    assert_eq!(nightly.command, ["backup", "--all"]);
    let seconds = std::time::Duration::from_secs;
    let expected = Options {
        policy: Policy::Wait(crate::lock::Wait::For(seconds(60))),
        conflict_exit_code: 0,
        stop_exit_code: Some(9),
        time_limit: Some(seconds(3600)),
        kill_after: Some(std::time::Duration::from_millis(500)),
        signal: libc::SIGINT,
        retries: Retries { count: 10, delay: seconds(2), backoff: 1.5, max_delay: seconds(60) },
        ok_exit: vec![0, 3],
        once_per: Some(seconds(86400)),
        jitter: seconds(300),
        slots: 2,
        locks: vec!["A".parse().unwrap(), "db".parse().unwrap()],
        close: false,
        hold: Hold::Tree,
        lease: Some(seconds(60)),
        tick: Some("*/5 * * * *".parse().unwrap()),
        output: OutputMode::OnFailure,
        keep_runs: 7,
        log_limit: 65536,
    };
    assert_eq!(nightly.settings.clone().lower().unwrap(), expected);
}

#[test]
fn when_and_as_whom_and_what_is_wrong_are_read_with_their_lines() {
    let file = understand(
        "[jobs.nightly]\ncommand = 'x'\non_calendar = ['Mon 02:00',\n  ' *-*-1 03:00']\ncron = '@daily'\nuser = 'backup'\n\
         expect_every = '1d'\nalert_after = 3\nalert_running = 90\nalert_skips = 5\n",
    );
    assert_eq!(file.problems, []);
    let placed = |text: &str, line| Placed { text: text.to_owned(), line };
    let expected = Schedule {
        on_calendar: vec![placed("Mon 02:00", 3), placed("*-*-1 03:00", 4)],
        cron: vec![placed("@daily", 5)],
        user: Some(placed("backup", 6)),
    };
    assert_eq!(file.definitions[0].schedule, expected);
    let seconds = |seconds| Some(std::time::Duration::from_secs(seconds));
    let expected =
        Alerts { expect_every: seconds(86400), alert_after: Some(3), alert_running: seconds(90), alert_skips: Some(5) };
    assert_eq!(file.definitions[0].alerts, expected);
}

#[test]
fn every_bad_value_is_explained() {
    let duration = "give seconds (0.3) or a number with a unit (90s 5m 1h 1d)";
    for (line, expected) in [
        ("timelimit = 5", "unknown key \"timelimit\"; did you mean time_limit?"),
        ("time-limit = 5", "unknown key \"time-limit\"; did you mean time_limit?"),
        ("lock = 'db'", "unknown key \"lock\"; did you mean locks?"),
        ("time_limit = 0", "time_limit: 0 is no duration; leave it out for none"),
        ("time_limit = -5", "time_limit: it must not be negative"),
        ("time_limit = '36526d'", "time_limit: it is more than 100 years"),
        ("time_limit = 'soon'", &format!("time_limit: \"soon\": {duration}")),
        ("expect_every = '1w'", &format!("expect_every: \"1w\": {duration}")),
        ("time_limit = inf", &format!("time_limit: \"inf\": {duration}")),
        ("time_limit = true", &format!("time_limit: true or false does not fit; {duration}")),
        ("once_per = 2026-11-23", &format!("once_per: a date or time does not fit; {duration}")),
        ("slots = 65", "slots: give a whole number from 1 to 64"),
        ("slots = '2'", "slots: write 2 without quotes"),
        ("slots = 1.5", "slots: a number with decimals does not fit; give a whole number from 1 to 64"),
        ("retries = -1", "retries: give a whole number from 0 to 4294967295"),
        ("retry_backoff = 0.5", "retry_backoff: give a factor of 1 or more (1 keeps the delay, 2 doubles it)"),
        ("retry_backoff = nan", "retry_backoff: give a factor of 1 or more (1 keeps the delay, 2 doubles it)"),
        ("ok_exit = [0, 256]", "ok_exit: give a whole number from 0 to 255"),
        ("ok_exit = []", "ok_exit: it is empty, so every run would fail; leave it out for [0]"),
        ("signal = 'NONE'", "signal: give a signal's name (TERM, SIGINT, HUP …) or its number"),
        ("cron = ''", "cron: it is empty; leave it out"),
        ("on_calendar = []", "on_calendar: it is empty; leave it out"),
        ("cron = \"* * * * *\\nroot x\"", "cron: it holds a control character; take it out"),
        ("on_calender = 'daily'", "unknown key \"on_calender\"; did you mean on_calendar?"),
        ("user = 7", "user: a whole number does not fit; give a string in quotes"),
        ("expect_every = 0", "expect_every: 0 is no duration; leave it out for none"),
        ("alert_after = 0", "alert_after: give a whole number from 1 to 4294967295"),
        ("policy = 'skipp'", "policy: did you mean \"skip\"?"),
        ("policy = 7", "policy: give one of \"skip\", \"wait\", \"replace\""),
        ("close = 'yes'", "close: a string does not fit; give true or false"),
        ("log_limit = '10T'", "log_limit: give a number of bytes, at least 16k, or one with a unit (64k 10M 1G)"),
        ("locks = ['a/b']", "locks: invalid name \"a/b\": '/' is not allowed, only A-Z a-z 0-9 . _ -"),
        ("description = 7", "description: a whole number does not fit; give a string in quotes"),
    ] {
        complains(line, expected);
    }
}

#[test]
fn every_bad_command_is_explained() {
    for (command, expected) in [
        ("''", "it is empty; name a program"),
        ("[]", "it is empty; name a program"),
        ("['']", "the program's name is empty"),
        ("['a', 7]", "a whole number does not fit; give a string in quotes"),
        ("\"a\\u0000b\"", "it holds a NUL character; take it out"),
        ("7", "give the words, [\"program\", \"argument\"], or a line for the shell in quotes"),
    ] {
        let found = problems(&format!("[jobs.n]\ncommand = {command}"));
        assert_eq!(found, [format!("/j.toml: line 2: job n: command: {expected}")], "{command}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_in_the_order_of_the_lines() {
    let file = understand(
        "job = 1\n[jobs.a]\n[jobs.'b/c']\ncommand = 'x'\n[jobs.d]\npolicy = 'skip'\nwait = 1\ncommand = 'x'\n[jobs.e]\ncommand = 'x'\n",
    );
    let said: Vec<_> = file.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "/j.toml: line 1: unknown key \"job\"; did you mean jobs?",
            "/j.toml: line 2: job a: there is no command; add command = [\"program\", \"argument\"]",
            "/j.toml: line 3: invalid name \"b/c\": '/' is not allowed, only A-Z a-z 0-9 . _ -",
            "/j.toml: line 5: job d: a time to wait goes with the policy wait only; leave one of the two out",
        ]
    );
    assert_eq!(file.definitions.len(), 1);
}

#[test]
fn what_is_no_toml_or_no_table_has_its_line() {
    for (source, line) in [
        ("[jobs.a]\ncommand = 'x", 2),
        ("[jobs.a\ncommand = 'x'", 1),
        ("[jobs.a]\ncommand = 'x'\n[jobs.a]\n", 3),
        ("[jobs.a]\ncommand = 'x'\ncommand = 'y'\n", 3),
        ("\njobs = 7", 2),
        ("\n\njobs.a = 'x'", 3),
    ] {
        let problems = understand(source).problems;
        assert_eq!(problems.first().map(|problem| problem.line), Some(line), "{source}: {problems:?}");
        assert!(problems.iter().all(|problem| !problem.why.contains('\n')));
    }
}

#[test]
fn a_broken_file_claims_the_jobs_it_speaks_of_and_no_others() {
    let name = |name: &str| name.parse::<Name>().unwrap();
    for source in ["[jobs.a.b\ncommand = 'other'", "[jobs.'a.b']\ncommand = 7", "jobs.'a.b'.command = \n"] {
        let file = understand(source);
        assert!(file.claims(&name("a.b"), source), "{source}");
        assert!(!file.claims(&name("other"), source), "{source}");
    }
}

/// The two lists cannot drift apart: each key is an option of `run`, and each option is a key.
#[test]
fn keys_are_the_options_of_run() {
    use clap::{Args as _, Command};
    let command = crate::cli::run::Run::augment_args(Command::new("run"));
    let options = command.get_arguments().filter_map(|argument| argument.get_long());
    let mut options: Vec<_> = options.map(|option| option.replace('-', "_")).collect();
    options.retain(|option| !["nonblock", "config"].contains(&option.as_str()));
    let lock = options.iter_mut().find(|option| *option == "lock").unwrap();
    "locks".clone_into(lock);
    options.sort();
    let mut keys = SETTINGS.to_vec();
    keys.sort_unstable();
    assert_eq!(options, keys);
    for key in SETTINGS {
        assert!(set(&mut Settings::default(), key, &DeValue::Boolean(true)).is_some(), "{key}");
    }
}
