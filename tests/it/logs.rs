//! `logs`: what a run printed, byte for byte, while it runs and afterwards.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use rustix::{pipe::PipeFlags, process::Signal};
use serde_json::Value;

use crate::{
    machine,
    mount::{Disk, Kind, SmallDisk},
    sandbox::{Finished, Running, Sandbox, eventually},
};

/// A sandbox in which some runs have left logs.
fn with_logs(logs: &[(&str, &[u8])]) -> Sandbox {
    let sandbox = Sandbox::new();
    for (name, bytes) in logs {
        fs::create_dir_all(directory(&sandbox)).unwrap();
        fs::write(directory(&sandbox).join(name), bytes).unwrap();
    }
    if sandbox.state_dir().exists() {
        fs::set_permissions(sandbox.state_dir(), fs::Permissions::from_mode(0o700)).unwrap();
    }
    sandbox
}

fn directory(sandbox: &Sandbox) -> PathBuf {
    sandbox.state_dir().join("jobs/nightly.logs")
}

fn names(sandbox: &Sandbox) -> Vec<String> {
    let entries = fs::read_dir(directory(sandbox)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn capture(sandbox: &Sandbox, more: &[&str], script: &str) -> Finished {
    let run = [&["run", "nightly", "--output", "capture"], more, &["--", "sh", "-c", script]].concat();
    sandbox.triplock(run).run()
}

#[track_caller]
fn start(sandbox: &Sandbox, script: &str) -> Running {
    let run = sandbox.triplock(["run", "nightly", "--output", "capture", "--", "sh", "-c", script]).start();
    eventually("the job has printed", || {
        let logs = fs::read_dir(directory(sandbox)).into_iter().flatten().flatten();
        logs.into_iter().any(|log| log.metadata().is_ok_and(|metadata| metadata.len() > 0))
    });
    run
}

#[test]
fn the_newest_log_or_the_one_that_was_asked_for() {
    let sandbox =
        with_logs(&[("9.log", b"nine\n"), ("10.log", b"ten\n"), ("x.log", b"no log"), ("010.log", b"nor this")]);
    assert_eq!(sandbox.triplock(["logs", "nightly"]).run().exits(0).stdout, "ten\n");
    assert_eq!(sandbox.triplock(["logs", "nightly", "9"]).run().exits(0).stdout, "nine\n");
    assert_eq!(sandbox.triplock(["logs", "nightly", "-f"]).run().exits(0).stdout, "ten\n", "nothing runs");
    let missing = sandbox.triplock(["logs", "nightly", "8"]).fails(66);
    assert_eq!((missing["error"].as_str(), missing["run"].as_u64()), (Some("no_such_log"), Some(8)), "{missing}");
    assert!(missing["message"].as_str().unwrap().contains("those of 10, 9"), "{missing}");
}

#[test]
fn no_log_is_an_error_that_says_so() {
    let sandbox = Sandbox::new();
    sandbox.triplock(["logs", "nightly"]).fails(66);
    assert!(!sandbox.state_dir().exists(), "a look makes nothing");
    let sandbox = with_logs(&[("1.log", b"text")]);
    sandbox.triplock(["logs", "daily"]).fails(66);
    sandbox.triplock(["logs", "nightly", "-1"]).fails(64);
    sandbox.triplock(["logs", "nightly", "--list", "-f"]).fails(64);
    sandbox.triplock(["logs", "../nightly"]).fails(64);
}

#[test]
fn binary_output_comes_through() {
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let sandbox = with_logs(&[("1.log", &bytes)]);
    let to = sandbox.path("copy");
    sandbox.triplock(["logs", "nightly"]).stdout(fs::File::create(&to).unwrap()).run().exits(0);
    assert!(fs::read(&to).unwrap() == bytes, "not byte for byte");
}

#[test]
fn the_list_tells_runs_and_sizes() {
    let cut = r#"{"format":1,"inode":0,"from":0,"to":4096,"checksum":0}"#;
    let sandbox = with_logs(&[("9.log", b"nine\n"), ("10.log", b""), ("9.cut", cut.as_bytes())]);
    let listed = sandbox.triplock(["logs", "nightly", "--list"]).run();
    let lines: Vec<Value> = listed.exits(0).stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = [(9, 5), (10, 0)]
        .map(|(run, bytes)| serde_json::json!({"format": 1, "job": "nightly", "run": run, "bytes": bytes, "cut": 0}));
    assert_eq!(lines, expected, "a cut that is not this log's is none");
}

#[test]
fn what_was_planted_is_refused() {
    let sandbox = with_logs(&[("1.log", b"text")]);
    std::os::unix::fs::symlink("/etc/passwd", directory(&sandbox).join("2.log")).unwrap();
    sandbox.triplock(["logs", "nightly"]).fails(65);
    fs::write(directory(&sandbox).join("1.cut"), r#"{"format":9,"inode":0,"from":0,"to":4096,"checksum":0}"#).unwrap();
    sandbox.triplock(["logs", "nightly", "1"]).fails(78);
}

#[test]
fn a_closed_pipe_is_a_normal_end() {
    let sandbox = with_logs(&[("1.log", &vec![b'x'; 1 << 20])]);
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    let printing = sandbox.triplock(["logs", "nightly"]).stdout(Stdio::from(writer)).start();
    fs::File::from(reader).read_exact(&mut [0; 10]).unwrap();
    printing.finish().exits(0);
}

#[test]
fn captured_output_keeps_its_order_and_is_private() {
    let sandbox = Sandbox::new();
    let run = capture(&sandbox, &[], "for i in 1 2 3 4 5 6 7 8 9; do echo $i; echo $i >&2; done; exit 3");
    assert_eq!(run.exits(3).stdout, "", "it is captured");
    let expected: Vec<_> = (1..10).flat_map(|i| [i.to_string(), i.to_string()]).collect();
    let printed = sandbox.triplock(["logs", "nightly"]).run();
    assert_eq!(printed.exits(0).stdout.lines().collect::<Vec<_>>(), expected);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(directory(&sandbox)), mode(directory(&sandbox).join("1.log"))), (0o700, 0o600));
}

#[test]
fn what_comes_after_the_commands_end_is_not_lost() {
    let sandbox = Sandbox::new();
    let go = sandbox.path("go");
    let script = format!(
        "(while ! [ -e {} ] && [ $((i += 1)) -lt 6000 ]; do sleep 0.01; done; echo late) & echo early",
        go.display()
    );
    capture(&sandbox, &[], &script).exits(0);
    assert_eq!(sandbox.triplock(["logs", "nightly"]).run().exits(0).stdout, "early\n");
    fs::write(&go, "").unwrap();
    eventually("what the daemon printed is there", || {
        sandbox.triplock(["logs", "nightly"]).run().exits(0).stdout == "early\nlate\n"
    });
}

/// Runs a job that prints 6,888,896 bytes, and keeps 65,536.
#[track_caller]
fn capture_numbers(sandbox: &Sandbox) -> String {
    let config = sandbox.path("triplock.toml");
    let job = "[jobs.nightly]\ncommand = [\"seq\", \"1000000\"]\noutput = \"capture\"\nlog_limit = 65536\n";
    fs::write(&config, job).unwrap();
    sandbox.triplock(["run", "nightly", "--allow-network-fs", "--config"]).arg(&config).run().exits(0);
    sandbox.triplock(["logs", "nightly", "--allow-network-fs"]).run().exits(0).stdout.clone()
}

#[track_caller]
fn has_its_ends(sandbox: &Sandbox, text: &str) {
    assert!(text.starts_with("1\n2\n3\n") && text.ends_with("\n999999\n1000000\n") && text.len() < 66_000);
    let marks: Vec<_> = text.lines().filter(|line| line.starts_with("[triplock: ")).collect();
    let cut = 6_888_896 - (text.len() - marks[0].len() - 1);
    let near = [cut, cut + 1].map(|cut| format!("[triplock: {cut} bytes cut here]"));
    assert!(marks.len() == 1 && near.iter().any(|mark| mark == marks[0]), "{marks:?} is not {near:?}");
    let blocks = fs::metadata(directory(sandbox).join("1.log")).unwrap().blocks();
    assert!(blocks * 512 <= 65_536 + 4096, "{blocks} blocks");
}

#[test]
fn the_middle_of_a_long_log_is_cut() {
    let sandbox = Sandbox::new();
    let text = capture_numbers(&sandbox);
    has_its_ends(&sandbox, &text);
}

#[test]
fn it_is_cut_on_every_file_system_that_can_and_said_on_one_that_cannot() {
    let test = "logs::it_is_cut_on_every_file_system_that_can_and_said_on_one_that_cannot";
    for kind in [Kind::Ext4, Kind::Xfs] {
        if machine::may_mount(test) && machine::has(test, &[kind.mkfs()]) {
            let disk = Disk::new(kind);
            let sandbox = Sandbox::new().with_state(disk.point().join("state"));
            let output = capture_numbers(&sandbox);
            has_its_ends(&sandbox, &output);
        }
    }
    if machine::may_mount(test) {
        let disk = SmallDisk::new("size=16m");
        let sandbox = Sandbox::new().with_state(disk.point().join("state"));
        let output = capture_numbers(&sandbox);
        has_its_ends(&sandbox, &output);

        let disk = SmallDisk::that_cannot_punch();
        let sandbox = Sandbox::new().with_state(disk.point().join("state"));
        let output = capture_numbers(&sandbox);
        let (printed, said) = output.rsplit_once("\n\n").expect("a line of its own at the end");
        assert_eq!(printed.len(), 6_888_896 - 1, "all of it is there");
        assert!(
            said.starts_with("[triplock: the log is over its limit: ") && said.contains("cannot give back"),
            "{said}"
        );
        assert_eq!(output.matches("[triplock").count(), 1);
    }
}

#[test]
fn a_full_disk_is_the_jobs_own_business() {
    let test = "logs::a_full_disk_is_the_jobs_own_business";
    if !machine::may_mount(test) {
        return;
    }
    let disk = SmallDisk::new("size=1m");
    let sandbox = Sandbox::new().with_state(disk.point().join("state"));
    capture(&sandbox, &[], "true").exits(0);
    let run = capture(&sandbox, &[], "head -c 4000000 /dev/zero 2>/dev/null; echo $?; exit 5");
    assert_eq!(run.code(), Some(5), "the job goes on, and its own end is what counts");
}

#[test]
fn only_the_newest_logs_are_kept_and_empty_ones_of_successes_are_not() {
    let sandbox = Sandbox::new();
    for _ in 0..5 {
        capture(&sandbox, &["--keep-runs", "3"], "echo text").exits(0);
    }
    capture(&sandbox, &["--keep-runs", "3"], "true").exits(0);
    assert_eq!(names(&sandbox), ["3.log", "4.log", "5.log"]);
    capture(&sandbox, &["--keep-runs", "3"], "false").exits(1);
    assert_eq!(names(&sandbox), ["4.log", "5.log", "7.log"]);
    capture(&sandbox, &["--keep-runs", "0"], "echo text").exits(0);
    assert_eq!(names(&sandbox), Vec::<String>::new());
}

#[test]
fn following_ends_with_the_run_and_misses_nothing() {
    let sandbox = Sandbox::new();
    let go = sandbox.path("go");
    let script = format!(
        "echo begin; while ! [ -e {} ] && [ $((i += 1)) -lt 6000 ]; do sleep 0.01; done; seq 100000; printf 'no newline'",
        go.display()
    );
    let run = start(&sandbox, &script);
    let following = sandbox.triplock(["logs", "nightly", "-f"]).start();
    // It is not over before the run is.
    std::thread::sleep(Duration::from_millis(700));
    fs::write(&go, "").unwrap();
    let text: Vec<_> = std::iter::once("begin".to_owned())
        .chain((1..=100_000).map(|i| i.to_string()))
        .chain(["no newline".to_owned()])
        .collect();
    assert_eq!(following.finish().exits(0).stdout, text.join("\n"));
    run.finish().exits(0);
}

#[test]
fn following_ends_when_the_wrapper_and_its_job_are_killed() {
    let sandbox = Sandbox::new();
    let go = sandbox.path("go");
    let run = start(
        &sandbox,
        &format!(
            "echo begin; while ! [ -e {} ] && [ $((i += 1)) -lt 6000 ]; do sleep 0.01; done; echo end",
            go.display()
        ),
    );
    run.kill();
    run.finish();
    let following = sandbox.triplock(["logs", "nightly", "-f"]).start();
    std::thread::sleep(Duration::from_millis(700));
    fs::write(&go, "").unwrap();
    assert_eq!(following.finish().exits(0).stdout, "begin\nend\n", "the job lived on, and then there was nobody");
}

#[test]
fn ctrl_c_and_a_closed_pipe_end_following() {
    let sandbox = Sandbox::new();
    let run = start(&sandbox, "echo begin; exec sleep 60");
    let following = sandbox.triplock(["logs", "nightly", "-f"]).start();
    std::thread::sleep(Duration::from_millis(100));
    following.signal(Signal::INT);
    assert_eq!(following.finish().code(), None, "INT means what it always means");
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    let following = sandbox.triplock(["logs", "nightly", "-f"]).stdout(Stdio::from(writer)).start();
    let mut reader = fs::File::from(reader);
    reader.read_exact(&mut [0; 6]).unwrap();
    drop(reader);
    following.finish().exits(0);
    run.signal(Signal::TERM);
    run.finish();
}
