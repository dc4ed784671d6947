//! A run that stands in a lane, and how the files of its queue are called.

use crate::{
    job::RunId,
    lock::{Lane, Place},
};

/// A run that stands in the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pending {
    pub(crate) ticket: u64,
    pub(crate) run: RunId,
    /// It is recorded that its process is gone.
    pub(crate) is_left: bool,
}

impl Pending {
    pub(super) fn file_name(self) -> String {
        let Self { ticket, run, is_left } = self;
        format!("{run}-{ticket}.{}", if is_left { "left" } else { "json" })
    }

    pub(super) fn gone(self) -> String {
        format!("{}-{}.gone", self.run, self.ticket)
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let (name, suffix) = name.rsplit_once('.')?;
        let (run, ticket) = name.split_once('-')?;
        let is_left = match suffix {
            "json" => false,
            "left" => true,
            _ => return None,
        };
        let pending = Self { ticket: ticket.parse().ok()?, run: RunId(run.parse().ok()?), is_left };
        // `+7` and `07` are numbers, and no names of ours.
        (pending.file_name() == format!("{name}.{suffix}") && Lane::is_possible(pending.into())).then_some(pending)
    }
}

impl From<Pending> for Place {
    fn from(pending: Pending) -> Self {
        Self { ticket: pending.ticket, run: pending.run.0 }
    }
}

impl From<Place> for Pending {
    fn from(place: Place) -> Self {
        Self { ticket: place.ticket, run: RunId(place.run), is_left: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_which_run_and_which_ticket() {
        let pending = Pending { ticket: 1_764_444_444_123_456, run: RunId(17), is_left: false };
        assert_eq!(pending.file_name(), "17-1764444444123456.json");
        assert_eq!(Pending::parse("17-1764444444123456.json"), Some(pending));
        let left = Pending { is_left: true, ..pending };
        assert_eq!(Pending::parse("17-1764444444123456.left"), Some(left));
        for other in [
            "paused",
            "17-9.json",
            "17-9300000000000000000.json",
            "281474976710656-1764444444123456.json",
            "17.json",
            "17-.json",
            "017-9.json",
            "17-+9.json",
            "17-9.tmp",
            "x-9.json",
            "17-9-1.json",
        ] {
            assert_eq!(Pending::parse(other), None, "{other}");
        }
        let sooner = Pending { ticket: 8, run: RunId(99), is_left: true };
        assert!(sooner < pending, "the ticket decides");
    }
}
