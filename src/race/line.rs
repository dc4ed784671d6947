//! The line of students in front of a queue lock, as they told it: who took which ticket, and who was served when.

use super::{gathering::Heard, report::Event, what::What};

/// Gives the tickets their places in one line, 1, 2, 3 …, instead of the lane's large numbers, and puts them in order.
///
/// A student takes its ticket and then looks at the clock, and others may do both in between. But nobody has a ticket
/// before the smaller ones are taken, so each was taken no later than any larger one was told.
pub(super) fn number(heard: &mut [Heard]) {
    let mut tickets: Vec<(u64, usize)> =
        heard.iter().enumerate().filter_map(|(at, heard)| Some((ticket(heard.what)?, at))).collect();
    tickets.sort_unstable();
    let mut earliest = None;
    for (_, at) in tickets.iter().rev() {
        let told = &mut heard[*at].at;
        *told = earliest.map_or(*told, |earliest| (*told).min(earliest));
        earliest = Some(*told);
    }
    for (place, (_, at)) in (1..).zip(tickets) {
        set_ticket(&mut heard[at].what, place);
    }
    // Of one moment: what a student says before, its ticket, and then in the order in which it was said.
    heard.sort_by_key(|heard| match heard.what {
        What::Checking => (heard.at, 0),
        what => (heard.at, ticket(what).unwrap_or(u64::MAX)),
    });
}

/// Each stands in a line of its own.
pub(super) fn number_each_alone(heard: &mut [Heard]) {
    for heard in heard {
        set_ticket(&mut heard.what, 1);
    }
}

/// Whether everybody who got the lock got it in the order of their tickets; who gave up waiting stood in nobody's way.
/// `None` when nobody stood in line.
pub(super) fn was_kept(events: &[Event]) -> Option<bool> {
    let tickets: Vec<(u32, u64)> = events.iter().filter_map(|e| Some((e.student, ticket(e.what)?))).collect();
    let of = |student| tickets.iter().find(|(owner, _)| *owner == student).map(|(_, ticket)| *ticket);
    let served = events.iter().filter(|event| matches!(event.what, What::LockTaken));
    let served: Vec<Option<u64>> = served.map(|event| of(event.student)).collect();
    // Who was served without a ticket overtook whoever had one.
    (!tickets.is_empty()).then(|| served.iter().all(Option::is_some) && served.is_sorted())
}

fn ticket(what: What) -> Option<u64> {
    match what {
        What::TicketTaken { ticket, .. } => Some(ticket),
        _ => None,
    }
}

fn set_ticket(what: &mut What, number: u64) {
    if let What::TicketTaken { ticket, .. } = what {
        *ticket = number;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::race::moment::Moment;

    fn takes(ticket: u64) -> What {
        What::TicketTaken { ticket, after: None }
    }

    fn events(told: &[(u32, What)]) -> Vec<Event> {
        told.iter().map(|(student, what)| Event { after: Duration::ZERO, student: *student, what: *what }).collect()
    }

    #[test]
    fn who_is_served_in_the_order_of_the_tickets() {
        let line = [(1, takes(1)), (2, takes(2)), (3, takes(3))];
        let kept = |served: &[(u32, What)]| was_kept(&events(&[&line, served].concat()));
        let got = What::LockTaken;
        assert_eq!(kept(&[(1, got), (2, got), (3, got)]), Some(true));
        assert_eq!(kept(&[(1, got), (3, got), (2, got)]), Some(false));
        assert_eq!(kept(&[(2, got), (1, got)]), Some(false));
        assert_eq!(kept(&[(1, got), (3, got), (2, What::Locked)]), Some(true), "2 gave up");
        assert_eq!(kept(&[(4, got), (1, got), (2, got), (3, got)]), Some(false), "4 stood in no line");
        assert_eq!(was_kept(&events(&[(1, got), (2, What::Locked)])), None);
    }

    #[test]
    fn tickets_are_numbered_and_told_in_order() {
        let said = |student, at: u64, what| {
            let at: Moment = serde_json::from_str(&at.to_string()).unwrap();
            Heard { student, at, what }
        };
        let mut heard = vec![
            said(1, 10, What::Checking),
            said(2, 11, What::Checking),
            said(2, 12, takes(907)),
            said(3, 12, What::Checking),
            said(3, 13, takes(909)),
            said(1, 14, takes(905)),
            said(1, 14, What::LockTaken),
        ];
        number(&mut heard);
        let told: Vec<_> = heard.iter().map(|heard| (heard.student, ticket(heard.what))).collect();
        let expected = [(1, None), (2, None), (3, None), (1, Some(1)), (2, Some(2)), (3, Some(3)), (1, None)];
        assert_eq!(told, expected);
        number_each_alone(&mut heard);
        assert!(heard.iter().filter_map(|heard| ticket(heard.what)).all(|ticket| ticket == 1));
    }
}
