//! Against systemd's own tool; without it there is nothing to be tested.

use super::*;

fn is_here() -> bool {
    let is_here = Command::new(TOOL).arg("--version").output().is_ok();
    if !is_here {
        // (The suite of the installed program counts such skips; here a line must do.)
        eprintln!("SKIPPED: {TOOL} is not installed");
    }
    is_here
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[test]
fn the_times_are_those_of_the_tool() {
    if !is_here() {
        return;
    }
    let calendar = Calendar::judge("Mon..Fri 03:15 UTC").unwrap();
    assert_eq!((calendar.zone(), &*calendar.bare), (Some("UTC"), "Mon..Fri *-*-* 03:15:00"));
    let next = calendar.next(time("2026-11-27T12:00:00Z"), 2).unwrap();
    assert_eq!(next, [time("2026-11-30T03:15:00Z"), time("2026-12-01T03:15:00Z")]);
    let calendar = Calendar::judge("*-*-* 02:30 America/New_York").unwrap();
    assert_eq!(calendar.next(time("2026-11-24T12:00:00Z"), 1).unwrap(), [time("2026-11-25T07:30:00Z")]);
    assert_eq!(Calendar::judge("daily").unwrap().zone(), None);
    assert!(Calendar::judge("2020-01-01").unwrap().next(time("2026-11-24T12:00:00Z"), 5).unwrap().is_empty());
    for bad in ["sometimes", "25:00", "-1", "*-*-* 02:30 Nowhere/City", ""] {
        assert!(matches!(Calendar::judge(bad), Err(Fault::Refused(_))), "{bad}");
    }
}

#[test]
fn the_changes_of_another_zone_are_found() {
    if !is_here() {
        return;
    }
    let now = time("2026-11-24T12:00:00Z");
    let found = transitions("Europe/Berlin", now).unwrap();
    let expected = [("2027-03-28T01:00:00Z", 3600, 7200), ("2027-10-31T01:00:00Z", 7200, 3600)];
    assert_eq!(found, expected.map(|(at, before, after)| Transition { at: time(at), before, after }));
    // Half an hour, at half past in UTC.
    let found = transitions("Australia/Lord_Howe", now).unwrap();
    assert_eq!(found[0].wall().0.to_string(), "2027-04-04 01:30:00");
    assert_eq!(transitions("UTC", now).unwrap(), []);
}

#[test]
fn what_systemd_does_with_a_change_is_what_the_tool_does() {
    if !is_here() {
        return;
    }
    let changes = transitions("Europe/Berlin", time("2026-11-24T12:00:00Z")).unwrap();
    let effects = |event: &str| {
        let calendar = Calendar::judge(&format!("{event} Europe/Berlin")).unwrap();
        [0, 1].map(|at| calendar.effect(&changes[at]).unwrap())
    };
    let [gap, repeat] = effects("*-*-* 02:30");
    assert!(gap.unwrap().contains("leaves it out"));
    assert_eq!(repeat.unwrap(), "systemd starts the job the first time only");
    let [gap, repeat] = effects("*:0/10");
    assert!(gap.is_some() && repeat.unwrap().contains("first time only"));
    assert_eq!(effects("*-*-* 03:30"), [None, None]);
    assert_eq!(effects("Mon 02:30"), [None, None]);
    // The tool itself, in the night of the gap: nothing between what comes before and what comes after.
    let calendar = Calendar::judge("*:30 Europe/Berlin").unwrap();
    let next = calendar.next(time("2027-03-28T00:00:00Z"), 2).unwrap();
    assert_eq!(next, [time("2027-03-28T00:30:00Z"), time("2027-03-28T01:30:00Z")]);
    let calendar = Calendar::judge("*-*-* 02:30 Europe/Berlin").unwrap();
    let next = calendar.next(time("2027-03-27T12:00:00Z"), 1).unwrap();
    assert_eq!(next, [time("2027-03-29T00:30:00Z")]);
}
