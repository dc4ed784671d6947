use std::{
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
};

use super::*;
use crate::dir::StateDir;

struct Place {
    jobs: Dir,
    job: Name,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let jobs = StateDir::open(dir.path(), true).unwrap().make_subdirectory("jobs").unwrap();
        Self { jobs, job: "nightly".parse().unwrap(), dir }
    }

    fn log(&self, run: u64, limit: u64) -> Log {
        Log::create(&self.jobs, &self.job, RunId(run), limit, None).unwrap()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("jobs/nightly.logs").join(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn printed(log: &mut Log) -> Vec<u8> {
    let mut text = Vec::new();
    log.print(&mut text).unwrap().unwrap();
    text
}

fn shell(log: &Log, script: &str) -> std::process::Child {
    let output = || Stdio::from(log.output().try_clone_to_owned().unwrap());
    Command::new("sh").args(["-c", script]).stdout(output()).stderr(output()).spawn().unwrap()
}

/// Bytes of which no two pieces are alike, NULs among them.
fn pattern(length: usize) -> Vec<u8> {
    (0..=length / 8).flat_map(|i| (i as u64).wrapping_mul(0x9e37).to_le_bytes()).take(length).collect()
}

#[test]
fn the_order_of_stdout_and_stderr_is_exact() {
    let place = Place::new();
    let mut log = place.log(1, 1 << 20);
    let script = "i=0; while [ $i -lt 500 ]; do echo $i; i=$((i+1)); echo $i >&2; i=$((i+1)); done";
    assert!(shell(&log, script).wait().unwrap().success());
    let expected: Vec<_> = (0..500).map(|i| i.to_string()).collect();
    assert_eq!(String::from_utf8(printed(&mut log)).unwrap().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn every_byte_under_the_limit_comes_through() {
    let place = Place::new();
    let mut log = place.log(1, 10 << 20);
    let text = pattern(10 << 20);
    log.file.write_all(&text).unwrap();
    log.limit.enforce(&log.logs, log.run, &log.file);
    assert!(printed(&mut log) == text, "not byte for byte");
    assert_eq!(place.names(), ["1.log"]);
}

#[test]
fn a_log_over_its_limit_keeps_its_ends() {
    let place = Place::new();
    let limit = 64 * 1024;
    let mut log = place.log(1, limit);
    let text = pattern(1 << 20);
    for piece in text.chunks(100_000) {
        log.file.write_all(piece).unwrap();
        log.limit.enforce(&log.logs, log.run, &log.file);
    }
    assert_eq!(log.limit.failure(), None);
    let metadata = fs::metadata(place.path("1.log")).unwrap();
    assert!(metadata.blocks() * 512 <= limit, "{} bytes of disk", metadata.blocks() * 512);
    let listed = log.logs.list().unwrap();
    let (kept, cut) = (listed[0].bytes, listed[0].cut);
    assert!(kept <= limit && kept > limit - 2 * 4096, "{kept} bytes kept");
    assert_eq!(kept + cut, 1 << 20);
    let marker = format!("[triplock: {cut} bytes cut here]\n").into_bytes();
    let head = &text[..32 * 1024];
    let tail = &text[text.len() - (usize::try_from(kept).unwrap() - head.len())..];
    let newline = if head.ends_with(b"\n") { &b""[..] } else { b"\n" };
    assert!(printed(&mut log) == [head, newline, &marker, tail].concat(), "head, marker and tail differ");
    log.finish(20, true).unwrap();
    assert_eq!(place.names(), ["1.cut", "1.log"]);
}

#[test]
fn tiny_limits() {
    for limit in [0, 1, 4095, 4096, 8191, 8192, 12_289] {
        let place = Place::new();
        let mut log = place.log(1, limit);
        let text = pattern(50_001);
        log.file.write_all(&text).unwrap();
        log.limit.enforce(&log.logs, log.run, &log.file);
        assert_eq!(log.limit.failure(), None);
        let LogFile { bytes, cut, .. } = log.logs.list().unwrap()[0];
        assert!(bytes <= limit && bytes + cut == 50_001, "{limit}: {bytes} kept, {cut} cut");
        let tail = &text[text.len() - usize::try_from(bytes).unwrap() % 4096..];
        assert!(printed(&mut log).ends_with(tail), "{limit}");
    }
}

#[test]
fn a_reader_of_a_log_that_is_cut_meanwhile_sees_no_nul() {
    let place = Place::new();
    let mut log = place.log(1, 256 * 1024);
    let mut child = shell(&log, "yes 0123456789abcdef | head -c 300000000");
    let logs = Logs::open(&place.jobs, &place.job).unwrap().unwrap();
    let mut reader = LogReader::open(&logs, RunId(1)).unwrap().unwrap();
    let mut seen = 0_u64;
    let mut marks = 0;
    let mut ended = false;
    while !ended {
        ended = child.try_wait().unwrap().is_some();
        // As often as can be, to be in the reader's way.
        log.limit.enforce(&log.logs, log.run, &log.file);
        let mut text = Vec::new();
        reader.copy(&mut text).unwrap().unwrap();
        assert!(!text.contains(&0), "a NUL that the job did not print");
        seen += text.len() as u64;
        marks += text.windows(10).filter(|part| part == b"[triplock:").count();
    }
    child.wait().unwrap();
    assert!(seen > 256 * 1024 && marks > 0, "nothing was cut: {seen} bytes, {marks} marks");
}

#[test]
fn a_chatty_job_does_not_wake_its_wrapper_for_every_write() {
    let place = Place::new();
    let mut log = place.log(1, 1 << 20);
    assert!(log.due().is_some() && log.watch().is_none(), "a short run is not watched");
    std::thread::sleep(limit::SHORT);
    log.enforce_limit();
    assert!(log.due().is_none() && log.watch().is_some(), "from then on it is");
    log.file.write_all(b"x").unwrap();
    log.enforce_limit();
    assert!(log.due().is_some() && log.watch().is_none(), "and then it rests");
    std::thread::sleep(log.due().unwrap());
    log.enforce_limit();
    assert!(log.due().is_none() && log.watch().is_some(), "until nothing more comes");
}

#[test]
fn a_job_that_truncates_its_log() {
    let place = Place::new();
    let mut log = place.log(1, 16 * 1024);
    log.file.write_all(&pattern(100_000)).unwrap();
    log.limit.enforce(&log.logs, log.run, &log.file);
    log.file.set_len(0).unwrap();
    log.file.write_all(b"afresh\n").unwrap();
    log.limit.enforce(&log.logs, log.run, &log.file);
    assert_eq!(printed(&mut log), b"afresh\n");
    let text = pattern(200_000);
    log.file.write_all(&text).unwrap();
    let shown = printed(&mut log);
    // The old cut is not one of the new text.
    assert!(shown.starts_with(b"afresh\n") && shown.ends_with(&text[text.len() - 4096..]));
    assert!(log.logs.list().unwrap()[0].bytes <= 16 * 1024);
}

#[test]
fn what_is_kept() {
    let place = Place::new();
    let mut numbers = Vec::new();
    for run in 1..=12 {
        let mut log = place.log(run * 3, 1 << 20);
        log.file.write_all(b"text").unwrap();
        log.finish(4, true).unwrap();
        numbers.push(run * 3);
    }
    assert_eq!(place.names(), ["27.log", "30.log", "33.log", "36.log"]);
    place.log(40, 1 << 20).finish(4, true).unwrap();
    assert_eq!(place.names().len(), 4, "an empty log of a success is removed");
    place.log(41, 1 << 20).finish(4, false).unwrap();
    assert_eq!(place.names(), ["30.log", "33.log", "36.log", "41.log"], "one of a failure is not");
    place.log(42, 1 << 20).finish(0, false).unwrap();
    assert_eq!(place.names(), Vec::<String>::new(), "0 keeps none");
}

#[test]
fn an_open_log_is_not_removed() {
    let place = Place::new();
    let log = place.log(1, 1 << 20);
    // A daemon that keeps its output and has printed nothing yet.
    let mut daemon = shell(&log, "exec sleep 60");
    log.finish(4, true).unwrap();
    assert_eq!(place.names(), ["1.log"], "empty, but a daemon has it");
    place.log(2, 1 << 20).finish(0, false).unwrap();
    assert_eq!(place.names(), ["1.log"], "surplus, but a daemon has it");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    place.log(3, 1 << 20).finish(0, false).unwrap();
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn a_log_of_a_run_that_nobody_knows_is_replaced() {
    let place = Place::new();
    let mut log = place.log(1, 4096);
    log.file.write_all(&pattern(100_000)).unwrap();
    log.finish(4, false).unwrap();
    assert_eq!(place.names(), ["1.cut", "1.log"]);
    let mut log = place.log(1, 4096);
    let text = vec![b'x'; 4096];
    log.file.write_all(&text).unwrap();
    assert_eq!(printed(&mut log), text);
    assert_eq!(place.names(), ["1.log"]);
}
