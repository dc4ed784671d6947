//! Jobs that say when they live, and what is known of them when all is over.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use serde_json::Value;

use crate::{
    field::Server,
    hosts::Host,
    operations::{JobHistory, Look, Moment, Recorded, RecordedEvent, Run, Stamp},
    sandbox::{Invocation, Running},
};

pub(crate) const JOB: &str = "nightly";

/// A job of two processes that stamp a file every few milliseconds: the command, and a child in a session of its own that
/// TERM does not end. The command ends it before it ends itself, so whoever ends the command alone is found out.
///
/// Arguments: the file, the tag of the stamps, and how many seconds it takes. (7 is `CLOCK_BOOTTIME`.)
const SCRIPT: &str = r#"
use strict; use Time::HiRes qw(clock_gettime sleep); use POSIX ();
my ($file, $tag, $seconds) = @ARGV;
open(my $to, '>>', $file) or die; open(STDOUT, '>', '/dev/null'); open(STDERR, '>', '/dev/null');
sub stamp { syswrite($to, sprintf("%s %s %.0f %d\n", $tag, $ENV{TRIPLOCK_FENCE}, clock_gettime(7) * 1e9, $_[0])) }
my $end = clock_gettime(7) + $seconds;
stamp(0);
my $child = fork();
if ($child == 0) {
  $SIG{TERM} = 'IGNORE'; POSIX::setsid();
  for (1 .. 6000) { sleep(0.008); stamp(0) }
  exit;
}
while (clock_gettime(7) < $end) { sleep(0.008); stamp(0) }
kill('KILL', $child); waitpid($child, 0);
stamp(1);
"#;

/// The file that they stamp, and what is noted about them meanwhile.
#[derive(Debug)]
pub(crate) struct Stamping {
    file: PathBuf,
    runs: Mutex<Vec<Run>>,
    looks: Mutex<Vec<Look>>,
}

/// A run that was started.
#[derive(Debug)]
pub(crate) struct StampingRun<'s> {
    of: &'s Stamping,
    host: String,
    pub(crate) tag: String,
    start: Moment,
    pub(crate) running: Running,
}

impl Stamping {
    /// With a file of that directory, which all hosts see.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { file: directory.join("stamps"), runs: Mutex::default(), looks: Mutex::default() }
    }

    /// `triplock run` of the job on that host with those options, for so many seconds.
    pub(crate) fn invocation(&self, host: &Host, tag: &str, options: &str, seconds: f64) -> Invocation {
        let words = ["run", JOB].into_iter().chain(options.split_whitespace()).chain(["--", "perl", "-e", SCRIPT]);
        host.triplock(words).arg(&self.file).arg(tag).arg(seconds.to_string())
    }

    /// Starts it.
    #[track_caller]
    pub(crate) fn start(&self, host: &Host, tag: &str, options: &str, seconds: f64) -> StampingRun<'_> {
        let start = Moment::now();
        let running = self.invocation(host, tag, options, seconds).start();
        StampingRun { of: self, host: host.name().to_owned(), tag: tag.to_owned(), start, running }
    }

    /// Every sign of life so far.
    pub(crate) fn stamps(&self) -> Vec<Stamp> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let stamp = |line: &str| {
            let mut words = line.split(' ');
            let mut next = || words.next().unwrap_or_else(|| panic!("no stamp: {line:?}"));
            Stamp {
                tag: next().to_owned(),
                fence: next().parse().expect("a fence"),
                at: Moment(next().parse().expect("a time")),
                is_end: next() == "1",
            }
        };
        text.lines().map(stamp).collect()
    }

    /// Whether a job of that tag has begun.
    pub(crate) fn has_begun(&self, tag: &str) -> bool {
        self.stamps().iter().any(|stamp| stamp.tag == tag)
    }

    /// Asks the server which fence is leased, again and again until it is over.
    pub(crate) fn look(&self, at: &Mutex<Vec<String>>, is_over: &AtomicBool) {
        while !is_over.load(Ordering::SeqCst) {
            let words = at.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let begin = Moment::now();
            // A server that is down says nothing.
            if let Some(held) = Server::leased(&words) {
                self.looks.lock().unwrap_or_else(PoisonError::into_inner).push(Look {
                    begin,
                    end: Moment::now(),
                    held,
                });
            }
            sleep(Duration::from_millis(40));
        }
    }

    /// Everything that is known.
    pub(crate) fn into_history(self, ledger: &[Value]) -> JobHistory {
        let stamps = self.stamps();
        let runs = self.runs.into_inner().unwrap_or_else(PoisonError::into_inner);
        let looks = self.looks.into_inner().unwrap_or_else(PoisonError::into_inner);
        JobHistory { runs, stamps, looks, ledger: ledger.iter().filter_map(recorded).collect() }
    }
}

impl StampingRun<'_> {
    /// Waits for its end; its exit code.
    #[track_caller]
    pub(crate) fn finish(self) -> Option<i32> {
        let finished = self.running.finish();
        let code = finished.code();
        if code == Some(125) {
            println!("{}: {}", self.tag, finished.stderr.trim());
        }
        let run = Run { host: self.host, tag: self.tag, start: self.start, end: Moment::now(), code };
        self.of.runs.lock().unwrap_or_else(PoisonError::into_inner).push(run);
        code
    }
}

/// A line of the ledger, as far as the rules want it.
fn recorded(line: &Value) -> Option<Recorded> {
    let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| line[key].as_u64().unwrap_or_default();
    let event = match line["event"].as_str()? {
        "started" => RecordedEvent::Started { fence: number("fence") },
        "ended" => RecordedEvent::Ended { fence: number("fence"), outcome: word("outcome") },
        "not_run" => RecordedEvent::NotRun { outcome: word("outcome") },
        _ => return None,
    };
    Some(Recorded { by: (word("host"), number("pid")), event })
}

/// How many runs came to what.
pub(crate) fn summary(history: &JobHistory) -> String {
    let mut codes = std::collections::BTreeMap::<String, usize>::new();
    for run in &history.runs {
        *codes.entry(run.code.map_or("killed".to_owned(), |code| format!("exit {code}"))).or_default() += 1;
    }
    let mut outcomes = std::collections::BTreeMap::<&str, usize>::new();
    for line in &history.ledger {
        if let RecordedEvent::Ended { outcome, .. } | RecordedEvent::NotRun { outcome } = &line.event {
            *outcomes.entry(outcome).or_default() += 1;
        }
    }
    let fences: BTreeSet<_> = history.stamps.iter().map(|stamp| stamp.fence).collect();
    format!(
        "{} runs {codes:?}; {} jobs with {} stamps; {} looks; recorded {outcomes:?}",
        history.runs.len(),
        fences.len(),
        history.stamps.len(),
        history.looks.len()
    )
}
