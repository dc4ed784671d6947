//! How long a student waits between check and act.

use std::{fmt, str::FromStr, time::Duration};

use crate::error::{Error, Result};

/// The range that delays are drawn from, in whole milliseconds, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    min: u32,
    max: u32,
}

impl Delay {
    /// The longest delay that is accepted: a minute.
    pub const MAX_MILLIS: u32 = 60_000;

    /// A delay from `min` to `max` milliseconds.
    ///
    /// # Errors
    /// `Usage` when `min` is larger than `max`, or `max` than [`Delay::MAX_MILLIS`].
    pub fn from_millis(min: u32, max: u32) -> Result<Self> {
        let wrong = |why: String| Err(Error::Usage(why));
        if max > Self::MAX_MILLIS {
            return wrong(format!("a delay of {max} ms is too long; {} ms is the most", Self::MAX_MILLIS));
        }
        if min > max {
            return wrong(format!("{min} ms is more than {max} ms; give the smaller number first, as 100-1000"));
        }
        Ok(Self { min, max })
    }

    /// The shortest delay.
    pub fn min(self) -> Duration {
        Duration::from_millis(self.min.into())
    }

    /// The longest delay.
    pub fn max(self) -> Duration {
        Duration::from_millis(self.max.into())
    }

    /// The delays of students 1, 2, 3 …: the same seed gives the same delays, however many students there are.
    pub fn of_students(self, seed: u64) -> impl Iterator<Item = Duration> {
        let mut random = fastrand::Rng::with_seed(seed);
        std::iter::repeat_with(move || Duration::from_millis(random.u32(self.min..=self.max).into()))
    }
}

impl Default for Delay {
    /// 100 to 1000 ms: close to the textbook's 0 to 1000, but always after everybody's check.
    fn default() -> Self {
        Self { min: 100, max: 1000 }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

impl FromStr for Delay {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self> {
        let (min, max) = given.split_once('-').unwrap_or((given, given));
        let millis = |part: &str| {
            // `parse` alone would take a plus sign.
            if part.bytes().all(|b| b.is_ascii_digit()) { part.parse::<u32>().ok() } else { None }
        };
        match (millis(min), millis(max)) {
            (Some(min), Some(max)) => Self::from_millis(min, max),
            _ => Err(Error::Usage(format!(
                "give a range of milliseconds, the smaller first and at most {}, as 100-1000",
                Self::MAX_MILLIS
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read() {
        assert_eq!("100-1000".parse::<Delay>().unwrap(), Delay::default());
        assert_eq!("7".parse::<Delay>().unwrap(), Delay::from_millis(7, 7).unwrap());
        for bad in ["", "x", "-", "5-", "-5", "500-100", "1-2-3", "+1-2", "1.5", "0-60001", "99999999999", "1 - 2"] {
            let error = bad.parse::<Delay>().unwrap_err().to_string();
            assert!(!error.contains('\n') && !error.is_empty(), "{bad}: {error}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let delay = Delay::default();
        let first = |n: usize, seed| delay.of_students(seed).take(n).collect::<Vec<_>>();
        assert_eq!(first(50, 7), first(50, 7));
        assert_eq!(first(50, 7)[..2], first(2, 7)[..], "a student's delay does not depend on how many others come");
        assert_ne!(first(50, 7), first(50, 8));
        assert!(first(1000, 1).iter().all(|d| (delay.min()..=delay.max()).contains(d)));
    }
}
