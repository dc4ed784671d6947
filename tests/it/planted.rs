//! The checker is checked: a sound history breaks no rule, and a violation that was planted in it breaks that rule.

use crate::{
    answer::Answer,
    lease_rules,
    operations::{
        Asked, JobHistory, Look, Moment, Recorded, RecordedEvent, Run, Stamp, Told, TripHistory, Wish,
        nothing_is_violated,
    },
    seat_rules::{self, Promise, Rule},
};

fn answer(id: &str, outcome: &str, revision: u64, seats_left: u64) -> Answer {
    Answer {
        format: 1,
        outcome: outcome.to_owned(),
        trip: "1".to_owned(),
        student: None,
        seats: None,
        seats_left: Some(seats_left),
        revision: Some(revision),
        fence: Some(revision * 10),
        request_id: Some(id.to_owned()),
        time: None,
        replayed: false,
    }
}

fn asked(id: &str, student: &str, at: u64, told: Told) -> Asked {
    let student = student.to_owned();
    let wish = if id.starts_with("cancel") { Wish::Cancel { student } } else { Wish::Book { student, seats: 1 } };
    Asked { host: "host-a".to_owned(), id: id.to_owned(), wish, start: Moment(at), end: Moment(at + 9), told }
}

/// Two seats, three students, a cancellation; one command was not answered and one did nothing.
fn sound() -> TripHistory {
    let all = [
        ("a", "1", answer("a", "booked", 2, 1)),
        ("b", "2", answer("b", "booked", 3, 0)),
        ("c", "3", answer("c", "sold_out", 4, 0)),
        ("cancel", "1", answer("cancel", "cancelled", 5, 1)),
        ("again", "2", answer("again", "already_booked", 6, 1)),
        ("none", "9", answer("none", "no_booking", 7, 1)),
        ("d", "3", answer("d", "booked", 8, 0)),
    ];
    let mut history = TripHistory { seats: 2, revision: 8, ..TripHistory::default() };
    history.bookings = vec![("2".to_owned(), 1), ("3".to_owned(), 1)];
    for (at, (id, student, answer)) in (0..).zip(all) {
        let again = Answer { replayed: id != "d", ..answer.clone() };
        let mut now = asked(id, student, 1000 + at * 10, Told::Answer(again));
        let mut then = asked(id, student, at * 10, Told::Answer(answer));
        if id == "none" {
            for one in [&mut now, &mut then] {
                one.wish = Wish::Cancel { student: "9".to_owned() };
            }
        }
        match id {
            // The command never learnt what came of it.
            "b" => then.told = Told::Unknown,
            "d" => then.told = Told::NothingChanged(69),
            _ => {}
        }
        history.asked.push(then);
        history.settled.push(now);
    }
    history
}

fn of<'h>(all: &'h mut [Asked], id: &str) -> &'h mut Asked {
    all.iter_mut().find(|asked| asked.id == id).unwrap()
}

fn told(asked: &mut Asked) -> &mut Answer {
    match &mut asked.told {
        Told::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

/// A sound history with one thing wrong breaks that rule.
#[track_caller]
fn caught(rule: Rule, plant: impl Fn(&mut TripHistory)) {
    let mut history = sound();
    plant(&mut history);
    let found = seat_rules::judge(&history, Promise::Kept).violations;
    assert!(found.iter().any(|violation| violation.rule == rule), "{rule:?} was not caught, but {found:?}");
}

#[test]
fn a_sound_history_of_a_trip_breaks_no_rule() {
    nothing_is_violated("sound", &seat_rules::judge(&sound(), Promise::Kept).violations);
}

#[test]
fn a_seat_that_is_sold_twice_is_caught() {
    // The third student gets what is not there; everything else agrees with that.
    caught(Rule::Oversold, |history| {
        for all in [&mut history.asked, &mut history.settled] {
            told(of(all, "c")).outcome = "booked".to_owned();
        }
    });
    caught(Rule::WrongAnswer, |history| told(of(&mut history.settled, "c")).outcome = "booked".to_owned());
    caught(Rule::Oversold, |history| history.bookings.push(("4".to_owned(), 1)));
}

#[test]
fn a_wrong_refusal_is_caught() {
    caught(Rule::WrongAnswer, |history| told(of(&mut history.settled, "a")).outcome = "sold_out".to_owned());
    caught(Rule::WrongAnswer, |history| told(of(&mut history.settled, "again")).outcome = "booked".to_owned());
    caught(Rule::WrongAnswer, |history| told(of(&mut history.settled, "cancel")).outcome = "no_booking".to_owned());
}

#[test]
fn revisions_that_are_missing_or_doubled_are_caught() {
    caught(Rule::SameRevision, |history| told(of(&mut history.settled, "b")).revision = Some(2));
    caught(Rule::UnknownRevision, |history| told(of(&mut history.settled, "b")).revision = None);
    // A change that nobody asked for.
    caught(Rule::UnknownRevision, |history| history.revision = 9);
    caught(Rule::UnknownRevision, |history| {
        for all in [&mut history.asked, &mut history.settled] {
            all.retain(|asked| asked.id != "cancel");
        }
    });
}

#[test]
fn a_wrong_sum_is_caught() {
    caught(Rule::SeatsLeft, |history| told(of(&mut history.settled, "b")).seats_left = Some(1));
    caught(Rule::SeatsLeft, |history| told(of(&mut history.settled, "c")).seats_left = None);
}

#[test]
fn an_answer_that_does_not_stand_is_caught() {
    caught(Rule::AnsweredLost, |history| told(of(&mut history.settled, "a")).time = Some("later".to_owned()));
    // It is there, but because it was asked for once more.
    caught(Rule::AnsweredLost, |history| told(of(&mut history.settled, "a")).replayed = false);
    caught(Rule::AnsweredLost, |history| history.settled.retain(|asked| asked.id != "a"));
    // Refusals are answers.
    caught(Rule::AnsweredLost, |history| told(of(&mut history.settled, "c")).outcome = "already_booked".to_owned());
}

#[test]
fn a_request_that_counts_twice_is_caught() {
    caught(Rule::CountedTwice, |history| {
        let mut again = of(&mut history.asked, "a").clone();
        told(&mut again).revision = Some(9);
        history.asked.push(again);
    });
    caught(Rule::Bookings, |history| history.bookings[0].1 = 2);
}

#[test]
fn a_change_in_silence_is_caught() {
    caught(Rule::ChangedInSilence, |history| told(of(&mut history.settled, "d")).replayed = true);
}

#[test]
fn an_order_against_the_clock_is_caught() {
    // The second booking had ended before the first began.
    let swap = |history: &mut TripHistory| {
        let first = of(&mut history.asked, "a");
        (first.start, first.end) = (Moment(40), Moment(49));
        history.asked.sort_by_key(|asked| asked.end);
    };
    caught(Rule::RealTime, |history| {
        of(&mut history.asked, "b").told = Told::Answer(answer("b", "booked", 3, 0));
        swap(history);
    });
    // When nobody knows when it happened, it may have been later.
    let mut history = sound();
    of(&mut history.asked, "again").told = Told::Unknown;
    let cancelled = of(&mut history.asked, "cancel");
    (cancelled.start, cancelled.end) = (Moment(60), Moment(69));
    let none = of(&mut history.asked, "none");
    (none.start, none.end) = (Moment(70), Moment(79));
    assert_eq!(seat_rules::real_time(&history), []);
}

#[test]
fn fences_that_do_not_grow_are_caught() {
    for fence in [Some(20), Some(40), Some(50), None] {
        caught(Rule::Fences, |history| told(of(&mut history.settled, "b")).fence = fence);
    }
    // The fence of an answer that was lost came again.
    let mut history = sound();
    let mut lost = asked("lost", "8", 200, Told::Answer(answer("lost", "booked", 9, 0)));
    told(&mut lost).fence = Some(15);
    history.asked.push(lost);
    assert!(!seat_rules::fences(&history).is_empty());
}

#[test]
fn bookings_that_nobody_was_told_of_are_caught() {
    caught(Rule::Bookings, |history| history.bookings[0].0 = "7".to_owned());
    caught(Rule::Bookings, |history| drop(history.bookings.pop()));
    caught(Rule::Bookings, |history| history.seats_left = 1);
}

/// A failover that lost the last answers, which were asked for once more.
#[test]
fn what_was_not_promised_is_counted_and_the_rest_is_still_judged() {
    let mut history = sound();
    let lost = asked("d", "3", 60, Told::Answer(Answer { fence: Some(79), ..answer("d", "booked", 8, 0) }));
    *of(&mut history.asked, "d") = lost;
    let judged = seat_rules::judge(&history, Promise::MayLoseTheLatest);
    nothing_is_violated("lost", &judged.violations);
    assert_eq!(judged.lost, 1);
    caught(Rule::AnsweredLost, |broken| broken.asked.clone_from(&history.asked));
    history.bookings.push(("4".to_owned(), 1));
    assert!(!seat_rules::judge(&history, Promise::MayLoseTheLatest).violations.is_empty());
}

/// Three runs: one ends well, one loses its lease, one ends well.
fn sound_job() -> JobHistory {
    let run = |tag: &str, at, code| Run {
        host: format!("host-{tag}"),
        tag: tag.to_owned(),
        start: Moment(at),
        end: Moment(at + 90),
        code: Some(code),
    };
    let stamp = |tag: &str, fence, at, is_end| Stamp { tag: tag.to_owned(), fence, at: Moment(at), is_end };
    let line = |tag: &str, event| Recorded { by: (format!("host-{tag}"), 7), event };
    let started = |fence| RecordedEvent::Started { fence };
    let ended = |fence, outcome: &str| RecordedEvent::Ended { fence, outcome: outcome.to_owned() };
    let look = |at, held: &[u64]| Look { begin: Moment(at), end: Moment(at + 2), held: held.iter().copied().collect() };
    JobHistory {
        runs: vec![run("a", 0, 0), run("b", 100, 76), run("c", 110, 75), run("c2", 200, 0)],
        stamps: vec![
            stamp("a", 10, 10, false),
            stamp("a", 10, 80, true),
            stamp("b", 20, 110, false),
            stamp("b", 20, 150, false),
            stamp("c2", 30, 210, false),
            stamp("c2", 30, 280, true),
        ],
        looks: vec![look(5, &[]), look(50, &[10]), look(90, &[]), look(120, &[20]), look(180, &[]), look(240, &[30])],
        ledger: vec![
            line("a", started(10)),
            line("a", ended(10, "succeeded")),
            line("b", started(20)),
            line("c", RecordedEvent::NotRun { outcome: "skipped".to_owned() }),
            line("c2", ended(20, "lost")),
            line("c2", started(30)),
            line("c2", ended(30, "succeeded")),
        ],
    }
}

#[track_caller]
fn caught_job(rule: lease_rules::Rule, plant: impl Fn(&mut JobHistory)) {
    let mut history = sound_job();
    plant(&mut history);
    let found = lease_rules::judge(&history);
    assert!(found.iter().any(|violation| violation.rule == rule), "{rule:?} was not caught, but {found:?}");
}

#[test]
fn a_sound_history_of_a_job_breaks_no_rule() {
    nothing_is_violated("sound", &lease_rules::judge(&sound_job()));
}

#[test]
fn jobs_that_overlap_are_caught() {
    use lease_rules::Rule::Overlap;
    // Any process of it.
    caught_job(Overlap, |history| history.stamps[3].at = Moment(211));
    // Also with one that is not the next.
    caught_job(Overlap, |history| {
        let mut late = history.stamps[0].clone();
        late.at = Moment(220);
        history.stamps.push(late);
    });
    // With one of the same fence, too.
    caught_job(Overlap, |history| {
        let mut other = history.stamps[0].clone();
        "c".clone_into(&mut other.tag);
        other.at = Moment(50);
        history.stamps.push(other);
    });
}

#[test]
fn a_job_that_outlives_its_lease_is_caught() {
    // Nobody else has the lease yet.
    caught_job(lease_rules::Rule::AliveWithoutLease, |history| history.stamps[3].at = Moment(185));
}

#[test]
fn fences_of_jobs_that_do_not_grow_are_caught() {
    use lease_rules::Rule::Fences;
    for fence in [10, 20] {
        caught_job(Fences, |history| {
            for stamp in &mut history.stamps[4..] {
                stamp.fence = fence;
            }
        });
    }
    caught_job(Fences, |history| history.ledger[5].event = RecordedEvent::Started { fence: 20 });
}

#[test]
fn a_commit_under_an_old_fence_is_caught() {
    use lease_rules::Rule::OldFenceCommits;
    caught_job(OldFenceCommits, |history| {
        let event = RecordedEvent::Ended { fence: 20, outcome: "lease_lost".to_owned() };
        history.ledger.push(Recorded { by: ("host-b".to_owned(), 7), event });
    });
    caught_job(OldFenceCommits, |history| {
        let event = RecordedEvent::Started { fence: 20 };
        history.ledger.push(Recorded { by: ("host-b".to_owned(), 7), event });
    });
}

#[test]
fn a_run_that_ends_twice_is_caught() {
    caught_job(lease_rules::Rule::EndsTwice, |history| history.ledger.push(history.ledger[6].clone()));
}

#[test]
fn answers_of_runs_that_are_not_true_are_caught() {
    use lease_rules::Rule::AnswerNotRecorded;
    caught_job(AnswerNotRecorded, |history| drop(history.ledger.pop()));
    // Its lease was lost, and it said that all is well.
    caught_job(AnswerNotRecorded, |history| history.runs[1].code = Some(0));
    caught_job(AnswerNotRecorded, |history| {
        history.runs[0].code = Some(76);
        history.stamps[1].is_end = false;
    });
    // It had not ended.
    caught_job(AnswerNotRecorded, |history| history.stamps[5].is_end = false);
    // It said that nothing was run.
    caught_job(AnswerNotRecorded, |history| history.runs[3].code = Some(75));
}
