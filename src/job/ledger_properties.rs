//! The ledger against the list of all that was given to it, whatever is torn off, put aside or done at once.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    EndRequest, Ended, Entry, Event, JobFiles, JobLedger, NotRun, Outcome, Queued, Request, RunId, Started, Stranded,
    Totals, remains,
};
use crate::{
    clock::{Clock as _, SystemClock},
    dir::StateDir,
    error::Error,
    lock::{Fence, Identity},
};

/// A directory with the ledger of one job.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn files(&self) -> JobFiles {
        let state = StateDir::open(self.0.path(), false).unwrap();
        JobFiles::new(JobFiles::make_directory(&state).unwrap(), "nightly".parse().unwrap())
    }

    fn ledger(&self) -> JobLedger {
        JobLedger::new(self.files(), Arc::new(Identity::current()), Arc::new(SystemClock))
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.0.path().join(format!("jobs/nightly.{suffix}"))
    }

    /// All entries, the oldest first, and how many lines were passed over.
    fn entries(&self) -> (Vec<Entry>, u64) {
        let mut backwards = self.files().entries_backwards().unwrap();
        let mut entries: Vec<_> = backwards.by_ref().map(Result::unwrap).collect();
        entries.reverse();
        (entries, backwards.bad_lines())
    }
}

fn not_run(totals: &Totals) -> Vec<Event> {
    let (run, outcome) = (totals.next_run(), Outcome::Skipped);
    vec![Event::NotRun(NotRun {
        run,
        outcome,
        reason: "busy \u{fc} \"\n\u{0}".to_owned(),
        holder: None,
        wait: 0.5,
        command: "true".to_owned(),
        queued: false,
    })]
}

fn started(run: RunId, slot: u32) -> Started {
    Started {
        run,
        attempt: 1,
        fence: Fence(run.0 + 7),
        slot,
        wait: 0.25,
        command: "sleep 1".to_owned(),
        boot: "b".to_owned(),
        pid_namespace: 1,
        file: (slot == 2).then_some((1, 2)),
        reserved: if slot == 3 { run.0 + 100 } else { 0 },
        lease: None,
        tick: None,
        queued: false,
    }
}

fn ended(run: RunId, outcome: Outcome, again: bool) -> Ended {
    Ended {
        run,
        attempt: 1,
        outcome,
        again,
        exit: (outcome == Outcome::Failed).then_some(3),
        signal: None,
        code: None,
        start: "2026-11-23T20:25:19.123456+00:00".parse().unwrap(),
        duration: 1.5,
        user: 0.125,
        system: 0.0,
        peak_memory: 4096,
        fence: Fence(run.0 + 7),
        wait: 0.25,
        reason: None,
    }
}

#[derive(Debug, Clone)]
enum Step {
    Start(u32),
    End(u32, Outcome, bool),
    NotRun,
    Request(u32, Request),
    /// Another process goes on.
    Reopen,
}

impl Step {
    fn events(&self, totals: &Totals) -> Vec<Event> {
        let run = |slot: u32| totals.in_slot(slot).map_or(totals.next_run(), |running| running.run);
        match *self {
            Self::Start(slot) => {
                let before = remains(totals, slot, "b").map(Event::Ended);
                before.into_iter().chain([Event::Started(started(totals.next_run(), slot))]).collect()
            }
            Self::End(slot, outcome, again) => vec![Event::Ended(ended(run(slot), outcome, again))],
            Self::NotRun => not_run(totals),
            Self::Request(slot, request) => vec![Event::EndRequested(EndRequest { run: run(slot), request })],
            Self::Reopen => Vec::new(),
        }
    }
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4u32).prop_map(Step::Start),
        4 => (1..4u32, prop::sample::select(&Outcome::ALL[..6]), any::<bool>())
            .prop_map(|(slot, outcome, again)| Step::End(slot, outcome, again)),
        2 => Just(Step::NotRun),
        1 => (1..4u32, prop::sample::select(vec![Request::Stop, Request::Replace]))
            .prop_map(|(slot, request)| Step::Request(slot, request)),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_last_line_says_what_all_lines_come_to(
        steps in prop::collection::vec(steps(), 1..40),
        rotate_at in prop::sample::select(vec![0, 1000, 5000, 1_000_000]),
    ) {
        let site = Site::new();
        // Two processes in turn, so that what one kept open is not what the other left.
        let mut ledgers = [site.ledger().rotating_at(rotate_at), site.ledger().rotating_at(rotate_at)];
        let (mut all, mut fold) = (Vec::new(), Totals::default());
        for step in &steps {
            if matches!(step, Step::Reopen) {
                ledgers.swap(0, 1);
            }
            let appended = ledgers[0].append(|totals| step.events(totals)).unwrap();
            appended.sync().unwrap();
            for entry in &appended.entries {
                fold = fold.after(entry);
            }
            prop_assert_eq!(&appended.totals, &fold);
            prop_assert_eq!(&site.ledger().totals().unwrap(), &fold);
            all.extend(appended.entries);
        }
        let (entries, bad) = site.entries();
        prop_assert_eq!(bad, 0);
        prop_assert!(all.ends_with(&entries), "read {:?}\nof {:?}", entries, all);
        if rotate_at == 1_000_000 {
            prop_assert_eq!(entries.len(), all.len());
        } else {
            prop_assert!(!entries.is_empty() || all.is_empty());
        }
    }

    #[test]
    fn a_torn_end_takes_no_intact_line_with_it(
        lines in 1..6usize,
        cut in 0.0..1.0f64,
        garbage in prop_oneof![
            Just(Vec::new()),
            (1..9000usize).prop_map(|count| vec![0; count]),
            prop::collection::vec(any::<u8>(), 0..200),
            Just(b"\n\n{\"format\":1}\n".to_vec()),
        ],
    ) {
        let site = Site::new();
        for _ in 0..lines {
            let _ = site.ledger().append(not_run).unwrap();
        }
        let bytes = fs::read(site.path("jsonl")).unwrap();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let kept = (bytes.len() as f64 * cut) as usize;
        let mut torn = bytes[..kept].to_vec();
        // A line whose newline alone is missing is whole, unless something else follows.
        let clean = garbage.is_empty() || garbage[0] == b'\n';
        let whole = bytes.iter().enumerate().filter(|(at, b)| **b == b'\n' && (*at < kept || (clean && *at == kept)));
        let whole = whole.count();
        torn.extend_from_slice(&garbage);
        fs::write(site.path("jsonl"), &torn).unwrap();

        prop_assert_eq!(site.entries().0.len(), whole);
        let ledger = site.ledger();
        prop_assert_eq!(ledger.totals().unwrap().last_run, whole as u64);
        for next in 1..3 {
            let appended = ledger.append(not_run).unwrap();
            prop_assert_eq!(appended.totals.last_run, (whole + next) as u64);
        }
        let entries = site.entries().0;
        let runs = entries.iter().map(|entry| match &entry.event {
            Event::NotRun(not_run) => not_run.run.0,
            other => panic!("{other:?}"),
        });
        prop_assert_eq!(runs.collect::<Vec<_>>(), (1..=whole as u64 + 2).collect::<Vec<_>>());
        // Nothing of what was there was touched.
        prop_assert!(fs::read(site.path("jsonl")).unwrap().starts_with(&torn));
    }
}

#[test]
fn whoever_appends_at_once_loses_nothing_and_shares_no_run_id() {
    for rotate_at in [20_000, u64::MAX] {
        let site = Site::new();
        let ids: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let ledger = site.ledger().rotating_at(rotate_at);
                        (0..40).map(|_| ledger.append(not_run).unwrap().totals.last_run).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(ids.iter().copied().collect::<BTreeSet<_>>(), (1..=320).collect());
        let totals = site.ledger().totals().unwrap();
        assert_eq!((totals.last_run, totals.counts.of(Outcome::Skipped)), (320, 320));
        if rotate_at == u64::MAX {
            assert_eq!(site.entries().0.len(), 320);
        }
    }
}

/// A run that waits has its line in the ledger, and of the ledger before the last nothing is left.
#[test]
fn a_ledger_is_put_aside_later_while_runs_wait() {
    const LIMIT: u64 = 2_000;
    let site = Site::new();
    let ledger = site.ledger().rotating_at(LIMIT);
    let length = || fs::metadata(site.path("jsonl")).unwrap().len();
    let grow = |to: u64| {
        while length() <= to {
            assert!(!site.path("old").exists(), "put aside at {} bytes", length());
            let _ = ledger.append(not_run).unwrap();
        }
    };
    let command = "true".to_owned();
    let queued = Queued { run: RunId(1), ticket: 1 << 51, after: Vec::new(), even_if_failed: false, command };
    let _ = ledger.append(|_| vec![Event::Queued(queued)]).unwrap();
    grow(16 * LIMIT);
    let _ = ledger.append(not_run).unwrap();
    assert!(site.path("old").exists() && length() < LIMIT, "but not for ever");
    fs::remove_file(site.path("old")).unwrap();
    // It waits no more.
    let ended = |totals: &Totals| match &not_run(totals)[..] {
        [Event::NotRun(event)] => vec![Event::NotRun(NotRun { run: RunId(1), queued: true, ..event.clone() })],
        other => panic!("{other:?}"),
    };
    assert_eq!(ledger.append(ended).unwrap().totals.queued, 0);
    grow(LIMIT);
    let _ = ledger.append(not_run).unwrap();
    assert!(site.path("old").exists());
}

/// Small ledgers, so that nearly every look meets a rotation.
#[test]
fn a_reader_misses_no_line_and_sees_none_twice_while_ledgers_are_put_aside() {
    let site = Site::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let ledger = site.ledger().rotating_at(2_000);
            for _ in 0..1_500 {
                let _ = ledger.append(not_run).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let runs: Vec<_> = site.entries().0.iter().map(run_of).collect();
            let (Some(first), Some(last)) = (runs.first(), runs.last()) else { continue };
            assert_eq!(runs, (*first..=*last).collect::<Vec<_>>());
        }
    });
}

fn run_of(entry: &Entry) -> u64 {
    match &entry.event {
        Event::Started(Started { run, .. })
        | Event::Ended(Ended { run, .. })
        | Event::NotRun(NotRun { run, .. })
        | Event::EndRequested(EndRequest { run, .. })
        | Event::Queued(Queued { run, .. })
        | Event::Stranded(Stranded { run, .. }) => run.0,
    }
}

#[test]
fn a_kill_amid_a_rotation_starts_nothing_over() {
    for empty in [false, true] {
        let site = Site::new();
        let _ = site.ledger().append(not_run).unwrap();
        fs::rename(site.path("jsonl"), site.path("old")).unwrap();
        if empty {
            fs::write(site.path("jsonl"), "").unwrap();
        }
        assert_eq!(site.ledger().totals().unwrap().last_run, 1);
        assert_eq!(site.ledger().append(not_run).unwrap().totals.last_run, 2);
        assert_eq!(site.entries().0.len(), 2);
    }
}

#[test]
fn what_cannot_be_understood_is_not_built_upon() {
    let sealed = |body: &str| {
        let mut bytes = body.as_bytes().to_vec();
        crate::sealed::seal(&mut bytes, 0);
        bytes.push(b'\n');
        bytes
    };
    let newer = sealed("{\"format\":2,\"news\":[]");
    let unknown = sealed("{\"format\":1,\"totals\":{\"last_run\":\"?\"}");
    for (line, expected) in [(newer, "newer_format"), (unknown, "corrupt")] {
        let site = Site::new();
        let _ = site.ledger().append(not_run).unwrap();
        let mut bytes = fs::read(site.path("jsonl")).unwrap();
        bytes.extend_from_slice(&line);
        fs::write(site.path("jsonl"), &bytes).unwrap();
        assert_eq!(site.ledger().append(not_run).unwrap_err().kind(), expected);
        assert_eq!(site.ledger().totals().unwrap_err().kind(), expected);
        assert_eq!(fs::read(site.path("jsonl")).unwrap(), bytes, "{expected}");
    }
}

#[test]
fn an_append_within_an_append_is_refused_not_waited_for() {
    let site = Site::new();
    let appended = site.ledger().append(|totals| {
        assert!(matches!(site.ledger().append(not_run), Err(Error::Reentrant(_))));
        not_run(totals)
    });
    assert_eq!(appended.unwrap().totals.last_run, 1);
}

#[test]
fn the_remains_of_a_run_tell_what_is_known() {
    let at = |event| Entry { time: SystemClock.now(), host: "h".to_owned(), pid: 1, invocation_id: None, event };
    let start = Totals::default().after(&at(Event::Started(started(RunId(1), 2))));
    assert_eq!(remains(&start, 1, "b"), None);
    let lost = remains(&start, 2, "b").unwrap();
    assert_eq!((lost.run, lost.outcome, lost.duration), (RunId(1), Outcome::Lost, 0.0));
    assert_eq!(lost.reason.as_deref(), Some("its wrapper was killed"));
    assert_eq!(remains(&start, 2, "c").unwrap().reason.as_deref(), Some("the machine restarted"));
    let request = EndRequest { run: RunId(1), request: Request::Replace };
    let asked = start.after(&at(Event::EndRequested(request)));
    assert_eq!(remains(&asked, 2, "b").unwrap().outcome, Outcome::Replaced);
    assert!(asked.after(&at(Event::Ended(lost))).running.is_empty());
}
