//! `check`: one line and an exit code for a monitoring system, from real runs.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;

use crate::{
    job_lines,
    latch::{Latch, run},
    machine,
    sandbox::{Finished, Sandbox, eventually},
    strace,
};

/// A directory of job files with that one.
fn job_file(sandbox: &Sandbox, text: &str) -> String {
    let directory = sandbox.path("jobs.d");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("jobs.toml"), text).unwrap();
    directory.to_str().unwrap().to_owned()
}

/// A state directory in which nothing has run: without one, `check` may be looking in the wrong place.
fn empty_state(sandbox: &Sandbox) {
    fs::create_dir(sandbox.state_dir()).unwrap();
    fs::set_permissions(sandbox.state_dir(), fs::Permissions::from_mode(0o700)).unwrap();
}

/// The line of `check` with those words, which sees the sandbox's job files only.
#[track_caller]
fn check(sandbox: &Sandbox, words: &str, code: i32) -> String {
    let config = sandbox.path("jobs.d");
    fs::create_dir_all(&config).unwrap();
    let config = config.to_str().unwrap();
    let finished = sandbox.triplock(["check", "--config", config].into_iter().chain(words.split_whitespace()));
    line(&finished.for_people().run(), code)
}

/// A plugin's one line, whose state fits the exit code.
#[track_caller]
fn line(finished: &Finished, code: i32) -> String {
    finished.exits(code);
    let state = ["OK", "WARNING", "CRITICAL", "UNKNOWN"][usize::try_from(code).unwrap()];
    let line = finished.stdout.strip_suffix('\n').unwrap_or_default();
    let text = line.strip_prefix(&format!("TRIPLOCK {state} - "));
    if text.is_none() || line.contains('\n') || line.matches('|').count() > 1 || !finished.stderr.is_empty() {
        finished.complain("expected the one line of a monitoring plugin");
    }
    let (said, perfdata) = line.split_once(" | ").unwrap_or((line, ""));
    assert!(!said.ends_with(' '), "{line}");
    for figure in perfdata.split_whitespace() {
        figure_of(figure).unwrap_or_else(|| panic!("no perfdata: {figure} in {line}"));
    }
    line.to_owned()
}

/// `label=value[unit];[warning];[critical];[min]` as the guidelines of monitoring plugins have it.
fn figure_of(figure: &str) -> Option<(&str, &str, [String; 3])> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'-');
    let (label, rest) = figure.split_once('=')?;
    let fields: Vec<_> = rest.split(';').collect();
    let [value, thresholds @ ..] = &fields[..] else { return None };
    let is_value = *value == "U" || number(value.strip_suffix('s').unwrap_or(value));
    let well = is_value && label.bytes().all(|b| b.is_ascii_lowercase());
    let well = well && thresholds.len() == 3 && thresholds.iter().all(|limit| limit.is_empty() || number(limit));
    let thresholds = [0, 1, 2].map(|at| thresholds.get(at).map(ToString::to_string).unwrap_or_default());
    well.then_some((label, value, thresholds))
}

/// The figure of that label.
#[track_caller]
fn figure<'l>(line: &'l str, label: &str) -> (&'l str, [String; 3]) {
    let perfdata = line.split_once(" | ").expect("perfdata").1;
    let mut figures = perfdata.split_whitespace().filter_map(figure_of);
    let (_, value, thresholds) = figures.find(|(of, ..)| *of == label).unwrap_or_else(|| panic!("{label}: {line}"));
    (value, thresholds)
}

/// Moves the times of the ledger's last line: what a clock that was wrong, or much time, leaves behind.
fn age(sandbox: &Sandbox, job: &str, seconds: i64) {
    let path = job_lines::path(sandbox, job);
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let last = lines.pop().expect("a line");
    let value: Value = serde_json::from_str(&last).unwrap();
    let mut shifted = last;
    for field in ["last_success", "last_success_end", "first"] {
        let Some(time) = value["totals"][field].as_i64() else { continue };
        let later = time - seconds * 1_000_000;
        shifted = shifted.replace(&format!("\"{field}\":{time}"), &format!("\"{field}\":{later}"));
    }
    lines.push(job_lines::sealed(&shifted));
    fs::write(&path, lines.join("\n") + "\n").unwrap();
}

#[test]
fn a_job_is_well_then_late_and_a_success_makes_it_well_again() {
    let sandbox = Sandbox::new();
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    let well = check(&sandbox, "j --expect-every 1h", 0);
    assert!(well.contains("j: its last success ended "), "{well}");
    assert_eq!(figure(&well, "age").1, ["", "3600", "0"]);
    age(&sandbox, "j", 3700);
    let late = check(&sandbox, "j --expect-every 1h", 2);
    assert!(late.contains("late: its last success ended 1h 01m ago, expected every 1h 00m"), "{late}");
    check(&sandbox, "j --expect-every 2h", 0);
    check(&sandbox, "j", 0);
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    check(&sandbox, "j --expect-every 1h", 0);
    // The clock was an hour ahead, and is right again.
    age(&sandbox, "j", -3600);
    let ahead = check(&sandbox, "j --expect-every 10s", 3);
    assert!(ahead.contains("the clock was set back"), "{ahead}");
    assert_eq!(figure(&ahead, "age").0, "U");
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    check(&sandbox, "j --expect-every 1h", 0);
}

#[test]
fn failures_in_a_row_and_the_job_file_s_limits() {
    let sandbox = Sandbox::new();
    empty_state(&sandbox);
    let config = job_file(&sandbox, "[jobs.j]\ncommand = 'exit $(cat code)'\nalert_after = 2\n");
    let run = |code: &str| {
        fs::write(sandbox.path("code"), code).unwrap();
        let run = sandbox.triplock(["run", "j", "--config", &config]).in_directory(sandbox.path(""));
        run.run();
    };
    let never = check(&sandbox, "j", 0);
    assert!(never.contains("j: no success yet") && figure(&never, "age").0 == "U", "{never}");
    run("3");
    let warning = check(&sandbox, "j", 1);
    assert!(warning.contains("failed: run 1 failed, exit 3, "), "{warning}");
    assert_eq!(figure(&warning, "failures"), ("1", ["0", "1", "0"].map(str::to_owned)));
    // The command line goes first.
    check(&sandbox, "j --alert-after 1", 2);
    run("4");
    assert_eq!(figure(&check(&sandbox, "j --alert-after 1", 2), "failures").1, ["", "0", "0"].map(str::to_owned));
    let critical = check(&sandbox, "j", 2);
    assert!(critical.contains("failed 2 times in a row: run 2 failed, exit 4, "), "{critical}");
    check(&sandbox, "j --alert-after 3", 1);
    run("0");
    check(&sandbox, "j", 0);
    run("5");
    check(&sandbox, "j", 1);
}

#[test]
fn a_run_that_lasts_too_long_skips_and_a_run_that_was_lost() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let long = run(&sandbox, "j", "", latch.command()).start();
    latch.keeps(1);
    let running = check(&sandbox, "j", 0);
    assert!(running.contains("no success yet, running for "), "{running}");
    let critical = check(&sandbox, "j --alert-running 0.000001", 2);
    assert!(critical.contains("run 1 has lasted ") && figure(&critical, "running").1[1] == "0.000001", "{critical}");
    // A look makes no start see "busy", and takes no lock that would make another wait.
    for _ in 0..2 {
        run(&sandbox, "j", "", ["true"]).run().exits(75);
    }
    check(&sandbox, "j --alert-skips 3", 0);
    let skipping = check(&sandbox, "j --alert-skips 2", 1);
    assert!(skipping.contains("the last 2 starts were skipped"), "{skipping}");
    assert_eq!(figure(&skipping, "skips"), ("2", ["1", "", "0"].map(str::to_owned)));
    let both = check(&sandbox, "j --alert-skips 2 --alert-running 0.000001", 2);
    assert!(both.contains("has lasted") && both.contains("; the last 2 starts"), "{both}");
    // Its wrapper killed, the job goes on, and nobody watches it.
    long.dies();
    let orphaned = check(&sandbox, "j", 1);
    assert!(orphaned.contains("run 1 has lost its wrapper, and pid "), "{orphaned}");
    latch.open();
    eventually("the command has ended", || !sandbox.is_locked("j.lock"));
    let lost = check(&sandbox, "j", 2);
    assert!(lost.contains("failed: its wrapper was killed"), "{lost}");
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    check(&sandbox, "j --alert-skips 1", 0);
}

#[test]
fn a_ledger_of_before_there_were_such_sums_tells_what_it_can() {
    let sandbox = Sandbox::new();
    // As it was written then.
    let forget = |job: &str| {
        let path = job_lines::path(&sandbox, job);
        let mut last = fs::read_to_string(&path).unwrap().lines().last().expect("a line").to_owned();
        for field in ["last_success_end", "first", "failures_in_a_row", "skips_in_a_row"] {
            let Some((before, rest)) = last.split_once(&format!(",\"{field}\":")) else { continue };
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            last = format!("{before}{rest}");
        }
        fs::write(&path, job_lines::sealed(&last) + "\n").unwrap();
    };
    run(&sandbox, "bad", "", ["false"]).run().exits(1);
    forget("bad");
    let failed = check(&sandbox, "bad", 2);
    assert!(failed.contains("failed: run 1 failed, exit 1, "), "{failed}");
    let late = check(&sandbox, "bad --expect-every 0.000001", 2);
    assert!(late.contains("late: no success in the "), "{late}");
    // It goes on from there.
    run(&sandbox, "bad", "", ["false"]).run().exits(1);
    let twice = check(&sandbox, "bad", 2);
    assert!(twice.contains("failed 2 times in a row: run 2 "), "{twice}");
    run(&sandbox, "bad", "", ["true"]).run().exits(0);
    check(&sandbox, "bad", 0);
    run(&sandbox, "good", "", ["/nonexistent"]).run().exits(127);
    run(&sandbox, "good", "", ["true"]).run().exits(0);
    forget("good");
    assert_ne!(figure(&check(&sandbox, "good --expect-every 1h", 0), "age").0, "U");
}

#[test]
fn a_slot_that_was_lost_and_is_not_used_any_more_is_no_failure_for_ever() {
    let sandbox = Sandbox::new();
    let (first, second) = (Latch::closed(&sandbox, "first"), Latch::closed(&sandbox, "second"));
    let one = run(&sandbox, "j", "--slots 2", first.command()).start();
    first.keeps(1);
    let other = run(&sandbox, "j", "--slots 2", second.command()).start();
    second.keeps(1);
    other.dies();
    second.open();
    eventually("its command has ended", || !sandbox.is_locked("j.slot2"));
    first.open();
    one.finish().exits(0);
    let lost = check(&sandbox, "j", 2);
    assert!(lost.contains("failed: its wrapper was killed"), "{lost}");
    run(&sandbox, "j", "--slots 2", ["true"]).run().exits(0);
    check(&sandbox, "j", 0);
}

#[test]
fn a_time_limit_is_the_limit_of_what_is_normal() {
    let sandbox = Sandbox::new();
    empty_state(&sandbox);
    let figure_with = |keys: &str| {
        job_file(&sandbox, &format!("[jobs.j]\ncommand = 'true'\n{keys}\n"));
        figure(&check(&sandbox, "j", 0), "running").1[1].clone()
    };
    assert_eq!(figure_with(""), "");
    assert_eq!(figure_with("time_limit = '1m'"), "70");
    assert_eq!(figure_with("time_limit = '1m'\nkill_after = 5"), "65");
    assert_eq!(figure_with("time_limit = '1m'\nretries = 3\nretry_delay = 2"), "78");
    assert_eq!(figure_with("time_limit = '1m'\nalert_running = 9"), "9");
    assert_eq!(figure_with("alert_running = '2h'"), "7200");
    job_file(&sandbox, "[jobs.j]\ncommand = 'true'\nalert_running = 9\n");
    assert_eq!(figure(&check(&sandbox, "j --alert-running 7", 0), "running").1[1], "7", "the command line goes first");
}

#[test]
fn all_jobs_those_of_files_and_those_that_ran_and_the_worst_wins() {
    let sandbox = Sandbox::new();
    let nothing = check(&sandbox, "", 3);
    assert!(nothing.contains("there is no such state directory"), "{nothing}");
    empty_state(&sandbox);
    let nothing = check(&sandbox, "", 3);
    assert!(nothing.contains("no job in ") && nothing.contains("none has run in "), "{nothing}");
    job_file(&sandbox, "[jobs.new]\ncommand = 'true'\nexpect_every = '1h'\n");
    run(&sandbox, "good", "", ["true"]).run().exits(0);
    assert_eq!(
        check(&sandbox, "", 0),
        "TRIPLOCK OK - 2 jobs | jobs=2;;;0 warning=0;0;;0 critical=0;;0;0 unknown=0;;;0"
    );
    // Nothing has ever started it, and it should have run.
    let file = fs::File::open(sandbox.path("jobs.d/jobs.toml")).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(4000)).unwrap();
    let late = check(&sandbox, "", 2);
    assert!(late.contains("1 of 2 jobs: new: late: no success in the 1h 06m since it is known"), "{late}");
    job_file(&sandbox, "[jobs.new]\ncommand = 'true'\n");
    // What cannot be told of one hides nothing of another, and is not hidden by what is well.
    job_file(&sandbox, "[jobs.new]\ncommand = 'true'\n[jobs.wrong]\ncommand = 'true'\nalert_after = 0\n");
    let unknown = check(&sandbox, "", 3);
    assert!(unknown.contains("1 of 3 jobs: wrong: ") && unknown.contains("line 5"), "{unknown}");
    run(&sandbox, "bad", "", ["false"]).run().exits(1);
    let worst = check(&sandbox, "", 2);
    let bad = worst.find("bad: failed").expect("it is named");
    assert!(worst.contains("2 of 4 jobs: ") && bad < worst.find("wrong: ").expect("it is named"), "{worst}");
    let warning = check(&sandbox, "--alert-after 2", 1);
    assert_eq!(figure(&warning, "unknown").0, "1");
    check(&sandbox, "good", 0);
    check(&sandbox, "wrong", 3);
    // A file that is no TOML could define any of them.
    job_file(&sandbox, "[jobs.new\n");
    let broken = check(&sandbox, "--alert-after 2", 1);
    assert!(broken.contains("jobs.toml"), "{broken}");
}

#[test]
fn whatever_cannot_be_told_is_unknown() {
    let sandbox = Sandbox::new();
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    let unknown = check(&sandbox, "i", 3);
    assert!(unknown.contains("no such job: i"), "{unknown}");
    let wrong = [
        "j --alert-after 0",
        "j --alert-after -1",
        "j --expect-every",
        "j --expect-every 0",
        "j --nonsense",
        "j k",
        ".j",
        "a|b",
        "j --expect-every soon",
    ];
    for words in wrong {
        let wrong = check(&sandbox, words, 3);
        assert!(wrong.contains("see `triplock check --help`"), "{wrong}");
    }
    // A word that the shell would split is one line all the same.
    line(&sandbox.triplock(["check", "j\nk"]).for_people().run(), 3);
    line(&sandbox.triplock(["check", "--config", "/nonexistent\n|x", "j"]).for_people().run(), 3);
    let error = sandbox.triplock(["check", "i", "--config", sandbox.path("").to_str().unwrap()]).fails(3);
    assert_eq!(error["error"], "no_such_job");
    let error = sandbox.triplock(["check", "--nonsense"]).fails(3);
    assert_eq!(error["error"], "usage");

    let ledger = job_lines::path(&sandbox, "j");
    let whole = fs::read_to_string(&ledger).unwrap();
    let changed = whole.replacen("\"outcome\":\"succeeded\"", "\"outcome\":\"failed\"", 1);
    let newer = whole.lines().map(|line| job_lines::sealed(&line.replacen("\"format\":1", "\"format\":9", 1)) + "\n");
    for damaged in [changed, newer.collect::<String>(), "noise\n".to_owned()] {
        fs::write(&ledger, damaged).unwrap();
        let corrupt = check(&sandbox, "j", 3);
        assert!(corrupt.contains("j.jsonl"), "{corrupt}");
        check(&sandbox, "", 3);
    }
    fs::write(&ledger, whole).unwrap();
    check(&sandbox, "j", 0);
    fs::remove_file(sandbox.jobs("j.lock")).unwrap();
    fs::write(sandbox.path("file"), "").unwrap();
    let elsewhere = Sandbox::new().with_state(sandbox.path("file"));
    check(&elsewhere, "j", 3);
}

#[test]
fn an_outsider_gets_unknown_and_not_well() {
    let test = "check::an_outsider_gets_unknown_and_not_well";
    if !machine::is_root() {
        return machine::skip(test, "needs root, to be another user");
    }
    if !machine::has(test, &["setpriv"]) {
        return;
    }
    let sandbox = Sandbox::new().for_all_users();
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    let outsider = ["setpriv", "--reuid=4004", "--regid=4004", "--clear-groups", "--"];
    for words in [&["check", "j"][..], &["check"]] {
        line(&sandbox.triplock(words).for_people().under(outsider).run(), 3);
    }
}

#[test]
fn a_look_takes_no_lock_and_reads_the_same_of_a_ledger_of_any_length() {
    if !machine::may_trace("check::a_look_takes_no_lock_and_reads_the_same_of_a_ledger_of_any_length") {
        return;
    }
    let sandbox = Sandbox::new();
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    let ledger = job_lines::path(&sandbox, "j");
    let last = fs::read_to_string(&ledger).unwrap().lines().last().unwrap().to_owned() + "\n";
    fs::write(&ledger, last.repeat(10_000)).unwrap();
    let trace = sandbox.path("trace");
    let words = ["check", "j", "--config", sandbox.path("").to_str().unwrap()].map(str::to_owned);
    let wrapper = strace::tracing(&trace, &["-e", "trace=flock,read,pread64,openat"]);
    line(&sandbox.triplock(words).for_people().under(wrapper).run(), 0);
    let calls = strace::calls(&trace);
    assert!(calls.iter().any(|call| call.is("openat", "/proc/locks")), "{calls:?}");
    assert!(!calls.iter().any(|call| call.name == "flock"), "{calls:?}");
    let reads = calls.iter().filter(|call| call.name.contains("read") && call.text.contains("j.jsonl"));
    let bytes: u64 = reads.filter_map(|call| call.text.rsplit_once(" = ")?.1.trim().parse::<u64>().ok()).sum();
    let size = fs::metadata(&ledger).unwrap().len();
    assert!((1..200_000).contains(&bytes) && size > 5_000_000, "{bytes} of {size} bytes were read");
}

#[test]
fn the_json_of_check() {
    let sandbox = Sandbox::new();
    run(&sandbox, "j", "", ["false"]).run().exits(1);
    let config = sandbox.path("none");
    fs::create_dir(&config).unwrap();
    let words = ["check", "--config", config.to_str().unwrap(), "--expect-every", "1h", "--alert-skips", "7"];
    let finished = sandbox.triplock(words).run();
    let check: Value = serde_json::from_str(&finished.exits(2).stdout).unwrap();
    assert_eq!((&check["format"], &check["state"], &check["exit_code"]), (&1.into(), &"critical".into(), &2.into()));
    let [job] = &check["jobs"].as_array().unwrap()[..] else { panic!("one job: {check}") };
    assert_eq!((&job["job"], &job["state"], &job["failures_in_a_row"]), (&"j".into(), &"critical".into(), &1.into()));
    assert_eq!((&job["age"], &job["running"], &job["skips_in_a_row"]), (&Value::Null, &Value::Null, &0.into()));
    assert_eq!(job["limits"]["expect_every"].as_f64(), Some(3600.0));
    assert_eq!((&job["limits"]["alert_after"], &job["limits"]["alert_skips"]), (&1.into(), &7.into()));
    let problem = &job["problems"][0];
    assert_eq!((&problem["problem"], &problem["state"]), (&"failing".into(), &"critical".into()));
    assert!(problem["message"].as_str().unwrap().starts_with("failed: run 1 failed, exit 1"), "{problem}");
    // Silent, and the exit code tells.
    let quiet = sandbox.triplock(words).for_people().arg("-q").run();
    assert_eq!((quiet.exits(2).stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

#[test]
fn a_job_more_is_no_further_listing_of_all_jobs() {
    if !machine::may_trace("check::a_job_more_is_no_further_listing_of_all_jobs") {
        return;
    }
    let sandbox = Sandbox::new();
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    let listings = || {
        let trace = sandbox.path("trace");
        let words = ["check", "--config", sandbox.path("").to_str().unwrap()].map(str::to_owned);
        let all = sandbox.triplock(words).under(strace::tracing(&trace, &["-e", "trace=getdents64"]));
        line(&all.for_people().run(), 0);
        strace::calls(&trace).iter().filter(|call| call.is("getdents64", "/jobs>")).count()
    };
    let jobs = sandbox.state_dir().join("jobs");
    let of_one = listings();
    assert!(of_one > 0);
    for other in 0..100 {
        for suffix in ["lock", "commit", "jsonl"] {
            fs::copy(jobs.join(format!("j.{suffix}")), jobs.join(format!("other{other}.{suffix}"))).unwrap();
        }
    }
    // (One listing is several calls when it is long.)
    assert!(listings() < of_one + 20);
}

#[test]
fn of_many_jobs_that_are_not_well_some_are_named_and_all_are_counted() {
    let sandbox = Sandbox::new();
    for job in 0..10 {
        run(&sandbox, &format!("j{job}"), "", ["false"]).run().exits(1);
    }
    let line = check(&sandbox, "", 2);
    assert!(line.contains("10 of 10 jobs: j0: failed") && line.contains("; and 2 more |"), "{line}");
    assert!(line.contains("j7: ") && !line.contains("j8: "), "{line}");
    assert_eq!(figure(&line, "critical").0, "10");
}
