//! Against crontab(5) by brute force: minute after minute, by the words of the manual.

use chrono::{Datelike as _, FixedOffset, NaiveDate, Timelike as _};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

#[track_caller]
fn refused(expression: &str) -> String {
    expression.parse::<Crontab>().unwrap_err()
}

#[test]
fn what_other_programs_understand_is_refused_with_its_reason() {
    for (expression, why) in [
        ("0 0 3 * * *", "six fields: crontab(5) has no seconds"),
        ("0 0 3 * * * 2027", "seven fields: crontab(5) has no seconds"),
        ("0 3 * *", "4 fields, and five are needed"),
        ("daily", "1 field, and five are needed"),
        ("0 0 L * *", "day of month: \"L\": crontab(5) has no L"),
        ("0 0 15W * *", "day of month: \"15W\": crontab(5) has no W"),
        ("0 0 * * 5L", "day of week: \"5L\": crontab(5) has no L"),
        ("0 0 * * 5#2", "day of week: \"5#2\": crontab(5) has no #"),
        ("0 0 ? * 1", "day of month: \"?\": crontab(5) has no ?; write *"),
        ("H * * * *", "minute: \"H\": crontab(5) has no H"),
        ("0~30 * * * *", "minute: \"0~30\": crontab(5) has no ~"),
        ("5/15 * * * *", "minute: \"5/15\": a step follows * or a range"),
        ("*/0 * * * *", "minute: \"*/0\": the step must be"),
        ("**/2 * * * *", "minute: \"**/2\": a * stands alone"),
        ("0,,5 * * * *", "minute: an item of the list is empty"),
        ("60 * * * *", "minute: 60 is not from 0 to 59"),
        ("0 24 * * *", "hour: 24 is not from 0 to 23"),
        ("0 0 0 * *", "day of month: 0 is not from 1 to 31"),
        ("0 0 * 13 *", "month: 13 is not from 1 to 12"),
        ("0 0 * * 8", "day of week: 8 is not from 0 to 7"),
        ("0 0 * * fri-mon", "day of week: \"fri-mon\" runs backwards"),
        ("0 0 * * fri-sun", "day of week: \"fri-sun\" runs backwards, and cron would never run it; Sunday is also 7"),
        ("0 0 * jun 1,monday", "day of week: \"monday\" is not a number from 0 to 7, or one of sun mon"),
        ("0 0 31 feb *", "no month of those has such a day"),
        ("0 0 31 2,4,6,9,11 */2", "no month of those has such a day"),
        ("@Daily", "cron knows no @Daily; its words are @hourly @daily"),
        ("@every_minute", "cron knows no @every_minute"),
        ("@daily * * * *", "day of"),
        ("+5 * * * *", "minute: \"+5\" is not a number"),
    ] {
        let said = refused(expression);
        assert!(said.starts_with(why) || expression.starts_with("@daily "), "{expression}: {said}");
    }
}

/// What an expression's field says, by the manual.
#[derive(Debug, Clone)]
struct Word {
    text: String,
    values: Vec<u32>,
}

const NAMES: [(usize, &str); 2] =
    [(3, "jan feb mar apr may jun jul aug sep oct nov dec"), (4, "sun mon tue wed thu fri sat")];

fn word(at: usize) -> impl Strategy<Value = Word> {
    let (low, high): (u32, u32) = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)][at];
    let item = (low..=high, low..=high, 1u32..9, 0u8..5, any::<bool>()).prop_map(
        move |(one, other, step, form, named): (u32, u32, u32, u8, bool)| {
            let (first, last) = (one.min(other), one.max(other));
            let show = |value: u32| {
                let names = NAMES.iter().find(|(field, _)| *field == at && named);
                let name = names.and_then(|(_, names)| names.split(' ').nth(usize::try_from(value - low).unwrap()));
                name.map_or_else(
                    || value.to_string(),
                    |name| if value % 2 == 0 { name.to_uppercase() } else { name.into() },
                )
            };
            // Sunday ends a range as a number only.
            let range = format!("{}-{}", show(first), if last == 7 { "7".into() } else { show(last) });
            let stepped = |from: u32, to: u32| (from..=to).filter(|value| (value - from) % step == 0).collect();
            match form {
                0 => Word { text: "*".into(), values: (low..=high).collect() },
                1 => Word { text: format!("*/{step}"), values: stepped(low, high) },
                2 => Word { text: range, values: (first..=last).collect() },
                3 => Word { text: format!("{range}/{step}"), values: stepped(first, last) },
                _ => Word { text: show(one), values: vec![one] },
            }
        },
    );
    vec(item, 1..4).prop_map(|items| Word {
        text: items.iter().map(|item| item.text.clone()).collect::<Vec<_>>().join(","),
        values: items.into_iter().flat_map(|item| item.values).collect(),
    })
}

/// crontab(5): a job is started when minute, hour and month match, and one of the two days; both must, if one of them
/// begins with a star.
fn matches(words: &[Word], wall: NaiveDateTime) -> bool {
    let has = |at: usize, value: u32| words[at].values.contains(&value);
    let weekday = wall.weekday().num_days_from_sunday();
    let is_weekday = has(4, weekday) || (weekday == 0 && has(4, 7));
    let is_day = has(2, wall.day());
    let both = words[2].text.starts_with('*') || words[4].text.starts_with('*');
    let day = if both { is_day && is_weekday } else { is_day || is_weekday };
    day && has(0, wall.minute()) && has(1, wall.hour()) && has(3, wall.month())
}

fn brute(words: &[Word], from: NaiveDateTime, until: NaiveDateTime, count: usize) -> Vec<NaiveDateTime> {
    let minute = TimeDelta::minutes(1);
    let first = from.with_second(0).unwrap() + minute;
    let minutes = std::iter::successors(Some(first), |last| Some(*last + minute)).take_while(|wall| *wall < until);
    minutes.filter(|wall| matches(words, *wall)).take(count).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn the_next_times_are_those_of_the_manual(
        words in (word(0), word(1), word(2), word(3), word(4)),
        start in 0i64..(6 * 366 * 86400),
        hours in select(vec![-10, -5, 0, 2, 13]),
    ) {
        let words = [words.0, words.1, words.2, words.3, words.4];
        let expression = words.iter().map(|word| word.text.clone()).collect::<Vec<_>>().join(" ");
        let zone = FixedOffset::east_opt(hours * 3600).unwrap();
        let now = DateTime::from_timestamp(1_790_000_000 + start, 0).unwrap();
        let wall = now.with_timezone(&zone).naive_local();
        // Two months of minutes are looked at one by one.
        let until = wall + TimeDelta::days(62);
        let expected = brute(&words, wall, until, 5);
        match expression.parse::<Crontab>() {
            Ok(crontab) => {
                let next = crontab.next(now, 5, &zone, &[]);
                let next: Vec<_> = next.into_iter().map(|time| time.with_timezone(&zone).naive_local()).collect();
                let within: Vec<_> = next.iter().copied().filter(|wall| *wall < until).collect();
                prop_assert_eq!(&within, &expected, "{}", expression);
                // What comes later is right too, if not proven to be the next.
                prop_assert!(next.iter().all(|wall| matches(&words, *wall)), "{}", expression);
            }
            Err(why) => {
                prop_assert!(why.starts_with("no month"), "{}: {}", expression, why);
                let years = brute(&words, wall, wall + TimeDelta::days(4 * 366), 1);
                prop_assert_eq!(years, Vec::new(), "{}", expression);
            }
        }
    }
}

#[test]
fn words_are_the_fields_that_they_stand_for() {
    let now = "2026-11-24T02:30:00Z".parse().unwrap();
    let next = |expression: &str| expression.parse::<Crontab>().unwrap().next(now, 2, &Utc, &[]);
    for (word, fields) in WORDS {
        assert_eq!(next(word), next(fields), "{word}");
    }
    assert_eq!(next("@weekly")[0].to_string(), "2026-11-29 00:00:00 UTC");
    let reboot: Crontab = "@reboot".parse().unwrap();
    assert!(reboot.is_at_boot() && reboot.next(now, 5, &Utc, &[]).is_empty());
}

/// A zone with summer time, that of the middle of Europe in 2026 and 2027.
#[derive(Debug, Clone)]
struct Europe;

const CHANGES: [(&str, i32, i32); 2] = [("2026-10-25T01:00:00Z", 7200, 3600), ("2027-03-28T01:00:00Z", 3600, 7200)];

fn transition(at: usize) -> Transition {
    let (time, before, after) = CHANGES[at];
    Transition { at: time.parse().unwrap(), before, after }
}

impl TimeZone for Europe {
    type Offset = FixedOffset;

    fn from_offset(_: &FixedOffset) -> Self {
        Self
    }

    fn offset_from_local_date(&self, _: &NaiveDate) -> LocalResult<FixedOffset> {
        unreachable!("only times are asked for")
    }

    fn offset_from_local_datetime(&self, wall: &NaiveDateTime) -> LocalResult<FixedOffset> {
        let [summer, winter] = [7200, 3600].map(|offset| FixedOffset::east_opt(offset).unwrap());
        let holds = |offset: &FixedOffset| self.offset_from_utc_datetime(&(*wall - *offset)) == *offset;
        match (holds(&summer), holds(&winter)) {
            (true, true) => LocalResult::Ambiguous(summer, winter),
            (true, false) => LocalResult::Single(summer),
            (false, true) => LocalResult::Single(winter),
            (false, false) => LocalResult::None,
        }
    }

    fn offset_from_utc_date(&self, _: &NaiveDate) -> FixedOffset {
        unreachable!("only times are asked for")
    }

    fn offset_from_utc_datetime(&self, time: &NaiveDateTime) -> FixedOffset {
        let is_winter = (0..2).map(transition).filter(|change| change.at.naive_utc() <= *time).count() == 1;
        FixedOffset::east_opt(if is_winter { 3600 } else { 7200 }).unwrap()
    }
}

#[track_caller]
fn around(expression: &str, now: &str, expected: &[&str]) {
    let crontab: Crontab = expression.parse().unwrap();
    let next = crontab.next(now.parse().unwrap(), expected.len(), &Europe, &[transition(0), transition(1)]);
    let shown: Vec<_> = next.iter().map(|time| time.format("%d %H:%M").to_string()).collect();
    assert_eq!(shown, expected, "{expression}");
}

#[test]
fn a_fixed_time_is_made_up_for_after_a_gap_and_comes_once_in_a_repeat() {
    // 02:30 does not come on the 28th, and the clock goes on with 03:00 at 01:00 UTC.
    around("30 2 * * *", "2027-03-26T12:00:00Z", &["27 01:30", "28 01:00", "29 00:30"]);
    around("30 2 * * *", "2026-10-24T12:00:00Z", &["25 00:30", "26 01:30"]);
    // In the second of the two hours, the first one has had it.
    around("30 2 * * *", "2026-10-25T01:10:00Z", &["26 01:30"]);
}

#[test]
fn a_star_goes_by_the_clock() {
    around("*/30 2 * * *", "2027-03-27T12:00:00Z", &["29 00:00", "29 00:30"]);
    around("30 * * * *", "2027-03-28T00:10:00Z", &["28 00:30", "28 01:30"]);
    around("30 * * * *", "2026-10-24T23:45:00Z", &["25 00:30", "25 01:30", "25 02:30"]);
    around("*/30 2 * * *", "2026-10-24T23:45:00Z", &["25 00:00", "25 00:30", "25 01:00", "25 01:30", "26 01:00"]);
    around("@hourly", "2026-10-24T23:45:00Z", &["25 00:00", "25 01:00", "25 02:00"]);
    around("*/30 2 * * *", "2026-10-25T01:10:00Z", &["25 01:30", "26 01:00"]);
}

#[test]
fn a_change_of_the_clock_is_told_where_it_concerns_the_job() {
    let effect = |expression: &str, at| expression.parse::<Crontab>().unwrap().effect(&transition(at));
    assert_eq!(effect("30 2 * * *", 0), Some("cron starts the job the first time only"));
    assert_eq!(effect("30 2 * * *", 1), Some("cron starts the job right after it"));
    assert!(effect("* 2 * * *", 0).unwrap().contains("both times"));
    assert!(effect("30 * * * *", 1).unwrap().contains("does not make up"));
    for unconcerned in ["30 3 * * *", "59 1 * * *", "0 2 * * 1", "@reboot", "@daily"] {
        assert_eq!((effect(unconcerned, 0), effect(unconcerned, 1)), (None, None), "{unconcerned}");
    }
}
