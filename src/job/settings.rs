//! What one place, the command line or a job file, says about how a job is run; and the values in the words of both.

use std::time::Duration;

use super::{Hold, Options, OutputMode, Policy, Retries};
use crate::{
    crontab::Tick,
    error::{Error, Result},
    lock::Wait,
    name::Name,
};

/// What one place says; `None` where it is silent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) policy: Option<PolicyWord>,
    pub(crate) wait: Option<Duration>,
    pub(crate) conflict_exit_code: Option<u8>,
    pub(crate) stop_exit_code: Option<u8>,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) kill_after: Option<Duration>,
    pub(crate) signal: Option<i32>,
    pub(crate) retries: Option<u32>,
    pub(crate) retry_delay: Option<Duration>,
    pub(crate) retry_backoff: Option<f64>,
    pub(crate) retry_max_delay: Option<Duration>,
    pub(crate) ok_exit: Option<Vec<u8>>,
    pub(crate) once_per: Option<Duration>,
    pub(crate) jitter: Option<Duration>,
    pub(crate) slots: Option<u32>,
    pub(crate) locks: Option<Vec<Name>>,
    pub(crate) close: Option<bool>,
    pub(crate) hold: Option<Hold>,
    pub(crate) lease: Option<Duration>,
    pub(crate) tick: Option<Tick>,
    pub(crate) output: Option<OutputMode>,
    pub(crate) keep_runs: Option<u32>,
    pub(crate) log_limit: Option<u64>,
}

impl Settings {
    /// These, and what `base` says where these are silent. What answers one question counts as one: `-n` is not
    /// contradicted by a job file's `wait`, nor `--close` by its `hold`.
    #[must_use]
    pub(crate) fn over(self, base: Self) -> Self {
        let (policy, wait) = match (self.policy, self.wait) {
            (None, None) => (base.policy, base.wait),
            own => own,
        };
        let (close, hold) = match (self.close, self.hold) {
            (None, None) => (base.close, base.hold),
            own => own,
        };
        Self {
            policy,
            wait,
            conflict_exit_code: self.conflict_exit_code.or(base.conflict_exit_code),
            stop_exit_code: self.stop_exit_code.or(base.stop_exit_code),
            time_limit: self.time_limit.or(base.time_limit),
            kill_after: self.kill_after.or(base.kill_after),
            signal: self.signal.or(base.signal),
            retries: self.retries.or(base.retries),
            retry_delay: self.retry_delay.or(base.retry_delay),
            retry_backoff: self.retry_backoff.or(base.retry_backoff),
            retry_max_delay: self.retry_max_delay.or(base.retry_max_delay),
            ok_exit: self.ok_exit.or(base.ok_exit),
            once_per: self.once_per.or(base.once_per),
            jitter: self.jitter.or(base.jitter),
            slots: self.slots.or(base.slots),
            locks: self.locks.or(base.locks),
            close,
            hold,
            lease: self.lease.or(base.lease),
            tick: self.tick.or(base.tick),
            output: self.output.or(base.output),
            keep_runs: self.keep_runs.or(base.keep_runs),
            log_limit: self.log_limit.or(base.log_limit),
        }
    }

    /// What cannot be meant together, in words that fit both places.
    pub(crate) fn contradiction(&self) -> Option<&'static str> {
        match self {
            Self { wait: Some(_), policy: Some(PolicyWord::Skip | PolicyWord::Replace), .. } => {
                Some("a time to wait goes with the policy wait only; leave one of the two out")
            }
            Self { close: Some(true), hold: Some(Hold::Tree), .. } => Some(
                "hold tree keeps the lock with whoever has its descriptor, and close gives it to nobody; leave one of the two out",
            ),
            Self { retry_delay: Some(delay), retry_max_delay: Some(most), .. } if delay > most => {
                Some("the retry delay is longer than the longest retry delay; exchange them or leave one out")
            }
            _ => None,
        }
    }

    /// What they come to, with the defaults for the rest.
    ///
    /// # Errors
    /// `Usage` when they contradict each other.
    pub(crate) fn lower(self) -> Result<Options> {
        if let Some(contradiction) = self.contradiction() {
            return Err(Error::Usage(contradiction.to_owned()));
        }
        let default = Options::default();
        let mut ok_exit = self.ok_exit.unwrap_or(default.ok_exit);
        ok_exit.sort_unstable();
        ok_exit.dedup();
        let mut locks = self.locks.unwrap_or(default.locks);
        locks.sort_unstable();
        locks.dedup();
        let delay = self.retry_delay.unwrap_or(default.retries.delay);
        Ok(Options {
            policy: match (self.policy, self.wait) {
                (Some(PolicyWord::Skip), _) => Policy::Skip,
                (Some(PolicyWord::Replace), _) => Policy::Replace,
                (_, Some(wait)) => Policy::Wait(Wait::For(wait)),
                (Some(PolicyWord::Wait), None) => Policy::Wait(Wait::Forever),
                (None, None) => default.policy,
            },
            conflict_exit_code: self.conflict_exit_code.unwrap_or(default.conflict_exit_code),
            stop_exit_code: self.stop_exit_code.or(default.stop_exit_code),
            time_limit: self.time_limit.or(default.time_limit),
            kill_after: self.kill_after.or(default.kill_after),
            signal: self.signal.unwrap_or(default.signal),
            retries: Retries {
                count: self.retries.unwrap_or(default.retries.count),
                delay,
                backoff: self.retry_backoff.unwrap_or(default.retries.backoff),
                // Who asks for a long delay and does not speak of the longest means that delay.
                max_delay: self.retry_max_delay.unwrap_or(default.retries.max_delay.max(delay)),
            },
            ok_exit,
            once_per: self.once_per.or(default.once_per),
            jitter: self.jitter.unwrap_or(default.jitter),
            slots: self.slots.unwrap_or(default.slots),
            locks,
            close: self.close.unwrap_or(default.close),
            hold: self.hold.unwrap_or(default.hold),
            lease: self.lease.or(default.lease),
            tick: self.tick.or(default.tick),
            output: self.output.unwrap_or(default.output),
            keep_runs: self.keep_runs.unwrap_or(default.keep_runs),
            log_limit: self.log_limit.unwrap_or(default.log_limit),
        })
    }
}

/// A policy by its word; how long it waits is said apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PolicyWord {
    Skip,
    Wait,
    Replace,
}

/// A type whose values are a few words, the same on the command line and in a job file.
pub(crate) trait Words: Sized + Copy + Send + Sync + 'static {
    /// Each word and what it means.
    const WORDS: &'static [(&'static str, Self)];

    /// What the word means.
    fn from_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, value)| *value)
    }
}

impl Words for PolicyWord {
    const WORDS: &'static [(&'static str, Self)] =
        &[("skip", Self::Skip), ("wait", Self::Wait), ("replace", Self::Replace)];
}

impl Words for Hold {
    const WORDS: &'static [(&'static str, Self)] = &[("command", Self::Command), ("tree", Self::Tree)];
}

impl Words for OutputMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("inherit", Self::Inherit), ("capture", Self::Capture), ("on-failure", Self::OnFailure)];
}

/// A whole number within bounds.
pub(crate) fn whole<N>(given: &str, bounds: std::ops::RangeInclusive<N>) -> Result<N, String>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let digits = !given.is_empty() && given.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { given.parse::<N>().ok() } else { None };
    number
        .filter(|number| bounds.contains(number))
        .ok_or_else(|| format!("give a whole number from {} to {}", bounds.start(), bounds.end()))
}

/// An exit code.
pub(crate) fn exit_code(given: &str) -> Result<u8, String> {
    whole(given, 0..=255)
}

/// Exit codes with commas between them.
pub(crate) fn exit_codes(given: &str) -> Result<Vec<u8>, String> {
    given
        .split(',')
        .map(|code| exit_code(code.trim()))
        .collect::<Result<_, _>>()
        .map_err(|why| format!("{why}, with commas between several"))
}

/// How many may run at once.
pub(crate) fn slots(given: &str) -> Result<u32, String> {
    whole(given, 1..=Options::MAX_SLOTS)
}

/// A count that may be 0.
pub(crate) fn count(given: &str) -> Result<u32, String> {
    whole(given, 0..=u32::MAX)
}

/// A number of times that would mean nothing if it were 0.
pub(crate) fn positive_count(given: &str) -> Result<u32, String> {
    whole(given, 1..=u32::MAX)
}

/// What a pause is multiplied by.
pub(crate) fn backoff(given: &str) -> Result<f64, String> {
    let factor = given.parse::<f64>().ok().filter(|factor| factor.is_finite() && *factor >= 1.0);
    factor.ok_or_else(|| "give a factor of 1 or more (1 keeps the delay, 2 doubles it)".to_owned())
}

/// A time that must not be 0.
pub(crate) fn time(given: &str) -> Result<Duration, String> {
    crate::duration::parse(given).and_then(crate::duration::positive)
}

/// The times that a run is for.
pub(crate) fn tick(given: &str) -> Result<Tick, String> {
    given.parse()
}

/// How long a lease lasts: a second to a day.
pub(crate) fn lease(given: &str) -> Result<Duration, String> {
    let day = Duration::from_secs(24 * 60 * 60);
    let lease = crate::duration::parse(given)?;
    if (Duration::from_secs(1)..=day).contains(&lease) { Ok(lease) } else { Err("give 1 s to 1 d".to_owned()) }
}

/// No log has a smaller limit, in bytes.
const LEAST_LOG: u64 = 16 * 1024;

/// A number of bytes, with k, M or G for the powers of 1024.
pub(crate) fn bytes(given: &str) -> Result<u64, String> {
    let (number, unit) = match given.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G']) {
        Some(number) => (number, given.as_bytes()[number.len()].to_ascii_lowercase()),
        None => (given, b' '),
    };
    let shift = match unit {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        _ => 0,
    };
    let number = whole(number, 1..=u64::MAX).ok().and_then(|number| number.checked_mul(1 << shift));
    // Files end where `off_t` does; and what is cut is cut by blocks, of which both ends want some.
    number
        .filter(|bytes| (LEAST_LOG..=i64::MAX as u64).contains(bytes))
        .ok_or_else(|| "give a number of bytes, at least 16k, or one with a unit (64k 10M 1G)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn silence_comes_to_the_defaults() {
        assert_eq!(Settings::default().lower().unwrap(), Options::default());
    }

    #[test]
    fn the_nearer_place_wins_and_the_other_fills_in() {
        let file = Settings { time_limit: Some(seconds(5)), slots: Some(3), retries: Some(7), ..Settings::default() };
        let line = Settings { time_limit: Some(seconds(1)), retries: Some(0), ..Settings::default() };
        let options = line.over(file).lower().unwrap();
        assert_eq!((options.time_limit, options.slots, options.retries.count), (Some(seconds(1)), 3, 0));
    }

    #[test]
    fn what_answers_one_question_is_replaced_as_one() {
        let file = Settings { wait: Some(seconds(5)), close: Some(true), ..Settings::default() };
        let line = Settings { policy: Some(PolicyWord::Skip), hold: Some(Hold::Tree), ..Settings::default() };
        let options = line.over(file).lower().unwrap();
        assert_eq!((options.policy, options.close, options.hold), (Policy::Skip, false, Hold::Tree));
    }

    #[test]
    fn policies() {
        let policy = |policy, wait| Settings { policy, wait, ..Settings::default() }.lower().map(|o| o.policy);
        assert_eq!(policy(Some(PolicyWord::Wait), None).unwrap(), Policy::Wait(Wait::Forever));
        assert_eq!(
            policy(Some(PolicyWord::Wait), Some(seconds(3))).unwrap(),
            Policy::Wait(Wait::For(Duration::from_secs(3)))
        );
        assert_eq!(policy(None, Some(seconds(0))).unwrap(), Policy::Wait(Wait::For(Duration::ZERO)));
        assert!(policy(Some(PolicyWord::Replace), Some(seconds(3))).is_err());
        assert!(policy(Some(PolicyWord::Skip), Some(seconds(3))).is_err());
    }

    #[test]
    fn sets_are_sorted_and_have_each_member_once() {
        let name = |name: &str| name.parse::<Name>().unwrap();
        let locks = Some(vec![name("db"), name("Z"), name("db"), name("a")]);
        let options = Settings { locks, ok_exit: Some(vec![3, 0, 3]), ..Settings::default() }.lower().unwrap();
        assert_eq!((options.locks, options.ok_exit), (vec![name("Z"), name("a"), name("db")], vec![0, 3]));
    }

    #[test]
    fn a_long_delay_is_not_cut_by_the_default() {
        let retries =
            |retry_delay, retry_max_delay| Settings { retry_delay, retry_max_delay, ..Settings::default() }.lower();
        assert_eq!(retries(Some(seconds(600)), None).unwrap().retries.max_delay, Duration::from_secs(600));
        assert_eq!(retries(Some(seconds(1)), Some(seconds(5))).unwrap().retries.max_delay, Duration::from_secs(5));
        assert!(retries(Some(seconds(6)), Some(seconds(5))).is_err());
    }

    #[test]
    fn numbers() {
        assert_eq!(exit_codes("0,3, 255"), Ok(vec![0, 3, 255]));
        assert_eq!((bytes("64k"), bytes("1G"), bytes("16384")), (Ok(65536), Ok(1 << 30), Ok(16384)));
        for bad in ["", "0,", "256", "-1", "+3", "x"] {
            assert!(exit_codes(bad).is_err(), "{bad}");
        }
        for bad in ["", "k", "0", "-1", "15k", "1.5M", "1T", "99999999999G", "18446744073709551615"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        for bad in ["0.5", "-2", "inf", "NaN", "", "x"] {
            assert!(backoff(bad).is_err(), "{bad}");
        }
        assert!(slots("0").is_err() && slots("65").is_err() && slots("64") == Ok(64));
        assert!(time("0").is_err() && time("0.0m").is_err() && time("-1").is_err());
    }
}
