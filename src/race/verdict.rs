//! How a race came out, and how it had to.

use std::fmt;

use serde::Serialize;

/// How a race came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// More bookings than seats.
    Oversold,
    /// The count is not the seats less the bookings: somebody's update overwrote another's.
    LostUpdate,
    /// Neither.
    Safe,
}

impl Verdict {
    /// Judges a race for `seats` that ended with that count and that many bookings, one seat each.
    pub fn of(seats: u32, seats_left: i64, bookings: usize) -> Self {
        let (seats, bookings) = (i64::from(seats), i64::try_from(bookings).unwrap_or(i64::MAX));
        if bookings > seats {
            Self::Oversold
        } else if seats_left != seats - bookings {
            Self::LostUpdate
        } else {
            Self::Safe
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Oversold => "oversold",
            Self::LostUpdate => "lost update",
            Self::Safe => "safe",
        })
    }
}

/// What is known of a race before it is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// The lock keeps out everybody in that place.
    Safe,
    /// It does not, there are more students than seats, and everybody checks before anybody acts.
    Unsafe,
    /// It does not, but there are seats enough or the delays are short, so luck may help.
    Nothing,
}

impl Promise {
    /// Whether the race came out like that.
    pub fn is_kept_by(self, verdict: Verdict) -> bool {
        match self {
            Self::Safe => verdict == Verdict::Safe,
            Self::Unsafe => verdict != Verdict::Safe,
            Self::Nothing => true,
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Safe => "safe",
            Self::Unsafe => "unsafe",
            Self::Nothing => "nothing",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        // seats, seats left, bookings
        assert_eq!(Verdict::of(1, 0, 1), Verdict::Safe);
        assert_eq!(Verdict::of(5, 5, 0), Verdict::Safe);
        assert_eq!(Verdict::of(1, -1, 2), Verdict::Oversold);
        assert_eq!(Verdict::of(1, 0, 2), Verdict::Oversold, "also when an update was lost as well");
        assert_eq!(Verdict::of(5, 4, 2), Verdict::LostUpdate);
        assert_eq!(Verdict::of(5, 2, 2), Verdict::LostUpdate);
        assert_eq!(Verdict::of(u32::MAX, i64::from(u32::MAX), 0), Verdict::Safe);
    }

    #[test]
    fn promises() {
        for (promise, oversold, lost, safe) in [
            (Promise::Safe, false, false, true),
            (Promise::Unsafe, true, true, false),
            (Promise::Nothing, true, true, true),
        ] {
            assert_eq!(promise.is_kept_by(Verdict::Oversold), oversold);
            assert_eq!(promise.is_kept_by(Verdict::LostUpdate), lost);
            assert_eq!(promise.is_kept_by(Verdict::Safe), safe);
        }
    }
}
