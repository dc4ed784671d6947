//! What must be true of a leased job, whatever happened to networks, servers and wrappers.
//!
//! The job itself says when it lives: each of its processes stamps a file, again and again, with its fence and the time.
//! So a job that nobody knows of any more, because its wrapper is dead and its host cut off, is seen all the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    operations::{JobHistory, Moment, RecordedEvent, Violation},
    seat_rules::Promise,
};

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// No two jobs of one name live at the same time.
    Overlap,
    /// A job that started later has a larger fence, and each has its own.
    Fences,
    /// No job lives when the server says that its lease is over.
    AliveWithoutLease,
    /// Once another fence has started, the one before records nothing.
    OldFenceCommits,
    /// A run ends once.
    EndsTwice,
    /// A run that was answered is in the ledger with that outcome, and did happen.
    AnswerNotRecorded,
}

impl Rule {
    /// Whether it may be broken where a server loses leases that it has granted: what the next holder is given then is a
    /// larger fence, and nothing but that.
    pub(crate) fn is_excused(self, promise: Promise) -> bool {
        let rests_on_leases = matches!(self, Self::Overlap | Self::AliveWithoutLease | Self::AnswerNotRecorded);
        promise == Promise::MayLoseTheLatest && rests_on_leases
    }
}

type Violations = Vec<Violation<Rule>>;

/// Checks a history by every rule.
pub(crate) fn judge(history: &JobHistory) -> Violations {
    let rules = [overlap, fences, alive_without_lease, old_fence_commits, ends_twice, answer_not_recorded];
    rules.iter().flat_map(|rule| rule(history)).collect()
}

fn broken(rule: Rule, what: String) -> Violation<Rule> {
    Violation { rule, what }
}

/// The first and the last sign of life under a fence.
#[derive(Debug, Clone)]
struct Life<'h> {
    fence: u64,
    tag: &'h str,
    first: Moment,
    last: Moment,
}

/// All lives, in the order in which they began. A fence that several runs have had is several lives.
fn lives(history: &JobHistory) -> Vec<Life<'_>> {
    let mut lives: BTreeMap<(u64, &str), Life<'_>> = BTreeMap::new();
    for stamp in &history.stamps {
        let new = Life { fence: stamp.fence, tag: &stamp.tag, first: stamp.at, last: stamp.at };
        let life = lives.entry((stamp.fence, &stamp.tag)).or_insert(new);
        life.first = life.first.min(stamp.at);
        life.last = life.last.max(stamp.at);
    }
    let mut lives: Vec<_> = lives.into_values().collect();
    lives.sort_by_key(|life| life.first);
    lives
}

/// Jobs that lived at the same time.
pub(crate) fn overlap(history: &JobHistory) -> Violations {
    let mut found = Vec::new();
    let mut longest: Option<Life<'_>> = None;
    for life in lives(history) {
        if let Some(before) = longest.as_ref().filter(|before| before.last >= life.first) {
            let what = format!(
                "{} (fence {}) lived until {}, and {} (fence {}) from {}",
                before.tag, before.fence, before.last, life.tag, life.fence, life.first
            );
            found.push(broken(Rule::Overlap, what));
        }
        if longest.as_ref().is_none_or(|before| before.last < life.last) {
            longest = Some(life);
        }
    }
    found
}

/// Fences that do not grow.
pub(crate) fn fences(history: &JobHistory) -> Violations {
    let lives = lives(history);
    let pairs = lives.windows(2).filter(|pair| pair[0].fence >= pair[1].fence);
    let of_jobs = pairs.map(|pair| {
        let [before, after] = pair else { unreachable!("two") };
        let what = format!(
            "{} started at {} with fence {}, {} at {} with fence {}",
            before.tag, before.first, before.fence, after.tag, after.first, after.fence
        );
        broken(Rule::Fences, what)
    });
    let mut last = 0;
    let started = history.ledger.iter().filter_map(|line| match line.event {
        RecordedEvent::Started { fence } => Some(fence),
        _ => None,
    });
    let of_lines = started.filter_map(|fence| {
        let before = std::mem::replace(&mut last, fence);
        let what = || format!("the ledger has a start with fence {fence} after one with {before}");
        (before >= fence).then(|| broken(Rule::Fences, what()))
    });
    of_jobs.chain(of_lines).collect()
}

/// Signs of life after the server has said that the lease is over.
pub(crate) fn alive_without_lease(history: &JobHistory) -> Violations {
    let mut found = Vec::new();
    for life in lives(history) {
        // It lives only once it was leased, so a look that began later and does not find it has found its end.
        let looks = history.looks.iter().filter(|look| look.begin > life.first && !look.held.contains(&life.fence));
        let over = looks.map(|look| look.end).min();
        if let Some(over) = over.filter(|over| *over < life.last) {
            let what = format!(
                "{} (fence {}) was not leased any more at {over}, and lived at {}",
                life.tag, life.fence, life.last
            );
            found.push(broken(Rule::AliveWithoutLease, what));
        }
    }
    found
}

/// What a holder recorded after the next one had started.
pub(crate) fn old_fence_commits(history: &JobHistory) -> Violations {
    let mut found = Vec::new();
    let mut newest = 0;
    let mut holders = BTreeMap::new();
    for line in &history.ledger {
        match &line.event {
            RecordedEvent::Started { fence } => {
                holders.insert(*fence, &line.by);
                if *fence < newest {
                    let what = format!("{:?} started with fence {fence} after {newest} had", line.by);
                    found.push(broken(Rule::OldFenceCommits, what));
                }
                newest = newest.max(*fence);
            }
            // Who comes later may say of it that it was lost.
            RecordedEvent::Ended { fence, outcome } if *fence < newest && holders.get(fence) == Some(&&line.by) => {
                let what = format!("{:?} recorded {outcome} of fence {fence} after {newest} had started", line.by);
                found.push(broken(Rule::OldFenceCommits, what));
            }
            _ => {}
        }
    }
    found
}

/// Runs that ended more than once.
pub(crate) fn ends_twice(history: &JobHistory) -> Violations {
    let mut found = Vec::new();
    let mut ended = BTreeMap::new();
    for line in &history.ledger {
        if let RecordedEvent::Ended { fence, outcome } = &line.event {
            if let Some(before) = ended.insert(*fence, outcome) {
                found.push(broken(Rule::EndsTwice, format!("fence {fence} ended as {before}, then as {outcome}")));
            }
        }
    }
    found
}

/// Answers that the ledger or the job itself contradicts.
pub(crate) fn answer_not_recorded(history: &JobHistory) -> Violations {
    let mut found = Vec::new();
    let outcomes: BTreeMap<u64, &str> = history
        .ledger
        .iter()
        .filter_map(|line| match &line.event {
            RecordedEvent::Ended { fence, outcome } => Some((*fence, &**outcome)),
            _ => None,
        })
        .collect();
    for run in &history.runs {
        let fences: BTreeSet<u64> =
            history.stamps.iter().filter(|stamp| stamp.tag == run.tag).map(|stamp| stamp.fence).collect();
        let has_ended = history.stamps.iter().any(|stamp| stamp.tag == run.tag && stamp.is_end);
        let recorded: Vec<_> = fences.iter().map(|fence| outcomes.get(fence).copied().unwrap_or("nothing")).collect();
        let is_right = match run.code {
            Some(0) => has_ended && recorded == ["succeeded"],
            // Its lease was lost, so nothing that it says counts. (Unless it had ended, and the server recorded that and could
            // not say so before the lease was over: then nobody can tell.)
            Some(76) => has_ended || !recorded.contains(&"succeeded"),
            // It was not run.
            Some(75) => fences.is_empty(),
            // It was not run, or it could not be watched over and was ended.
            Some(125) => fences.is_empty() || (!has_ended && recorded == ["failed"]),
            _ => true,
        };
        if !is_right {
            let ends = if has_ended { "ended by itself" } else { "did not end by itself" };
            let what = format!(
                "{} was answered {:?}; its job {ends}; the ledger says {recorded:?} of {fences:?}",
                run.tag, run.code
            );
            found.push(broken(Rule::AnswerNotRecorded, what));
        }
    }
    found
}
