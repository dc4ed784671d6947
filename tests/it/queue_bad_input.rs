//! What the queue refuses, and that nothing is half queued then.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use serde_json::Value;

use crate::{
    job_lines::{self, JobLedger},
    lanes::{noted, number},
    machine,
    members::{self, GROUP, member},
    mount::SmallDisk,
    sandbox::{Finished, Sandbox, eventually},
};

#[track_caller]
fn says_in_one_line(finished: &Finished, code: i32, what: &str) {
    finished.exits(code);
    if finished.stderr.lines().count() != 1 || !finished.stdout.is_empty() || !finished.stderr.contains(what) {
        finished.complain(&format!("expected one line on stderr with {what:?}"));
    }
}

#[test]
fn runs_that_are_not_there_are_refused() {
    let sandbox = Sandbox::new();
    for state in ["nothing", "something", "not queued"] {
        for run in ["mail/99", "nowhere/1"] {
            for words in
                [&["wait", run][..], &["cancel", run], &["retry", run], &["add", "x", "--after", run, "--", "true"]]
            {
                let finished = sandbox.queue(words.iter().copied()).run();
                finished.exits(66);
                assert!(finished.stderr.lines().count() == 1 && finished.stdout.is_empty(), "{state}: {finished:?}");
            }
        }
        let lane = sandbox.queue(["cancel", "nowhere"]).run();
        says_in_one_line(&lane, 66, "nowhere");
        sandbox.queue(["resume", "nowhere"]).run().exits(66);
        sandbox.queue(["list", "nowhere"]).run().exits(66);
        match state {
            "nothing" => drop(sandbox.ends(&sandbox.queued("mail", "true"), 0)),
            _ => drop(sandbox.sh("other", &[], "true").exits(0)),
        }
    }
    // Nobody can wait for it, nor do it again: only who started it has it.
    for word in ["wait", "retry"] {
        says_in_one_line(&sandbox.queue([word, "other/1"]).run(), 66, "other/1");
    }
}

#[test]
fn ids_names_and_commands_that_are_none_are_refused() {
    let sandbox = Sandbox::new();
    for run in ["mail/", "mail/x", "mail/07", "/1", "mail/1/2", "mail/-1", "mail/18446744073709551616"] {
        for words in
            [&["wait", run][..], &["cancel", run], &["retry", run], &["add", "x", "--after", run, "--", "true"]]
        {
            sandbox.queue(words.iter().copied()).run().exits(64);
        }
    }
    for lane in ["a/b", "", ".", "..", "a\nb"] {
        sandbox.queue(["add", lane, "--", "true"]).run().exits(64);
        sandbox.queue(["pause", lane]).run().exits(64);
    }
    // Of no job file either.
    for words in [&["add", "mail"][..], &["add", "mail", "--"]] {
        says_in_one_line(&sandbox.queue(words.iter().copied()).run(), 64, "a command is missing");
    }
    sandbox.queue(["add", "mail", "--even-if-failed", "--", "true"]).run().exits(64);
    sandbox.queue(["wait"]).run().exits(64);
    assert!(!sandbox.state_dir().join("jobs").exists(), "something was made");
}

#[test]
fn a_lane_that_a_job_file_defines_has_its_command_and_no_other() {
    let sandbox = Sandbox::new();
    let config = sandbox.path("triplock.toml");
    fs::write(&config, "[jobs.mail]\ncommand = [\"sh\", \"-c\", \"echo defined >>out\"]\n").unwrap();
    let config = config.to_str().unwrap();
    let refused = sandbox.queue(["add", "mail", "--config", config, "--", "true"]).run();
    let as_run = sandbox.triplock(["run", "mail", "--config", config, "--", "true"]).for_people().run();
    as_run.exits(125);
    assert_eq!(refused.exits(64).stderr, as_run.stderr);
    let run = sandbox.queue(["add", "mail", "--config", config]).run();
    sandbox.ends(run.exits(0).stdout.trim(), 0);
    assert_eq!(sandbox.written("out"), "defined\n");
}

#[test]
fn a_queue_on_a_server_is_refused() {
    let sandbox = Sandbox::new().with_store("redis://127.0.0.1:1/");
    for words in [
        &["add", "a", "--", "true"][..],
        &["list"],
        &["wait", "a/1"],
        &["cancel", "a"],
        &["retry", "a/1"],
        &["pause", "a"],
        &["resume"],
    ] {
        says_in_one_line(&sandbox.queue(words.iter().copied()).run(), 64, "server");
    }
}

#[test]
fn nothing_is_half_queued_on_a_full_disk() {
    let test = "queue_bad_input::nothing_is_half_queued_on_a_full_disk";
    if !machine::is_root() || !machine::has(test, &["mount", "umount"]) {
        return machine::skip(test, "needs root, to mount a small disk");
    }
    let disk = SmallDisk::new("size=512k");
    let sandbox = Sandbox::new().with_state(disk.point().join("state"));
    // Full from the start; and full when there is a lane already, in whose ledger there may be room for a line still.
    for lane in ["new", "old"] {
        if lane == "old" {
            sandbox.ends(&sandbox.queued(lane, "true"), 0);
        }
        disk.fill();
        for _ in 0..3 {
            let refused = sandbox.adds(lane, &[], &noted("")).run();
            assert!(matches!(refused.code(), Some(71 | 73 | 74)), "{refused:?}");
            assert!(refused.stderr.lines().count() == 1 && refused.stdout.is_empty(), "{refused:?}");
        }
        disk.free();
        let queue = sandbox.jobs(&format!("{lane}.queue"));
        let is_of_a_run = |name: &std::ffi::OsString| !name.to_string_lossy().starts_with("requests-");
        let left = fs::read_dir(queue).into_iter().flatten().map(|file| file.unwrap().file_name());
        assert_eq!(left.filter(is_of_a_run).count(), 0, "half of a run is there");
        if sandbox.jobs(&format!("{lane}.lane")).exists() {
            sandbox.lane_empties(lane);
            assert_eq!(sandbox.listed(lane), []);
        }
        let before = sandbox.order().len();
        let run = sandbox.queued(lane, &noted(""));
        sandbox.ends(&run, 0);
        assert_eq!(sandbox.order()[before..], [number(&run)]);
        let ledger = JobLedger::read_torn(&sandbox, lane).0;
        assert!(ledger.lines.last().unwrap()["totals"].get("queued").is_none(), "a run is counted that is not there");
    }
}

/// That many would each be a process.
#[test]
fn a_lane_that_is_full_takes_no_more() {
    let sandbox = Sandbox::new();
    sandbox.queue(["pause", "a"]).run().exits(0);
    let run = sandbox.queued("a", "true");
    let path = job_lines::path(&sandbox, "a");
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| job_lines::sealed(&line.replace("\"queued\":1}", "\"queued\":10000}")) + "\n");
    fs::write(&path, lines.collect::<String>()).unwrap();
    let ledger = JobLedger::read(&sandbox, "a");
    assert_eq!(ledger.lines.last().unwrap()["totals"]["queued"], 10000, "the instrument");
    says_in_one_line(&sandbox.adds("a", &[], "true").run(), 75, "full");
    let refused = sandbox.triplock(["queue", "add", "a", "--", "true"]).fails(75);
    assert_eq!(refused["error"], "queue_full");
    says_in_one_line(&sandbox.queue(["retry", "a/1"]).run(), 4, "not over");
    sandbox.queue(["cancel", &run]).run().exits(0);
    assert_eq!(sandbox.queued("a", "true"), "a/2");
}

/// Whoever may write to a state directory that others use as well must not choose what they run.
#[test]
fn nobody_resumes_what_another_user_queued() {
    let test = "queue_bad_input::nobody_resumes_what_another_user_queued";
    if !members::may_be(test) {
        return;
    }
    let sandbox = Sandbox::shared();
    let done = sandbox.path("done");
    fs::create_dir(&done).unwrap();
    fs::set_permissions(&done, fs::Permissions::from_mode(0o777)).unwrap();
    let script = format!("id -u >>{}/out", done.display());
    let queue = |words: &[&str]| sandbox.queue(words.iter().copied()).in_directory("/");
    queue(&["pause", "a"]).run().exits(0);
    let theirs = queue(&["add", "a", "--", "sh", "-c", &script]).under(member(4001)).run();
    let theirs = theirs.exits(0).stdout.trim().to_owned();
    let ours = queue(&["add", "a", "--", "sh", "-c", &script]).run();
    let ours = ours.exits(0).stdout.trim().to_owned();
    let files = || {
        let names = fs::read_dir(sandbox.jobs("a.queue")).unwrap().map(|file| file.unwrap().path());
        let mut names: Vec<_> = names.filter(|name| !name.ends_with("paused")).collect();
        names.sort();
        names
    };
    for file in files() {
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600, "{}", file.display());
    }
    let files = || {
        let mut files = files();
        files.retain(|file| file.extension().is_some());
        files
    };
    sandbox.kills_everything();
    // A member puts his own in the place of root's, and shows root's in a place of his own.
    let [his, roots] = &files()[..] else { panic!("{:?}", files()) };
    let forged = fs::read(his).unwrap();
    let aside = sandbox.path("aside");
    fs::rename(roots, &aside).unwrap();
    fs::write(roots, forged).unwrap();
    std::os::unix::fs::chown(roots, Some(4001), Some(GROUP)).unwrap();
    let resumed = queue(&["resume", "a"]).run();
    resumed.exits(4);
    assert_eq!(resumed.stdout.lines().filter(|line| line.contains("only that user")).count(), 2, "{resumed:?}");
    assert!(!done.join("out").exists());
    // Root's own command is not run in the place of another either. (Root's file would be made again from what root has synced.)
    fs::remove_file(roots).unwrap();
    fs::remove_file(sandbox.jobs("a.queue/requests-0")).unwrap();
    fs::rename(his, sandbox.path("his")).unwrap();
    fs::copy(&aside, his).unwrap();
    let resumed = queue(&["resume", "a"]).run();
    eventually("whatever was started is over", || sandbox.is_empty_lane("a"));
    assert!(!done.join("out").exists(), "{resumed:?}");
    resumed.exits(4);
    fs::remove_file(his).unwrap();
    fs::rename(sandbox.path("his"), his).unwrap();
    fs::rename(&aside, roots).unwrap();
    // Both in their order, each by its own user.
    queue(&["resume", "a"]).under(member(4001)).run().exits(4);
    queue(&["resume", "a"]).run().exits(0);
    queue(&["wait", &ours]).run().exits(0);
    queue(&["wait", &theirs]).under(member(4001)).run().exits(0);
    assert_eq!(fs::read_to_string(done.join("out")).unwrap(), "4001\n0\n");
    let retried = queue(&["retry", &theirs]).run();
    retried.exits(77);
    // What stands there of another user can be taken out of the lane, whoever that is.
    queue(&["pause", "a"]).run().exits(0);
    let theirs = queue(&["add", "a", "--", "sh", "-c", &script]).under(member(4001)).run();
    let theirs = theirs.exits(0).stdout.trim().to_owned();
    queue(&["cancel", &theirs]).under(member(4002)).run().exits(0);
    // Its process could not be ended, and finds out at its turn.
    assert!(sandbox.process_of(&theirs).is_some());
    queue(&["resume", "a"]).run().exits(0);
    sandbox.lane_empties("a");
    assert_eq!(fs::read_to_string(done.join("out")).unwrap(), "4001\n0\n", "it ran though it was cancelled");
}

/// Somebody has written nonsense there, or a version of the future.
#[test]
fn files_that_are_no_requests_are_refused_and_keep_nobody_back() {
    let sandbox = Sandbox::new();
    sandbox.queue(["pause", "a"]).run().exits(0);
    let runs: Vec<_> = (0..3).map(|_| sandbox.queued("a", &noted(""))).collect();
    sandbox.kills_everything();
    let mut files: Vec<_> = fs::read_dir(sandbox.jobs("a.queue")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    fs::write(&files[0], "{\"format\":1,").unwrap();
    let newer = fs::read_to_string(&files[1]).unwrap().replace("\"format\":1", "\"format\":99");
    fs::write(&files[1], newer).unwrap();
    fs::write(sandbox.jobs("a.queue/x"), "what is this").unwrap();
    fs::write(sandbox.jobs("a.queue/9-9.json"), "what is this").unwrap();
    let resumed = sandbox.triplock(["queue", "resume", "a"]).run();
    let lines: Vec<Value> = resumed.exits(4).stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let what: Vec<_> = lines.iter().filter_map(|line| Some((line["run"].as_str()?, line["what"].as_str()?))).collect();
    // The torn one is made again from what was synced; a version of the future is not touched.
    let expected = [(runs[0].as_str(), "resumed"), (&runs[2], "resumed"), (&runs[1], "failed")];
    assert_eq!(what, expected, "{resumed:?}");
    sandbox.ends(&runs[2], 0);
    assert_eq!(sandbox.order(), [number(&runs[0]), number(&runs[2])]);
    sandbox.queue(["cancel", "a"]).run();
    assert_eq!(sandbox.listed("a"), []);
}

#[test]
fn a_lane_that_cannot_be_read_hides_no_other_and_the_doctor_says_why() {
    let sandbox = Sandbox::new();
    sandbox.queue(["pause", "good"]).run().exits(0);
    let run = sandbox.queued("good", "true");
    fs::create_dir(sandbox.jobs("bad.lane")).unwrap();
    fs::create_dir(sandbox.jobs("bad.queue")).unwrap();
    fs::write(sandbox.jobs("worse.queue"), "").unwrap();
    let listed = sandbox.queue(["list"]).run();
    listed.exits(65);
    assert!(listed.stdout.contains(&run) && listed.stderr.contains("bad.lane"), "{listed:?}");
    let doctor = sandbox.triplock(["doctor"]).for_people().run();
    doctor.exits(65);
    assert!(doctor.stdout.contains("bad.lane") && doctor.stdout.contains("worse.queue"), "{doctor:?}");
}

#[test]
fn a_limit_of_file_sizes_refuses_in_one_line_and_nothing_is_half_queued() {
    let sandbox = Sandbox::new();
    sandbox.ends(&sandbox.queued("a", "true"), 0);
    let limited = ["sh", "-c", "ulimit -f 1; exec \"$0\" \"$@\""];
    let long = "x".repeat(4096);
    says_in_one_line(&sandbox.queue(["add", "a", "--", "echo", &long]).under(limited).run(), 73, "a.queue");
    assert_eq!(sandbox.listed("a"), []);
    sandbox.ends(&sandbox.queued("a", "true"), 0);
}

#[test]
fn an_empty_command_is_refused_and_the_id_is_told_also_when_quiet() {
    let sandbox = Sandbox::new();
    says_in_one_line(&sandbox.queue(["add", "a", "--", ""]).run(), 64, "empty");
    assert_eq!(sandbox.triplock(["-q", "queue", "add", "a", "--", "true"]).for_people().run().exits(0).stdout, "a/1\n");
    sandbox.ends("a/1", 0);
    says_in_one_line(&sandbox.triplock(["logs", "a", "x"]).for_people().run(), 64, "a run's number");
}

#[test]
fn who_waits_in_a_paused_lane_is_told_so() {
    let sandbox = Sandbox::new();
    let paused = sandbox.queue(["pause", "a"]).run();
    assert!(paused.exits(0).stderr.contains("nothing was ever run or queued in lane a"), "{paused:?}");
    let run = sandbox.queued("a", "true");
    let words = ["-v", "run", "a", "-w", "0.2", "--", "true"];
    let waited = sandbox.triplock(words).for_people().run();
    assert!(waited.exits(75).stderr.contains("waiting for a (its lane is paused"), "{waited:?}");
    sandbox.queue(["cancel", &run]).run().exits(0);
}
