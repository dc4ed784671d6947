//! A lane that is paused, also over the end of all its processes, and the resumption of what stands in one.

use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt as _};

use rustix::process::Signal;

use crate::{
    job::is_alive,
    job_lines::JobLedger,
    lanes::{ascend, noted, number, run_id},
    latch::Latch,
    queue::latch_job,
    sandbox::{Sandbox, eventually},
};

/// Whether the first in line has seen that its lane is paused: it is told of the end of that by a watch.
fn is_watched(sandbox: &Sandbox, lane: &str) -> bool {
    let first = sandbox.processes_in(lane).into_values().next();
    first.is_some_and(crate::lanes::has_watch)
}

/// As a power cut would: everything of the lane is killed, what its jobs have started too.
#[test]
fn a_paused_lane_stays_so_over_a_reboot_and_resume_starts_what_waits_and_tells_what_was_cut_off() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run_id(&latch_job(&sandbox, "mail", &latch).run());
    latch.keeps(1);
    let one = sandbox.queued("mail", &noted(""));
    sandbox.queue(["pause", "mail"]).run().exits(0);
    let others: Vec<_> = (0..4).map(|_| sandbox.queued("mail", &noted(""))).collect();
    let waiting: Vec<_> = [one].into_iter().chain(others).collect();
    let states = |state: &str| waiting.iter().map(|run| (run.clone(), state.to_owned())).collect::<Vec<_>>();
    assert_eq!(sandbox.listed("mail"), [vec![(first.clone(), "running".to_owned())], states("paused")].concat());
    sandbox.kills_everything();
    sandbox.lane_empties("mail");
    // (The kernel gives back the locks of who is killed a moment later.)
    eventually("nothing runs", || sandbox.listed("mail") == states("stranded"));
    let listing = sandbox.queue(["list", "mail"]).run();
    assert!(listing.exits(0).stderr.contains("lane mail is paused"), "{listing:?}");
    // Not even when somebody comes whose turn it would be.
    let last = sandbox.queued("mail", &noted(""));
    eventually("it has seen that its lane is paused", || is_watched(&sandbox, "mail"));
    assert_eq!((sandbox.order(), sandbox.stands(&last).as_deref()), (vec![], Some("paused")));
    let resumed = sandbox.queue(["resume", "mail"]).run();
    resumed.exits(0);
    let lines: Vec<_> = resumed.stdout.lines().collect();
    assert!(lines[0].starts_with(&format!("{first}: was cut off")), "{resumed:?}");
    let again: Vec<_> = waiting.iter().map(|run| format!("{run}: waits in its lane again")).collect();
    assert_eq!(lines[1..], again, "{resumed:?}");
    assert!(resumed.stderr.contains("paused no more"), "{resumed:?}");
    sandbox.ends(&last, 0);
    assert_eq!(sandbox.order(), waiting.iter().chain([&last]).map(|run| number(run)).collect::<Vec<_>>());
    let fates = sandbox.fates("mail");
    assert_eq!((fates[&number(&first)].as_str(), fates.len()), ("lost", 7));
    sandbox.ends(&first, 125);
    let nothing = sandbox.queue(["resume"]).run();
    assert!(nothing.exits(0).stderr.contains("nothing to resume"), "{nothing:?}");
    sandbox.lane_empties("mail");
}

/// A run's own file is not synced when it is made. What is synced is enough to make it again.
#[test]
fn what_a_power_cut_took_of_the_files_is_restored() {
    let sandbox = Sandbox::new();
    sandbox.queue(["pause", "mail"]).run().exits(0);
    let runs: Vec<_> = (0..4).map(|_| sandbox.queued("mail", &noted(""))).collect();
    sandbox.kills_everything();
    // (The kernel gives back the locks of who is killed a moment later.)
    eventually("nothing runs", || sandbox.listed("mail").iter().all(|(_, state)| state == "stranded"));
    // (Whoever is killed last may have recorded that another is gone: `.left`.)
    let mut files: Vec<_> = fs::read_dir(sandbox.jobs("mail.queue"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some())
        .collect();
    files.sort();
    assert_eq!(files.len(), 4);
    fs::remove_file(&files[0]).unwrap();
    fs::write(&files[1], "").unwrap();
    fs::write(&files[2], [0; 4096]).unwrap();
    let resumed = sandbox.queue(["resume", "mail"]).run();
    assert_eq!(resumed.exits(0).stdout.lines().count(), 4, "{resumed:?}");
    for run in &runs {
        sandbox.ends(run, 0);
    }
    assert_eq!(sandbox.order(), runs.iter().map(|run| number(run)).collect::<Vec<_>>());
}

/// The move of a file whose run has started is not synced, so after a cut it may stand in the lane again.
#[test]
fn the_leftover_of_what_ran_hides_nothing_that_a_power_cut_took() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let ran = run_id(&latch_job(&sandbox, "mail", &latch).run());
    latch.keeps(1);
    let runs: Vec<_> = (0..2).map(|_| sandbox.queued("mail", &noted(""))).collect();
    let tickets: Vec<_> = JobLedger::read(&sandbox, "mail")
        .events("queued")
        .iter()
        .map(|line| line["ticket"].as_u64().unwrap())
        .collect();
    // Else one whose turn comes as the others are killed would run.
    sandbox.queue(["pause", "mail"]).run().exits(0);
    sandbox.kills_everything();
    eventually("nothing runs", || sandbox.listed("mail").iter().all(|(_, state)| state == "stranded"));
    let moved = sandbox.jobs("mail.logs/1.json");
    fs::rename(&moved, sandbox.jobs(&format!("mail.queue/1-{}.json", tickets[0]))).unwrap();
    let names = ["json", "left"].map(|suffix| format!("mail.queue/{}-{}.{suffix}", number(&runs[0]), tickets[1]));
    let lost = names.iter().map(|name| sandbox.jobs(name)).find(|path| path.exists()).expect("its file");
    fs::write(lost, "").unwrap();
    let resumed = sandbox.queue(["resume", "mail"]).run();
    assert_eq!(resumed.exits(0).stdout.lines().count(), 3, "{resumed:?}");
    for run in &runs {
        sandbox.ends(run, 0);
    }
    assert_eq!(sandbox.order(), runs.iter().map(|run| number(run)).collect::<Vec<_>>());
    // As it advised, of whatever the cut left of that file.
    fs::write(&moved, "").unwrap();
    let again = run_id(&sandbox.queue(["retry", &ran]).run());
    latch.open();
    sandbox.ends(&again, 0);
    sandbox.queue(["resume"]).run().exits(0);
}

/// A lane that nothing was ever queued in can be paused, and what is added there waits.
#[test]
fn a_lane_is_paused_before_anything_is_added() {
    let sandbox = Sandbox::new();
    sandbox.queue(["pause", "new"]).run().exits(0);
    let run = sandbox.queued("new", &noted(""));
    eventually("it has seen that its lane is paused", || is_watched(&sandbox, "new"));
    // What is not of the queue is not kept back.
    sandbox.sh("new", &["-n"], "true").exits(75);
    assert_eq!(sandbox.stands(&run).as_deref(), Some("paused"));
    sandbox.queue(["resume", "new"]).run().exits(0);
    sandbox.ends(&run, 0);
}

#[test]
fn once_pause_has_answered_nothing_starts() {
    let sandbox = Sandbox::new();
    sandbox.queue(["pause", "mail"]).run().exits(0);
    for number in 0..80 {
        sandbox.queued("mail", &noted(["", "exec sleep 0.003"][number % 2]));
    }
    let mut rounds = 0;
    loop {
        let before = sandbox.starts("mail").len();
        sandbox.queue(["resume", "mail"]).run().exits(0);
        eventually("something starts, or nothing is left", || {
            sandbox.starts("mail").len() > before || sandbox.is_empty_lane("mail")
        });
        sandbox.queue(["pause", "mail"]).run().exits(0);
        let started = sandbox.starts("mail");
        if started.len() == 80 {
            break;
        }
        eventually("who is next has seen it", || is_watched(&sandbox, "mail"));
        assert_eq!(sandbox.starts("mail"), started, "something started after the lane was paused, round {rounds}");
        rounds += 1;
    }
    println!("{rounds} pauses");
    sandbox.queue(["resume", "mail"]).run().exits(0);
    sandbox.lane_empties("mail");
    let order = sandbox.order();
    ascend(&order);
    assert_eq!(order.len(), 80);
}

/// The first in line sleeps in the kernel for the lock of another, and must look again when it has it.
#[test]
fn who_waits_for_the_lock_while_its_lane_is_paused_does_not_start() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    latch_job(&sandbox, "mail", &latch).run().exits(0);
    latch.keeps(1);
    let run = sandbox.queued("mail", &noted(""));
    sandbox.waits_for_lock("mail.lock", 1);
    sandbox.queue(["pause", "mail"]).run().exits(0);
    latch.open();
    eventually("it has seen that its lane is paused", || is_watched(&sandbox, "mail"));
    assert_eq!(sandbox.order(), Vec::<u64>::new());
    sandbox.queue(["resume", "mail"]).run().exits(0);
    sandbox.ends(&run, 0);
    assert_eq!(sandbox.order(), [number(&run)]);
}

/// A machine that shuts down sends TERM to everybody.
#[test]
fn a_run_whose_waiter_got_term_keeps_its_place() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    latch_job(&sandbox, "mail", &latch).run().exits(0);
    latch.keeps(1);
    let runs: Vec<_> = (0..3).map(|_| sandbox.queued("mail", &noted(""))).collect();
    sandbox.waits_for_lock("mail.lock", 1);
    // The first sleeps for the lock, the second for the first.
    for run in &runs[..2] {
        let pid = sandbox.process_of(run).expect("it waits");
        assert!(sandbox.signal_run("mail", number(run), pid, Signal::TERM));
        eventually("it is gone", || !is_alive(pid));
        assert_eq!(sandbox.stands(run).as_deref(), Some("stranded"));
    }
    sandbox.queue(["resume", "mail"]).run().exits(0);
    latch.open();
    sandbox.ends(&runs[2], 0);
    assert_eq!(sandbox.order(), runs.iter().map(|run| number(run)).collect::<Vec<_>>());
}

#[test]
fn what_is_resumed_has_the_directory_environment_and_umask_of_its_caller() {
    let sandbox = Sandbox::new();
    let odd = OsString::from_vec(b"a\xff\nb".to_vec());
    let directory = sandbox.path("").join(OsString::from_vec(b"d\xfe".to_vec()));
    fs::create_dir(&directory).unwrap();
    let out = sandbox.path("out");
    let script = format!(
        "{{ pwd | od -An -tx1; umask; printf %s \"$ODD\" | od -An -tx1; printf %s \"$1\" | od -An -tx1; \
         env -0 | sort -z | grep -zv '^TRIPLOCK\\|^_=\\|^SHLVL=' | od -An -tx1; }} >>'{}'; echo over >>'{}'",
        out.display(),
        sandbox.path("over").display()
    );
    let mut outputs = Vec::new();
    for is_killed in [false, true] {
        sandbox.queue(["pause", "mail"]).run().exits(0);
        let add = sandbox.queue(["add", "mail", "--", "sh", "-c", &script, "sh"]).arg(&odd).env("ODD", odd.clone());
        let add = add.env("EMPTY", "").in_directory(&directory);
        let run = run_id(&add.under(["sh", "-c", "umask 027; exec \"$0\" \"$@\""]).run());
        if is_killed {
            sandbox.kills(&run);
        }
        let resume = sandbox.queue(["resume", "mail"]).in_directory("/").env("ODD", "even").env("MORE", "x");
        resume.under(["sh", "-c", "umask 077; exec \"$0\" \"$@\""]).run().exits(0);
        sandbox.ends(&run, 0);
        outputs.push(fs::read_to_string(&out).unwrap());
        fs::remove_file(&out).unwrap();
    }
    assert_eq!(outputs[0], outputs[1]);
    assert!(outputs[0].contains("0027") && outputs[0].contains(" 61 ff 0a 62"), "{outputs:?}");
    assert!(outputs[0].contains("64 fe 0a"), "{outputs:?}");
    // And what is done again as well.
    let again = sandbox.queue(["retry", "mail/1"]).in_directory("/").env("ODD", "even").run();
    sandbox.ends(&run_id(&again), 0);
    assert_eq!(outputs[0], fs::read_to_string(&out).unwrap());
}
