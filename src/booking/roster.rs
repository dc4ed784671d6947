//! Who has booked what: the whole of a trip, in memory. For listings and as the tests' model; booking itself needs
//! only the [`Totals`] and one student's entry.

use std::collections::BTreeMap;

use super::{Change, Event, Totals, decide};
use crate::{lock::Fence, name::Student};

/// A trip with all its bookings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    totals: Totals,
    booked: BTreeMap<Student, u32>,
}

impl Default for Roster {
    fn default() -> Self {
        Self { totals: Totals::NOTHING, booked: BTreeMap::new() }
    }
}

impl Roster {
    /// A trip as a store has it.
    ///
    /// # Errors
    /// How the bookings contradict the sums.
    pub(crate) fn of(totals: Totals, bookings: impl IntoIterator<Item = (Student, u32)>) -> Result<Self, &'static str> {
        let booked: BTreeMap<_, _> = bookings.into_iter().collect();
        let seats = booked.values().try_fold(0u32, |sum, seats| sum.checked_add(*seats));
        if seats != Some(totals.booked()) || booked.len() as u64 != totals.bookings {
            return Err("its bookings do not add up to its sums");
        }
        Ok(Self { totals, booked })
    }

    /// The sums.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Every booking: who, and how many seats.
    pub fn bookings(&self) -> impl Iterator<Item = (&Student, u32)> {
        self.booked.iter().map(|(student, seats)| (student, *seats))
    }

    /// What asking for that change would come to.
    pub fn decide(&self, change: &Change) -> Event {
        let booked = change.student().and_then(|student| self.booked.get(student)).copied();
        decide(&self.totals, change, booked)
    }

    /// Adds an event.
    ///
    /// # Errors
    /// The rule that the event breaks; nothing is changed then.
    pub fn apply(&mut self, event: &Event, fence: Fence) -> Result<(), &'static str> {
        let next = self.totals.after(event, fence)?;
        match event {
            Event::Booked { student, seats } => {
                if self.booked.contains_key(student) {
                    return Err("it books for a student who has a booking");
                }
                self.booked.insert(student.clone(), *seats);
            }
            Event::Cancelled { student, seats } => {
                if self.booked.get(student) != Some(seats) {
                    return Err("it cancels another booking than the student has");
                }
                self.booked.remove(student);
            }
            Event::Added { .. } | Event::Removed => self.booked.clear(),
            Event::Resized { .. } | Event::Refused { .. } | Event::Batch { .. } => {}
        }
        self.totals = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn changes() -> impl Strategy<Value = Change> {
        let student = (0..6u8).prop_map(|n| n.to_string().parse::<Student>().unwrap());
        prop_oneof![
            1 => (1..8u32).prop_map(|seats| Change::Add { seats }),
            8 => (student.clone(), 1..4u32).prop_map(|(student, seats)| Change::Book { student, seats }),
            4 => student.prop_map(|student| Change::Cancel { student }),
            2 => (1..8u32).prop_map(|seats| Change::Resize { seats }),
            1 => Just(Change::Remove),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn whatever_is_asked_for_the_seats_add_up(changes in prop::collection::vec(changes(), 1..80)) {
            let mut roster = Roster::default();
            for (at, change) in (1..).zip(&changes) {
                if roster.totals().added.is_none() && !matches!(change, Change::Add { .. }) {
                    continue;
                }
                let before = roster.clone();
                let event = roster.decide(change);
                prop_assert!(event.answers(change), "{:?} answers {:?}", event, change);
                prop_assert_eq!(roster.apply(&event, Fence(at)), Ok(()));
                let totals = roster.totals();
                prop_assert_eq!(totals.booked(), roster.bookings().map(|(_, seats)| seats).sum::<u32>());
                prop_assert_eq!(totals.bookings, roster.bookings().count() as u64);
                prop_assert!(totals.seats_left <= totals.seats);
                if let Event::Refused { .. } = event {
                    prop_assert!(roster.bookings().eq(before.bookings()));
                    prop_assert_eq!(totals.seats_left, before.totals().seats_left);
                }
            }
        }

        #[test]
        fn an_older_fence_commits_nothing(fence in 2..u64::MAX, older in 0..2u64) {
            let mut roster = Roster::default();
            roster.apply(&Event::Added { seats: 1 }, Fence(fence)).unwrap();
            let booked = Event::Booked { student: "1".parse().unwrap(), seats: 1 };
            prop_assert!(roster.apply(&booked, Fence(older)).is_err());
        }
    }
}
