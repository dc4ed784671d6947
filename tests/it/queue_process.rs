//! The process of a queued run: it keeps nothing of who added it, whoever that was.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    job::{children, descriptors, state, status},
    lanes::{noted, number},
    latch::Latch,
    machine,
    queue::latch_job,
    sandbox::{Sandbox, TRIPLOCK, eventually},
};

/// A field of /proc/PID/stat after the name, of which 3 is the session and 4 the terminal.
fn stat(pid: u32, field: usize) -> i64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
    stat.rsplit_once(") ").expect("a name").1.split(' ').nth(field).expect("the field").parse().expect("a number")
}

/// `/bin/sh`'s words for `queue add`.
fn add(sandbox: &Sandbox, lane: &str, script: &str) -> String {
    let state = sandbox.state_dir().display();
    format!("'{TRIPLOCK}' --state-dir '{state}' queue add {lane} -- sh -c '{script}'")
}

/// Fails when a process has a descriptor of anything but its own files.
#[track_caller]
fn keeps_to_itself(sandbox: &Sandbox, pid: u32, callers: &[PathBuf]) {
    for target in descriptors(pid) {
        let latch = sandbox.path("latch");
        let is_own = target == Path::new("/dev/null") || target.starts_with(sandbox.state_dir()) || target == latch;
        // Made by itself: the pipes of the output, and the watches.
        let is_made = |prefix: &str| target.to_string_lossy().starts_with(prefix);
        // (Those without an inode all look alike.)
        let is_made =
            is_made("anon_inode:") || ["pipe:", "socket:"].into_iter().any(is_made) && !callers.contains(&target);
        assert!(is_own || is_made, "{pid} has {} of its caller", target.display());
    }
}

#[test]
fn add_answers_while_the_job_runs_on_and_leaves_it_nothing_of_its_own() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    // Descriptors that its caller had open, and had not closed for others.
    let (file, pipe) = (File::create(sandbox.path("file")).unwrap(), rustix::pipe::pipe().unwrap());
    for fd in [file.as_raw_fd(), pipe.0.as_raw_fd(), pipe.1.as_raw_fd()] {
        assert!(fd > 2);
    }
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    rustix::io::fcntl_setfd(&pipe.1, rustix::io::FdFlags::empty()).unwrap();
    let holding = format!("flock -sF {} true", sandbox.path("latch").display());
    let script = format!("run=$({} 2>&1); echo \"$run\"", add(&sandbox, "a", &holding));
    let shell = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a/1\n");
    latch.keeps(1);
    let second = sandbox.queued("a", &noted(""));
    // (What this process has itself, the test runner's pipes among it.)
    let callers = descriptors(std::process::id());
    let (runner, waiter) = (sandbox.process_of("a/1").unwrap(), sandbox.process_of(&second).unwrap());
    let command = u32::try_from(latch.jobs()[0]).unwrap();
    for pid in [runner, waiter, command] {
        keeps_to_itself(&sandbox, pid, &callers);
        let of_callers = [file.as_raw_fd(), pipe.1.as_raw_fd()];
        for fd in of_callers {
            let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
            assert_ne!(target, fs::read_link(format!("/proc/self/fd/{fd}")).ok());
        }
        for fd in 0..3 {
            let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
            assert!(target == Path::new("/dev/null") || pid == command, "{fd} is {}", target.display());
        }
        assert_eq!(stat(pid, 4), 0, "it has a terminal");
    }
    assert_eq!(fs::read_link(format!("/proc/{command}/fd/0")).unwrap(), Path::new("/dev/null"));
    for pid in [runner, waiter] {
        assert_eq!(stat(pid, 3), i64::from(pid), "its session is another's");
    }
    latch.open();
    sandbox.ends(&second, 0);
}

/// What gives a run another process is a caller like any other, also when it has a terminal.
#[test]
fn a_resumed_run_leaves_its_caller_s_session_too() {
    if !machine::has("a_resumed_run_leaves_its_caller_s_session_too", &["script"]) {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.queue(["pause", "a"]).run().exits(0);
    let run = sandbox.queued("a", &noted("exec sleep 60"));
    let failed = sandbox.queued("a", "exit 3");
    sandbox.kills(&run);
    let in_terminal = |words: &str| {
        let command = format!("'{TRIPLOCK}' --state-dir '{}' queue {words}", sandbox.state_dir().display());
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).stdin(Stdio::null());
        let output = script.output().expect("start script");
        assert!(output.status.success(), "{output:?}");
    };
    in_terminal("resume a");
    eventually("it runs", || sandbox.order() == [number(&run)]);
    let pid = sandbox.process_of(&run).expect("it runs");
    for pid in children(pid).into_iter().chain([pid]) {
        assert_eq!(stat(pid, 4), 0, "it has a terminal");
    }
    assert_eq!(stat(pid, 3), i64::from(pid), "its session is another's");
    sandbox.triplock(["stop", "a"]).for_people().run().exits(0);
    sandbox.ends(&failed, 3);
    in_terminal(&format!("retry {failed}"));
    sandbox.ends("a/3", 3);
}

/// The leader of a terminal's session ends, and the kernel sends HUP to those in the foreground: `ssh -t host triplock queue add`.
#[test]
fn the_end_of_a_terminal_does_not_end_a_run_that_was_just_added_there() {
    let test = "the_end_of_a_terminal_does_not_end_a_run_that_was_just_added_there";
    if !machine::has(test, &["script", "taskset"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let allowed = status(std::process::id(), "Cpus_allowed_list");
    let processor: String = allowed.chars().take_while(char::is_ascii_digit).collect();
    for round in 0..30 {
        // On one processor, on which it goes on after the fork, and its child comes later.
        let command = format!("exec taskset -c {processor} {}", add(&sandbox, "a", "true"));
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::null());
        assert!(script.status().expect("start script").success());
        sandbox.ends(&format!("a/{}", round + 1), 0);
    }
}

#[test]
fn a_job_can_queue_another_behind_itself() {
    let sandbox = Sandbox::new();
    let script = format!("{} >added; echo 1 >>order", add(&sandbox, "a", "echo 2 >>order").replace('\'', "\""));
    let first = sandbox.queued("a", &script);
    sandbox.ends(&first, 0);
    assert_eq!(sandbox.written("added"), "a/2\n");
    sandbox.ends("a/2", 0);
    assert_eq!(sandbox.order(), [1, 2]);
    // Of the run that added it, it is no part.
    let told = "echo \"$TRIPLOCK_JOB $TRIPLOCK_RUN_ID $TRIPLOCK_ATTEMPT\" >>told";
    let script = format!(
        "{} >/dev/null",
        add(&sandbox, "b", told).replace('\'', "\"").replace("\"echo", "'echo").replace(">>told\"", ">>told'")
    );
    sandbox.ends(&sandbox.queued("a", &script), 0);
    sandbox.ends("b/1", 0);
    assert_eq!(sandbox.written("told"), "b 1 1\n");
}

/// As the command of a run that was added with standard input, output and error closed.
#[test]
fn a_caller_without_descriptors_can_add() {
    let sandbox = Sandbox::new();
    let script = format!("exec {} <&- >&- 2>&-", add(&sandbox, "a", "echo x"));
    Command::new("sh").args(["-c", &script]).status().expect("start a shell");
    eventually("it is over", || sandbox.jobs("a.jsonl").exists() && !sandbox.fates("a").is_empty());
    assert_eq!(sandbox.triplock(["logs", "a", "1"]).for_people().run().exits(0).stdout, "x\n");
}

#[test]
fn a_run_that_is_stopped_with_its_lane_held_up_goes_on_when_it_is_continued() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    latch_job(&sandbox, "a", &latch).run().exits(0);
    latch.keeps(1);
    let runs: Vec<_> = (0..3).map(|_| sandbox.queued("a", &noted(""))).collect();
    let pid = sandbox.process_of(&runs[1]).unwrap();
    sandbox.signal_run("a", number(&runs[1]), pid, rustix::process::Signal::STOP);
    eventually("it is stopped", || state(pid) == Some('T'));
    latch.open();
    sandbox.ends(&runs[0], 0);
    assert_eq!(sandbox.order(), [number(&runs[0])]);
    sandbox.signal_run("a", number(&runs[1]), pid, rustix::process::Signal::CONT);
    sandbox.ends(&runs[2], 0);
    assert_eq!(sandbox.order(), runs.iter().map(|run| number(run)).collect::<Vec<_>>());
}
