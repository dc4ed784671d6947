//! A job's ledger as anybody can read it, and what must hold of every one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use serde_json::Value;

use crate::sandbox::Sandbox;

/// All lines, the oldest first.
#[derive(Debug)]
pub(crate) struct JobLedger {
    pub(crate) lines: Vec<Value>,
}

/// The ledger's path.
pub(crate) fn path(sandbox: &Sandbox, job: &str) -> PathBuf {
    sandbox.state_dir().join(format!("jobs/{job}.jsonl"))
}

/// A line with another checksum: what somebody wrote who knows how.
pub(crate) fn sealed(line: &str) -> String {
    let (body, _) = line.rsplit_once(",\"crc\":").expect("a line with a checksum");
    format!("{body},\"crc\":\"{:08x}\"}}", crc32fast::hash(body.as_bytes()))
}

impl JobLedger {
    /// Every line is readable, and as it was written.
    #[track_caller]
    pub(crate) fn read(sandbox: &Sandbox, job: &str) -> Self {
        let (ledger, bad_lines) = Self::read_torn(sandbox, job);
        assert_eq!(bad_lines, 0, "{ledger:#?}");
        ledger
    }

    /// The lines that are whole, and how many are not: what a power cut leaves.
    #[track_caller]
    pub(crate) fn read_torn(sandbox: &Sandbox, job: &str) -> (Self, usize) {
        let files = [sandbox.state_dir().join(format!("jobs/{job}.old")), path(sandbox, job)];
        let bytes: Vec<u8> = files.iter().flat_map(|file| fs::read(file).unwrap_or_default()).collect();
        let text = String::from_utf8_lossy(&bytes);
        let (whole, bad): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.contains(",\"crc\":") && sealed(line) == **line);
        let read = |line: &&str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        (Self { lines: whole.iter().map(read).collect() }, bad.len())
    }

    /// The lines of that kind.
    pub(crate) fn events(&self, event: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["event"] == event).collect()
    }

    /// What became of every run and non-run that is over, in the order of their ends.
    pub(crate) fn outcomes(&self) -> Vec<&str> {
        self.ends().map(|line| line["outcome"].as_str().expect("an outcome")).collect()
    }

    /// How often that came out.
    pub(crate) fn count(&self, outcome: &str) -> usize {
        self.outcomes().into_iter().filter(|other| *other == outcome).count()
    }

    /// Where the first line of that kind about that run stands.
    pub(crate) fn position(&self, event: &str, run: u64) -> Option<usize> {
        self.lines.iter().position(|line| line["event"] == event && line["run"] == run)
    }

    fn ends(&self) -> impl Iterator<Item = &Value> {
        self.lines
            .iter()
            .filter(|line| line["event"] == "not_run" || (line["event"] == "ended" && line.get("again").is_none()))
    }

    /// What must hold when nothing of the job runs: run ids without a gap, one end to each start, fences that grow, and
    /// the last line's sums say just that.
    #[track_caller]
    pub(crate) fn judge(&self) {
        let mut last_run = 0;
        let mut last_fence = 0;
        let mut open = BTreeSet::new();
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for line in &self.lines {
            let run = line["run"].as_u64().expect("every line is about a run");
            let is_new = line["event"] == "not_run" || (line["event"] == "started" && line["attempt"] == 1);
            if is_new {
                assert_eq!(run, last_run + 1, "a run id is missing or doubled: {line}");
                last_run = run;
            }
            match line["event"].as_str().expect("an event") {
                "started" if is_new => {
                    let fence = line["fence"].as_u64().expect("a fence");
                    assert!(fence > last_fence, "a fence came again: {line}");
                    last_fence = fence;
                    open.insert(run);
                }
                "started" | "end_requested" => assert!(open.contains(&run), "of a run that is over: {line}"),
                "ended" if line.get("again").is_some() => assert!(open.contains(&run), "{line}"),
                "ended" => assert!(open.remove(&run), "an end without a start, or a second one: {line}"),
                "not_run" => {}
                other => panic!("unknown event {other}: {line}"),
            }
        }
        for end in self.ends() {
            *counts.entry(end["outcome"].as_str().expect("an outcome")).or_default() += 1;
        }
        assert!(open.is_empty(), "runs without an end: {open:?}");
        let totals = &self.lines.last().expect("it has lines")["totals"];
        assert_eq!(totals["last_run"], last_run, "{totals}");
        assert_eq!(totals["fence"], last_fence, "{totals}");
        assert_eq!(totals["counts"], serde_json::to_value(&counts).unwrap(), "{totals}");
        assert_eq!(totals.get("running"), None, "{totals}");
    }
}
