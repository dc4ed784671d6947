//! A job's ledger written by hand, with the times and the processes that a test wants: what `run` would have left.

use std::{fs, path::PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use triplock::{
    job::{EndRequest, Ended, Entry, Event, NotRun, Outcome, Request, RunId, Started, Totals},
    lock::{Fence, Holder},
};

use crate::sandbox::Sandbox;

/// A ledger in the making.
pub(crate) struct Script {
    path: PathBuf,
    totals: Totals,
    lines: Vec<u8>,
    pub(crate) now: DateTime<Utc>,
    pub(crate) pid: u32,
    pub(crate) boot: String,
    pub(crate) pid_namespace: u64,
}

impl Script {
    /// Of a job of that sandbox; its time begins an hour ago.
    pub(crate) fn new(sandbox: &Sandbox, job: &str) -> Self {
        use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
        let jobs = sandbox.state_dir().join("jobs");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&jobs).expect("make jobs/");
        Self {
            path: jobs.join(format!("{job}.jsonl")),
            totals: Totals::default(),
            lines: Vec::new(),
            now: Utc::now() - TimeDelta::hours(1),
            pid: std::process::id(),
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot id").trim_end().to_owned(),
            pid_namespace: fs::metadata("/proc/self/ns/pid").expect("pid namespace").ino(),
        }
    }

    pub(crate) fn later(mut self, seconds: i64) -> Self {
        self.now += TimeDelta::seconds(seconds);
        self
    }

    fn write(mut self, event: Event) -> Self {
        let entry = Entry { time: self.now, host: "testhost".to_owned(), pid: self.pid, invocation_id: None, event };
        self.totals = self.totals.after(&entry);
        let mut line = serde_json::to_value(&entry).expect("plain data");
        line["totals"] = serde_json::to_value(&self.totals).expect("plain data");
        let Value::Object(fields) = line else { panic!("an entry is an object") };
        // The format stands first.
        let rest = serde_json::to_string(&fields).expect("plain data");
        let body = format!("{{\"format\":1,{}", &rest[1..rest.len() - 1]);
        let crc = crc32fast::hash(body.as_bytes());
        self.lines.extend_from_slice(format!("{body},\"crc\":\"{crc:08x}\"}}\n").as_bytes());
        self
    }

    pub(crate) fn start(self, slot: u32) -> Self {
        let run = self.totals.next_run();
        self.attempt(run, 1, slot)
    }

    pub(crate) fn attempt(self, run: RunId, attempt: u32, slot: u32) -> Self {
        let (boot, pid_namespace) = (self.boot.clone(), self.pid_namespace);
        self.write(Event::Started(Started {
            run,
            attempt,
            fence: Fence(run.0),
            slot,
            wait: 0.5,
            command: "sleep 9".to_owned(),
            boot,
            pid_namespace,
            file: None,
            reserved: 0,
            lease: None,
            tick: None,
            queued: false,
        }))
    }

    /// The end of that run's attempt, which took so many seconds of the script's time.
    pub(crate) fn end(self, run: u64, outcome: Outcome, exit: Option<u8>) -> Self {
        self.end_of_attempt(run, 1, outcome, exit, false)
    }

    pub(crate) fn end_of_attempt(
        self,
        run: u64,
        attempt: u32,
        outcome: Outcome,
        exit: Option<u8>,
        again: bool,
    ) -> Self {
        let start = self.totals.running.iter().find(|running| running.run.0 == run).map_or(self.now, |r| r.start);
        let signal = if exit.is_none() { Some(9) } else { None };
        #[allow(clippy::cast_precision_loss)]
        let duration = (self.now - start).num_milliseconds() as f64 / 1000.0;
        self.write(Event::Ended(Ended {
            run: RunId(run),
            attempt,
            outcome,
            again,
            exit,
            signal,
            code: None,
            start,
            duration,
            user: 0.25,
            system: 0.125,
            peak_memory: 2 * 1024 * 1024,
            fence: Fence(run),
            wait: 0.5,
            reason: None,
        }))
    }

    pub(crate) fn skip(self) -> Self {
        let holder = Holder {
            pid: 4711,
            host: "testhost".to_owned(),
            since: self.now,
            command: "triplock run \u{1b}[31m nightly".to_owned(),
            fence: Fence(1),
        };
        let run = self.totals.next_run();
        self.write(Event::NotRun(NotRun {
            run,
            outcome: Outcome::Skipped,
            reason: "locked".to_owned(),
            holder: Some(holder),
            wait: 0.0,
            command: "sleep 9".to_owned(),
            queued: false,
        }))
    }

    pub(crate) fn ask_for_end(self, run: u64, request: Request) -> Self {
        self.write(Event::EndRequested(EndRequest { run: RunId(run), request }))
    }

    /// Puts what was written aside, as a rotation does.
    pub(crate) fn rotate(mut self) -> Self {
        fs::write(self.path.with_extension("old"), std::mem::take(&mut self.lines)).expect("write a ledger");
        self
    }

    pub(crate) fn finish(self) {
        fs::write(&self.path, &self.lines).expect("write a ledger");
    }
}

/// What a command printed as JSON Lines.
pub(crate) fn lines(stdout: &str) -> Vec<Value> {
    stdout
        .lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert_eq!(value["format"], json!(1), "{line}");
            value
        })
        .collect()
}
