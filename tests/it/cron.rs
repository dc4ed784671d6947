//! Jobs that a real cron starts: they never overlap, what does not run is in the ledger, and cron mails failures only.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, chown},
    },
};

use serde_json::Value;

use crate::{
    cron_box::{CronBox, GROUP, MEMBER, OTHER_MEMBER},
    sandbox::{Invocation, Sandbox, eventually},
};

/// Waits, in a job, until the test lets that run go on, or all.
const UNTIL_LET_GO: &str = "until [ -e go.$TRIPLOCK_RUN_ID ] || [ -e all.go ]; do sleep 0.01; done";

/// What a crontab says for that command: cron takes `%` for the end of a line.
pub(crate) fn crontab_command(invocation: &Invocation) -> String {
    let quoted = |word: &std::ffi::OsString| {
        let word = std::str::from_utf8(word.as_bytes()).expect("the tests' words are text");
        assert!(!word.contains('\n'), "a crontab has one line for it: {word}");
        format!("'{}'", word.replace('\'', r"'\''").replace('%', r"\%"))
    };
    invocation.words().iter().map(quoted).collect::<Vec<_>>().join(" ")
}

impl Sandbox {
    /// How many starts were skipped because of that run, by its fence, which no other run has.
    fn skipped_for(&self, job: &str, run: u64) -> usize {
        let started = self.events(job, "started");
        let Some(holder) = started.iter().find(|line| line["run"] == run) else { return 0 };
        let skipped = self.events(job, "not_run");
        skipped.iter().filter(|line| line["holder"]["fence"] == holder["fence"]).count()
    }
}

/// A job's script that goes to the sandbox's directory first, which is not where cron starts it.
fn script(sandbox: &Sandbox, script: &str) -> String {
    format!("cd '{}' || exit 99; {script}", sandbox.path("").display())
}

#[test]
fn a_job_that_takes_longer_than_a_minute_never_overlaps_and_cron_has_nothing_to_mail() {
    let test = "cron::a_job_that_takes_longer_than_a_minute_never_overlaps_and_cron_has_nothing_to_mail";
    let Some(cron) = CronBox::new(test) else { return };
    let sandbox = Sandbox::new();
    // The marker is the job's own: nobody makes it a second time while it is there.
    let job = script(
        &sandbox,
        &format!(
            "set -C; echo >marker || echo $TRIPLOCK_RUN_ID >>overlaps; echo $TRIPLOCK_RUN_ID >>started; \
             {UNTIL_LET_GO}; rm marker"
        ),
    );
    let run = crontab_command(&sandbox.sh("long", &[], &job));
    let fired = sandbox.path("fired");
    cron.system_line("long", &format!("* * * * * root echo fired >>{}; {run}", fired.display()));

    for round in 1..=5 {
        let mut started = String::new();
        eventually("cron starts the job once more", || {
            started = fs::read_to_string(sandbox.path("started")).unwrap_or_default();
            started.ends_with('\n') && started.lines().count() >= round
        });
        let run: u64 = started.lines().last().unwrap().parse().unwrap();
        // It outlasts its minute: another one has begun, and more than one now and then.
        eventually("a start is skipped", || sandbox.skipped_for("long", run) > round % 2);
        fs::write(sandbox.path(&format!("go.{run}")), "").unwrap();
    }
    fs::write(sandbox.path("all.go"), "").unwrap();
    cron.comes_to_rest();

    assert!(!sandbox.exists("overlaps"), "overlapped: {:?}", fs::read_to_string(sandbox.path("overlaps")));
    let outcomes = sandbox.outcomes("long");
    let count = |outcome: &str| outcomes.iter().filter(|found| *found == outcome).count();
    assert_eq!(count("succeeded"), fs::read_to_string(sandbox.path("started")).unwrap().lines().count());
    assert_eq!(count("succeeded") + count("skipped"), outcomes.len(), "{outcomes:?}");
    // Nothing that cron has started is missing in the ledger.
    assert_eq!(outcomes.len(), fs::read_to_string(&fired).unwrap().lines().count());
    for skipped in sandbox.events("long", "not_run") {
        let started = sandbox.events("long", "started");
        let holder = started.iter().find(|line| line["fence"] == skipped["holder"]["fence"]);
        let holder = holder.unwrap_or_else(|| panic!("no run of the ledger: {skipped}"));
        assert_eq!((&skipped["outcome"], &skipped["holder"]["pid"]), (&"skipped".into(), &holder["pid"]), "{skipped}");
        assert!(skipped["holder"]["since"].is_string() && skipped["reason"].is_string(), "{skipped}");
    }
    assert_eq!(cron.mails(), [], "silent on success and on a skip");
}

#[test]
fn cron_mails_the_output_of_each_run_that_fails_and_of_no_other() {
    let Some(cron) = CronBox::new("cron::cron_mails_the_output_of_each_run_that_fails_and_of_no_other") else { return };
    let sandbox = Sandbox::new();
    let job = "echo \"run $TRIPLOCK_RUN_ID\"; echo 100% of it >&2; exit $((TRIPLOCK_RUN_ID % 2 * 3))";
    let run = crontab_command(&sandbox.sh("odd", &["--output", "on-failure"], job));
    cron.user_crontab("root", &format!("* * * * * {run}"));
    cron.waits_for_mails(2);
    eventually("a run has succeeded", || sandbox.outcomes("odd").contains(&"succeeded".to_owned()));
    cron.comes_to_rest();

    let ended = sandbox.events("odd", "ended");
    let failed: Vec<_> = ended.iter().filter(|line| line["outcome"] == "failed").collect();
    let mails = cron.mails();
    assert_eq!(mails.len(), failed.len(), "{mails:?}");
    for (mail, run) in mails.iter().zip(failed) {
        let number = run["run"].as_u64().unwrap();
        assert_eq!((run["exit"].as_u64(), number % 2), (Some(3), 1));
        assert!(mail.body.contains(&format!("run {number}\n100% of it\n")), "{mail:?}");
        assert!(mail.body.contains(&format!("run {number} failed")), "{mail:?}");
        assert!(mail.header("Subject").starts_with("Cron <root@") && mail.arguments.ends_with(" root"), "{mail:?}");
    }
    // The same to people who look there.
    assert!(ended.len() > mails.len());
}

#[test]
fn a_job_finds_the_clean_environment_of_cron_and_nothing_of_the_daemon_s() {
    let Some(cron) = CronBox::new("cron::a_job_finds_the_clean_environment_of_cron_and_nothing_of_the_daemon_s") else {
        return;
    };
    let sandbox = Sandbox::new().for_all_users();
    let (user, uid) = MEMBER;
    let home = cron.path(user);
    // Without a state directory on the line: the one that the user has by default, under the home that cron names.
    let triplock = &sandbox.triplock(["run"]).words()[0];
    let triplock = triplock.to_str().unwrap();
    let script = r"env >env; id -u >uid; pwd >pwd; cat >stdin; date +\%s >time; sleep 1000";
    cron.system_line("env", &format!("* * * * * {user} {triplock} run env -- sh -c '{script}'%one%two \\%"));
    let written = |name: &str| {
        let mut text = String::new();
        eventually(&format!("{name} is written"), || {
            text = fs::read_to_string(home.join(name)).unwrap_or_default();
            text.ends_with('\n')
        });
        text
    };
    let now = chrono::Utc::now().timestamp();
    let time: i64 = written("time").trim().parse().expect("seconds");
    assert!((time - now).abs() < 90, "a job has real time: {time}, and here {now}");
    assert_eq!((written("uid").trim(), written("pwd").trim()), (&*uid.to_string(), home.to_str().unwrap()));
    // What follows the first % is the command's input.
    assert_eq!(written("stdin"), "one\ntwo %\n");
    let environment = written("env");
    let value = |name: &str| environment.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    assert_eq!(value("HOME"), home.to_str());
    assert_eq!((value("PATH"), value("SHELL"), value("LOGNAME")), (Some("/usr/bin:/bin"), Some("/bin/sh"), Some(user)));
    let state = home.join(".local/state/triplock");
    assert_eq!(value("TRIPLOCK_STATE_DIR"), state.to_str());
    let known = ["HOME", "PATH", "SHELL", "LOGNAME", "PWD", "OLDPWD", "_", "SHLVL"];
    let others: Vec<_> = environment.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let strange: Vec<_> =
        others.iter().filter(|name| !known.contains(name) && !name.starts_with("TRIPLOCK_")).collect();
    assert!(strange.is_empty(), "{strange:?}");
    assert!(state.join("jobs/env.jsonl").exists());
}

#[test]
fn lines_of_cron_d_a_user_s_crontab_and_a_shell_share_the_group_s_state() {
    let test = "cron::lines_of_cron_d_a_user_s_crontab_and_a_shell_share_the_group_s_state";
    let Some(cron) = CronBox::new(test) else { return };
    let sandbox = Sandbox::new().for_all_users();
    let state = sandbox.path("shared");
    fs::create_dir(&state).unwrap();
    chown(&state, Some(0), Some(GROUP)).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o2770)).unwrap();
    let sandbox = sandbox.with_state(&state);
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o755)).unwrap();

    let run = crontab_command(&sandbox.sh("shared", &[], &script(&sandbox, UNTIL_LET_GO)));
    let ((one, uid), (two, other_uid)) = (MEMBER, OTHER_MEMBER);
    cron.system_line("shared", &format!("* * * * * {one} {run}"));
    cron.user_crontab(two, &format!("* * * * * {run}"));
    // Whichever of the two is first, the other finds it busy, and so does a shell.
    let owners = || -> Vec<u64> {
        // Who wrote a line is not in it; whose process it was, /proc says of those that run.
        let pids = sandbox.events("shared", "started").into_iter().filter_map(|line| line["pid"].as_u64());
        pids.filter_map(|pid| fs::metadata(format!("/proc/{pid}")).ok()).map(|it| it.uid().into()).collect()
    };
    eventually("one runs", || !owners().is_empty());
    assert!([uid.into(), other_uid.into()].contains(&owners()[0]));
    eventually("starts are skipped", || sandbox.skipped_for("shared", 1) >= 3);
    sandbox.run("shared", &[], &["true"]).exits(75);
    fs::write(sandbox.path("all.go"), "").unwrap();
    eventually("others run", || sandbox.events("shared", "ended").len() >= 2);
    cron.comes_to_rest();
    sandbox.run("shared", &[], &["true"]).exits(0);

    for file in ["shared.lock", "shared.jsonl", "shared.commit"] {
        let metadata = fs::metadata(sandbox.jobs(file)).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o660, GROUP), "{file}");
    }
    assert_eq!(cron.mails(), []);
}

#[test]
fn a_job_keeps_its_lock_when_cron_is_killed() {
    let Some(cron) = CronBox::new("cron::a_job_keeps_its_lock_when_cron_is_killed") else { return };
    let sandbox = Sandbox::new();
    let run =
        crontab_command(&sandbox.sh("kept", &[], &script(&sandbox, &format!("echo on >started; {UNTIL_LET_GO}"))));
    cron.system_line("kept", &format!("* * * * * root {run}"));
    sandbox.written("started");
    eventually("a start is skipped", || sandbox.skipped_for("kept", 1) >= 1);

    cron.kill();
    assert!(sandbox.is_locked("kept.lock"));
    sandbox.run("kept", &[], &["true"]).exits(75);
    let skipped = sandbox.skipped_for("kept", 1);
    cron.start();
    eventually("the next daemon's starts are skipped as well", || sandbox.skipped_for("kept", 1) > skipped + 1);
    let states: Vec<Value> = sandbox.events("kept", "ended");
    assert_eq!(states, [] as [Value; 0], "it runs on");

    fs::write(sandbox.path("all.go"), "").unwrap();
    eventually("it ends", || {
        sandbox.events("kept", "ended").first().is_some_and(|line| line["outcome"] == "succeeded")
    });
    cron.comes_to_rest();
    assert!(!sandbox.is_locked("kept.lock"));
    assert_eq!(cron.mails(), []);
}
