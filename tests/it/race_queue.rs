//! `triplock race --lock queue`: one after another, in the order of arrival.

use serde_json::{Value, json};

use crate::race::race;

fn of<'r>(row: &'r Value, event: &str) -> Vec<&'r Value> {
    row["events"].as_array().unwrap().iter().filter(|e| e["event"] == event).collect()
}

fn students(entries: &[&Value]) -> Vec<u64> {
    entries.iter().map(|entry| entry["student"].as_u64().unwrap()).collect()
}

#[test]
fn everybody_is_served_in_the_order_of_arrival() {
    for place in ["threads", "processes"] {
        for round in 0..5 {
            let told = race(&format!("--lock queue --in {place} --students 24 --seats 10 --delay 0-3 --json")).json(0);
            let (row, case) = (&told["rows"][0], format!("{place}, round {round}: {told}"));
            assert_eq!(
                (&row["in_order"], &row["as_promised"], &told["ok"]),
                (&json!(true), &json!(true), &json!(true))
            );

            // The tickets are told in their order, each after the one before.
            let tickets = of(row, "ticket_taken");
            let numbers: Vec<_> = tickets.iter().map(|event| event["ticket"].as_u64().unwrap()).collect();
            assert_eq!(numbers, (1..=24).collect::<Vec<_>>(), "{case}");
            let order = students(&tickets);
            let after: Vec<_> = tickets.iter().map(|event| event["after"].clone()).collect();
            let before: Vec<_> = [Value::Null].into_iter().chain(order[..23].iter().map(|s| json!(s))).collect();
            assert_eq!(after, before, "{case}");

            // Served in that order, as the tracker's own list says as well, until it is sold out.
            assert_eq!(students(&of(row, "lock_taken")), order, "{case}");
            assert_eq!(
                students(&row["bookings"].as_array().unwrap().iter().collect::<Vec<_>>()),
                order[..10],
                "{case}"
            );
            assert_eq!(students(&of(row, "sold_out")), order[10..], "{case}");
            assert!(of(row, "locked").is_empty(), "{case}");
        }
    }
}

#[test]
fn the_second_in_line_hears_that_it_is_sold_out() {
    let told = race("--lock queue --delay 50-60").prints(0);
    for part in [
        "takes ticket 1\n",
        "takes ticket 2, after student ",
        "  sold out\n",
        "Verdict: safe (1 booking for 1 seat), served in the order of arrival\n",
    ] {
        assert_eq!(told.matches(part).count(), 1, "{part}: {told}");
    }
    assert!(told.ends_with("keeps out other processes, and serves them in the order of arrival.\n"), "{told}");
}

#[test]
fn each_host_has_a_line_of_its_own() {
    let told = race("--lock queue --in hosts --delay 300-350").prints(1);
    assert_eq!(told.matches("takes ticket 1\n").count(), 2, "{told}");
    assert!(told.contains("Verdict: oversold (2 bookings for 1 seat)\n"), "{told}");
    let told = race("--lock queue --in hosts --delay 300-350 --json").json(1);
    assert_eq!((&told["rows"][0]["in_order"], &told["rows"][0]["as_promised"]), (&Value::Null, &json!(true)));
}

#[test]
fn who_does_not_wait_is_told_to_try_later() {
    for place in ["threads", "processes"] {
        let told = race(&format!("--lock queue --in {place} -n --delay 300-350 --json")).json(0);
        let row = &told["rows"][0];
        assert_eq!((of(row, "locked").len(), of(row, "ticket_taken").len()), (1, 0), "{told}");
        assert_eq!(row["in_order"], Value::Null);

        // The wait for the turn is over before the first is served, and so is that for the lock.
        let told = race(&format!("--lock queue --in {place} -w 0.1 --students 3 --delay 500-500 --json")).json(0);
        let row = &told["rows"][0];
        assert_eq!((of(row, "locked").len(), of(row, "ticket_taken").len()), (2, 3), "{told}");
        assert!(of(row, "locked").iter().all(|event| event["ms"].as_f64() >= Some(100.0)), "{told}");
        assert_eq!((&row["in_order"], row["bookings"].as_array().unwrap().len()), (&json!(true), 1));
    }
}

#[test]
fn the_matrix_says_who_was_served_in_order() {
    let told = race("--matrix --delay 300-400").prints(0);
    for (row, end) in [
        ("\nqueue     threads ", "yes (safe, in order)"),
        ("\nqueue     processes ", "yes (safe, in order)"),
        ("\nqueue     hosts ", "yes (unsafe)"),
    ] {
        let line = told.split_once(row).and_then(|(_, rest)| rest.lines().next()).unwrap_or_else(|| panic!("{told}"));
        assert!(line.ends_with(end), "{told}");
    }
    assert_eq!(told.matches("in order").count(), 2, "{told}");
}
