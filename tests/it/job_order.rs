//! When a run's lines reach the disk, as strace sees it: one sync for a short run, one before the command when its
//! fence is not reserved, one while a long command runs; and kill -9 at every call between.

use std::{ffi::OsString, fs, os::unix::process::ExitStatusExt as _};

use crate::{
    job_lines::JobLedger,
    latch::{Latch, run, shell},
    machine,
    sandbox::{Sandbox, eventually},
    strace::{self, Call},
};

/// Runs a command that ends at once, traced.
fn short(sandbox: &Sandbox) -> Vec<Call> {
    let trace = sandbox.path("trace");
    // The fewer calls stop the command, the sooner it ends.
    let few = ["-e", "trace=execve,fdatasync,write,pwrite64", "--seccomp-bpf"];
    run(sandbox, "j", "", ["true"]).under(strace::tracing(&trace, &few)).run().exits(0);
    strace::calls(&trace)
}

fn syncs(calls: &[Call]) -> Vec<usize> {
    (0..calls.len()).filter(|at| calls[*at].is("fdatasync", ".jsonl>") && calls[*at].succeeded()).collect()
}

fn command(calls: &[Call]) -> usize {
    let executed = |call: &Call| call.is("execve", "/true\", ") && call.succeeded();
    calls.iter().position(executed).unwrap_or_else(|| panic!("nothing was executed: {calls:#?}"))
}

fn written(calls: &[Call], event: &str) -> usize {
    let line =
        |call: &Call| call.name.contains("write") && call.text.contains(&format!("\\\"event\\\":\\\"{event}\\\""));
    calls.iter().position(line).unwrap_or_else(|| panic!("no line says {event}: {calls:#?}"))
}

fn may_trace(test: &str) -> bool {
    machine::may_trace(test) && unique_mount_ids(test)
}

/// Without them every start is synced before its command.
pub(crate) fn unique_mount_ids(test: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("read the kernel's release");
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if version < (6, 8) {
        machine::skip(test, &format!("Linux {release} has no unique mount ids, which 6.8 brought"));
    }
    version >= (6, 8)
}

#[test]
fn a_short_run_syncs_once_and_only_the_first_before_its_command() {
    if !may_trace("one sync for a short run") {
        return;
    }
    let sandbox = Sandbox::new();
    let first = short(&sandbox);
    assert!(written(&first, "started") < syncs(&first)[0] && syncs(&first)[0] < command(&first), "{first:#?}");
    let (mut unsynced, mut once) = (0, 0);
    for _ in 2..=64 {
        let calls = short(&sandbox);
        let syncs = syncs(&calls);
        // Traced, on a busy machine, a command may well begin or end a millisecond later, when the late sync is due.
        unsynced += u32::from(command(&calls) < syncs[0]);
        assert!(written(&calls, "started") < command(&calls), "{calls:#?}");
        assert!(written(&calls, "ended") < *syncs.last().unwrap(), "it answered without a sync: {calls:#?}");
        once += u32::from(syncs.len() == 1);
    }
    assert!(unsynced > 0, "all of 63 starts were synced before their command, though their fences were reserved");
    assert!(once > 0, "none of 63 short runs synced once");
    let used_up = short(&sandbox);
    assert!(syncs(&used_up)[0] < command(&used_up), "{used_up:#?}");
    assert!(syncs(&short(&sandbox))[0] > 0);
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    let fences: Vec<_> = ledger.events("started").iter().map(|line| line["fence"].as_u64().unwrap()).collect();
    assert_eq!(fences, (1..=66).collect::<Vec<_>>(), "without a crash no number is left out");
}

/// A power cut must not make it one that waits still, which would be started again.
#[test]
fn a_queued_run_is_on_disk_before_its_command_though_its_fence_is_reserved() {
    if !may_trace("a queued run is on disk before its command") {
        return;
    }
    let sandbox = Sandbox::new();
    for _ in 0..3 {
        let trace = sandbox.path("trace");
        // Which ends when all that it started has ended.
        sandbox.queue(["add", "j", "--", "true"]).under(strace::tracing(&trace, &[])).run().exits(0);
        let calls = strace::calls(&trace);
        let (start, command) = (written(&calls, "started"), command(&calls));
        let between = syncs(&calls).into_iter().filter(|sync| (start..command).contains(sync)).count();
        assert_eq!(between, 1, "{calls:#?}");
    }
    // Each process of them sees that the disk is this machine's own, and so makes use of what the first has reserved.
    let ledger = JobLedger::read(&sandbox, "j");
    let reserved = ledger.events("started").iter().filter(|line| line.get("reserved").is_some()).count();
    assert_eq!(reserved, 1, "{:#?}", ledger.lines);
}

#[test]
fn a_long_run_is_on_disk_while_it_runs() {
    if !may_trace("a long run is on disk while it runs") {
        return;
    }
    let sandbox = Sandbox::new();
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    let latch = Latch::closed(&sandbox, "latch");
    let trace = sandbox.path("trace");
    let running = run(&sandbox, "j", "", latch.command()).under(strace::tracing(&trace, &[])).start();
    latch.keeps(1);
    eventually("the start is synced", || !syncs(&strace::calls(&trace)).is_empty());
    latch.open();
    running.finish().exits(0);
    let calls = strace::calls(&trace);
    let synced = syncs(&calls);
    assert_eq!(synced.len(), 2, "{calls:#?}");
    assert!(synced[0] < written(&calls, "ended") && written(&calls, "ended") < synced[1], "{calls:#?}");
}

#[test]
fn a_start_is_synced_before_the_pause_that_follows_it() {
    if !may_trace("a start is synced before a pause") {
        return;
    }
    let sandbox = Sandbox::new();
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    let trace = sandbox.path("trace");
    let options = "--retries 1 --retry-delay 600";
    let running = run(&sandbox, "j", options, ["false"]).under(strace::tracing(&trace, &[])).start();
    eventually("the start is synced", || {
        fs::metadata(&trace).is_ok_and(|file| file.len() > 0) && !syncs(&strace::calls(&trace)).is_empty()
    });
    // KILL ends the tracer alone, and what it traced goes on.
    let traced = *crate::job::children(running.id()).first().expect("strace runs it");
    drop(running);
    drop(sandbox);
    assert!(!crate::job::is_alive(traced), "left behind: {}", crate::job::command_line(traced));
}

#[test]
fn a_slow_disk_delays_no_limit() {
    if !may_trace("a slow disk delays no limit") {
        return;
    }
    let sandbox = Sandbox::new();
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    let latch = Latch::closed(&sandbox, "latch");
    let trace = sandbox.path("trace");
    let slow = strace::tracing(&trace, &["-tt", "-e", "inject=fdatasync:delay_enter=3000000"]);
    let finished = run(&sandbox, "j", "--time-limit 0.2", latch.command()).under(slow).run();
    finished.exits(124);
    let ledger = JobLedger::read(&sandbox, "j");
    let duration = ledger.lines.last().unwrap()["duration"].as_f64().unwrap();
    assert!((0.2..2.0).contains(&duration), "it took {duration} s");
    assert!(finished.took.as_secs() >= 3, "the disk was not slow: {:?}", finished.took);
}

#[test]
fn a_failed_sync_of_the_start_is_told_and_the_next_start_trusts_no_mark() {
    if !may_trace("a failed sync of the start") {
        return;
    }
    let sandbox = Sandbox::new();
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    let trace = sandbox.path("trace");
    let failing = strace::tracing(&trace, &["-e", "inject=fdatasync:error=EIO:when=1"]);
    let finished = run(&sandbox, "j", "", ["sleep", "0.2"]).under(failing).run();
    finished.exits(0);
    if !finished.stderr.contains("the start of run 2 may not be recorded: ") {
        finished.complain("expected a warning");
    }
    let next = short(&sandbox);
    assert!(syncs(&next)[0] < command(&next), "{next:#?}");
    let ledger = JobLedger::read(&sandbox, "j");
    assert_eq!(ledger.events("started")[2]["fence"], 65);
}

/// The wrapper alone: what its command calls is not counted.
fn wrapper(trace: &std::path::Path, more: &[&str]) -> Vec<OsString> {
    let words = strace::tracing(trace, more).into_iter().filter(|word| word != "-f");
    words.collect()
}

/// Kills a run at each of its calls that touch files, after so many runs; no fence is shown twice.
fn kill_at_every_call(name: &str, before: usize) {
    if !may_trace(name) {
        return;
    }
    let sandbox = Sandbox::new();
    let start = sandbox.path("start");
    fs::create_dir(&start).unwrap();
    let shown = sandbox.path("shown");
    let show = || shell(&format!("echo $TRIPLOCK_FENCE >>'{}'", shown.display()));
    for _ in 0..before {
        run(&sandbox, "j", "", show()).run().exits(0);
    }
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let done = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
        assert!(done.success());
    };
    if before > 0 {
        copy(sandbox.state_dir(), &start);
    }
    let trace = sandbox.path("trace");
    run(&sandbox, "j", "", show()).under(wrapper(&trace, &[])).run().exits(0);
    // A strace without -f prints no process ids.
    let calls = fs::read_to_string(&trace).unwrap();
    let numbered: Vec<_> = calls.lines().map(|line| format!("1 {line}\n")).collect();
    fs::write(&trace, numbered.concat()).unwrap();
    let calls: Vec<_> = strace::calls(&trace).into_iter().filter(Call::touches_files).collect();
    assert!(calls.iter().any(|call| call.is("pwrite64", ".commit>")), "it left no mark: {calls:#?}");
    for call in calls {
        // In place, so that `NAME.commit` stays the inode that a mark in it names.
        if before == 0 {
            let _ = fs::remove_dir_all(sandbox.state_dir());
        } else {
            let jobs = sandbox.state_dir().join("jobs");
            for name in ["j.jsonl", "j.commit", "j.lock"] {
                fs::write(jobs.join(name), fs::read(start.join("jobs").join(name)).unwrap()).unwrap();
            }
        }
        fs::write(&shown, "").unwrap();
        let inject = format!("inject={}:signal=KILL:when={}", call.name, call.nth);
        let killed = run(&sandbox, "j", "", show()).under(wrapper(&trace, &["-e", &inject])).run();
        assert!(killed.status.signal().is_some(), "it was to be killed at {}", call.text);
        for _ in 0..3 {
            run(&sandbox, "j", "-w 10", show()).run().exits(0);
        }
        let fences = fs::read_to_string(&shown).unwrap();
        let fences: Vec<u64> = fences.lines().map(|line| line.parse().unwrap()).collect();
        assert!((3..=4).contains(&fences.len()), "{fences:?} after a kill at {}", call.text);
        assert!(fences.windows(2).all(|pair| pair[0] < pair[1]), "{fences:?} after a kill at {}", call.text);
        assert!(fences[0] > before as u64, "{fences:?} after a kill at {}", call.text);
        JobLedger::read_torn(&sandbox, "j").0.judge();
    }
}

#[test]
fn a_kill_at_any_call_of_the_first_run_repeats_no_fence() {
    kill_at_every_call("kill at any call of a first run", 0);
}

#[test]
fn a_kill_at_any_call_of_the_run_that_reserves_anew_repeats_no_fence() {
    kill_at_every_call("kill at any call of a run that reserves", 64);
}

/// A mark of a newer triplock is not written over.
#[test]
fn a_newer_mark_is_refused_and_left_alone() {
    let sandbox = Sandbox::new();
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    let commit = sandbox.state_dir().join("jobs/j.commit");
    let newer = crate::job_lines::sealed("{\"format\":2,\"news\":[],\"crc\":\"\"}");
    fs::write(&commit, &newer).unwrap();
    run(&sandbox, "j", "", ["true"]).run().fails(125);
    assert_eq!(fs::read_to_string(&commit).unwrap(), newer);
    // Whatever else is there is no mark.
    for garbage in ["", "garbage", "{}"] {
        fs::write(&commit, garbage).unwrap();
        run(&sandbox, "j", "", ["true"]).run().exits(0);
    }
    JobLedger::read(&sandbox, "j").judge();
}
