//! What must be true of everything that hosts asked of a trip, whatever happened to networks and servers.
//!
//! The settled answers (every request asked for once more in the end) tell what each request came to and under which
//! revision. So the history is an order that the store itself claims, and it is checked, not searched for: each answer
//! must be the right one after those before, and the order must agree with the clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    answer::Answer,
    operations::{Asked, Moment, Told, TripHistory, Violation, Wish},
};

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// At no revision are more seats booked than there are.
    Oversold,
    /// No two changes have one revision.
    SameRevision,
    /// Every revision belongs to a request.
    UnknownRevision,
    /// Each answer says how many seats are left after it, and those before.
    SeatsLeft,
    /// It was booked, cancelled or refused as the rules of booking say.
    WrongAnswer,
    /// What was answered stands.
    AnsweredLost,
    /// A request that was asked for twice happened once.
    CountedTwice,
    /// A command that said that nothing was changed changed nothing.
    ChangedInSilence,
    /// What ended before something else began has the smaller revision.
    RealTime,
    /// Fences grow with revisions, and with time.
    Fences,
    /// The trip's bookings and sums are what the answers say.
    Bookings,
}

type Violations = Vec<Violation<Rule>>;

/// What a store said that it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Every answer.
    Kept,
    /// Not the latest, when a server is replaced by its replica.
    MayLoseTheLatest,
}

/// What the checker found.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    pub(crate) violations: Violations,
    /// How many answers do not stand, where none was promised to.
    pub(crate) lost: usize,
}

/// Checks a history by every rule.
pub(crate) fn judge(history: &TripHistory, promise: Promise) -> Judgement {
    let mut lost = answered_is_lost(history);
    let mut violations = Vec::new();
    let mut twice = counted_twice(history);
    if promise == Promise::Kept {
        violations.append(&mut lost);
        violations.append(&mut twice);
    }
    violations.extend(changed_in_silence(history));
    violations.extend(sequence(history));
    violations.extend(bookings(history));
    violations.extend(real_time(history));
    violations.extend(fences(history));
    Judgement { violations, lost: lost.len() }
}

fn broken(rule: Rule, what: String) -> Violation<Rule> {
    Violation { rule, what }
}

/// An answer without what a replay may change.
fn bare(answer: &Answer) -> Answer {
    Answer { replayed: false, ..answer.clone() }
}

/// What each request came to.
fn settled(history: &TripHistory) -> BTreeMap<&str, (&Asked, &Answer)> {
    let answered = history.settled.iter().filter_map(|asked| match &asked.told {
        Told::Answer(answer) => Some((&*asked.id, (asked, answer))),
        _ => None,
    });
    answered.collect()
}

/// The answers that were given, each with its command.
fn given(history: &TripHistory) -> impl Iterator<Item = (&Asked, &Answer)> {
    history.asked.iter().filter_map(|asked| match &asked.told {
        Told::Answer(answer) => Some((asked, answer)),
        _ => None,
    })
}

/// Answers that the store does not know any more.
pub(crate) fn answered_is_lost(history: &TripHistory) -> Violations {
    let settled = settled(history);
    let stands = |asked: &Asked, answer: &Answer| {
        settled.get(&*asked.id).is_some_and(|(_, now)| bare(now) == bare(answer) && now.replayed)
    };
    let lost = given(history).filter(|(asked, answer)| !stands(asked, answer));
    lost.map(|(asked, answer)| {
        let now = settled.get(&*asked.id).map(|(_, answer)| answer);
        broken(Rule::AnsweredLost, format!("{} was told {answer:?}, and now it is {now:?}", asked.id))
    })
    .collect()
}

/// Requests that happened under two revisions.
pub(crate) fn counted_twice(history: &TripHistory) -> Violations {
    let mut revisions: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    let all = history.asked.iter().chain(&history.settled);
    for asked in all {
        if let Told::Answer(Answer { revision: Some(revision), .. }) = &asked.told {
            revisions.entry(&asked.id).or_default().insert(*revision);
        }
    }
    let twice = revisions.into_iter().filter(|(_, revisions)| revisions.len() > 1);
    twice.map(|(id, revisions)| broken(Rule::CountedTwice, format!("{id} has revisions {revisions:?}"))).collect()
}

/// Requests of which every command said that nothing was changed, and which the store had all the same.
pub(crate) fn changed_in_silence(history: &TripHistory) -> Violations {
    let mut said: BTreeMap<&str, bool> = BTreeMap::new();
    for asked in &history.asked {
        *said.entry(&asked.id).or_insert(true) &= matches!(asked.told, Told::NothingChanged(_));
    }
    let settled = settled(history);
    let silent = said.into_iter().filter(|(_, nothing)| *nothing);
    let changed = silent.filter_map(|(id, _)| settled.get(id).filter(|(_, answer)| answer.replayed));
    changed
        .map(|(asked, answer)| {
            broken(Rule::ChangedInSilence, format!("{} was told that nothing was changed: {answer:?}", asked.id))
        })
        .collect()
}

/// Replays the answers in the order of their revisions.
pub(crate) fn sequence(history: &TripHistory) -> Violations {
    let mut found = Vec::new();
    let mut in_order: Vec<_> = settled(history).into_values().collect();
    in_order.sort_by_key(|(_, answer)| answer.revision);
    // The trip was added by the first.
    let mut revision = 1;
    let mut booked: HashMap<&str, u64> = HashMap::new();
    let mut sum = 0;
    for (asked, answer) in in_order {
        let at = answer.revision.unwrap_or_default();
        if at == revision {
            found.push(broken(Rule::SameRevision, format!("{} has revision {at}, as another one", asked.id)));
        } else if at != revision + 1 {
            found.push(broken(Rule::UnknownRevision, format!("nobody asked for those between {revision} and {at}")));
        }
        revision = at;
        let left = history.seats.saturating_sub(sum);
        let right = match &asked.wish {
            Wish::Book { student, .. } if booked.contains_key(&**student) => "already_booked",
            Wish::Book { seats, .. } if *seats > left => "sold_out",
            Wish::Book { .. } => "booked",
            Wish::Cancel { student } if booked.contains_key(&**student) => "cancelled",
            Wish::Cancel { .. } => "no_booking",
        };
        if answer.outcome != right {
            let is = &answer.outcome;
            found.push(broken(Rule::WrongAnswer, format!("{} at {at} is {is}; {right} would be right", asked.id)));
        }
        // What was answered happened, right or wrong.
        match (&asked.wish, &*answer.outcome) {
            (Wish::Book { student, seats }, "booked") => {
                *booked.entry(student).or_default() += seats;
                sum += seats;
            }
            (Wish::Cancel { student }, "cancelled") => sum -= booked.remove(&**student).unwrap_or_default().min(sum),
            _ => {}
        }
        if sum > history.seats {
            found.push(broken(Rule::Oversold, format!("at {at} {sum} of {} seats are booked", history.seats)));
        }
        if answer.seats_left != Some(history.seats.saturating_sub(sum)) {
            let says = answer.seats_left;
            let what = format!("{} at {at} says {says:?} seats are left, with {sum} booked", asked.id);
            found.push(broken(Rule::SeatsLeft, what));
        }
    }
    if history.revision != revision {
        let what = format!("the trip is at {}, the last answer at {revision}", history.revision);
        found.push(broken(Rule::UnknownRevision, what));
    }
    found
}

/// Compares the bookings of the trip with those that were answered.
pub(crate) fn bookings(history: &TripHistory) -> Violations {
    let mut found = Vec::new();
    let mut in_order: Vec<_> = settled(history).into_values().collect();
    in_order.sort_by_key(|(_, answer)| answer.revision);
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for (asked, answer) in in_order {
        match (&asked.wish, &*answer.outcome) {
            (Wish::Book { student, seats }, "booked") => drop(expected.insert(student, *seats)),
            (Wish::Cancel { student }, "cancelled") => drop(expected.remove(&**student)),
            _ => {}
        }
    }
    let mut has: BTreeMap<&str, u64> = BTreeMap::new();
    for (student, seats) in &history.bookings {
        *has.entry(student).or_default() += seats;
    }
    for student in expected.keys().chain(has.keys()).collect::<BTreeSet<_>>() {
        let (answered, has) = (expected.get(*student), has.get(*student));
        if answered != has {
            let what = format!("{student} has {has:?} seats, and was told {answered:?}");
            found.push(broken(Rule::Bookings, what));
        }
    }
    let sum: u64 = history.bookings.iter().map(|(_, seats)| seats).sum();
    if sum > history.seats {
        found.push(broken(Rule::Oversold, format!("{sum} of {} seats are booked in the end", history.seats)));
    }
    if history.seats_left + sum != history.seats {
        let what = format!("{} seats are left and {sum} booked, of {}", history.seats_left, history.seats);
        found.push(broken(Rule::Bookings, what));
    }
    found
}

/// What happened once, and in which time it must have.
struct Happened<'h> {
    id: &'h str,
    answer: &'h Answer,
    /// It was first asked for.
    after: Moment,
    /// It was first answered.
    before: Moment,
}

/// Everything that was ever answered, with its time; what was lost, too, when it was made up for later.
fn happened(history: &TripHistory) -> Vec<Happened<'_>> {
    let mut asked: BTreeMap<&str, Vec<&Asked>> = BTreeMap::new();
    for one in history.asked.iter().chain(&history.settled) {
        asked.entry(&one.id).or_default().push(one);
    }
    let mut all = Vec::new();
    for (id, mut attempts) in asked {
        attempts.sort_by_key(|asked| asked.end);
        // A command that said that nothing was changed did nothing.
        let mut after = None;
        let mut known: Vec<Answer> = Vec::new();
        for attempt in attempts {
            match &attempt.told {
                Told::NothingChanged(_) => {}
                Told::Unknown => after = after.or(Some(attempt.start)),
                Told::Answer(answer) if known.contains(&bare(answer)) => {}
                Told::Answer(answer) => {
                    let first = if known.is_empty() { after } else { None };
                    known.push(bare(answer));
                    all.push(Happened { id, answer, after: first.unwrap_or(attempt.start), before: attempt.end });
                }
            }
        }
    }
    all
}

/// Pairs in which the one that ended before the other began has the larger number. They come sorted by the number.
fn out_of_order<'h>(sorted: &'h [Happened<'h>]) -> impl Iterator<Item = (&'h Happened<'h>, &'h Happened<'h>)> {
    // Of those with smaller numbers, the one that began last.
    let mut latest: Option<&Happened<'_>> = None;
    sorted.iter().filter_map(move |next| {
        let earlier = latest.filter(|earlier| next.before < earlier.after);
        if latest.is_none_or(|latest| latest.after < next.after) {
            latest = Some(next);
        }
        earlier.map(|earlier| (next, earlier))
    })
}

/// Revisions that contradict the clock. (A revision that was lost comes again, so only what stands is looked at.)
pub(crate) fn real_time(history: &TripHistory) -> Violations {
    let settled = settled(history);
    let mut standing = happened(history);
    standing.retain(|one| settled.get(one.id).is_some_and(|(_, now)| bare(now) == bare(one.answer)));
    standing.sort_by_key(|one| one.answer.revision);
    let found = out_of_order(&standing).map(|(ended, began)| {
        let what = format!(
            "{} ended at {}, before {} began at {}, and has revision {:?} after {:?}",
            ended.id, ended.before, began.id, began.after, ended.answer.revision, began.answer.revision
        );
        broken(Rule::RealTime, what)
    });
    found.collect()
}

/// Fences that do not grow with the revision, or that contradict the clock; those of lost answers too.
pub(crate) fn fences(history: &TripHistory) -> Violations {
    let mut found = Vec::new();
    let mut in_order: Vec<_> = settled(history).into_values().collect();
    in_order.sort_by_key(|(_, answer)| answer.revision);
    for pair in in_order.windows(2) {
        let [(one, before), (other, after)] = pair else { unreachable!("two") };
        if before.fence >= after.fence {
            let what = format!("{} has fence {:?}, {} after it {:?}", one.id, before.fence, other.id, after.fence);
            found.push(broken(Rule::Fences, what));
        }
    }
    let mut all = happened(history);
    all.sort_by_key(|one| one.answer.fence);
    found.extend(out_of_order(&all).map(|(ended, began)| {
        let what = format!(
            "{} ended before {} began, and has fence {:?} after {:?}",
            ended.id, began.id, ended.answer.fence, began.answer.fence
        );
        broken(Rule::Fences, what)
    }));
    found
}
