//! Durations as people write them: on the command line and in job files.

use std::time::Duration;

/// A longer one is a slip of the keyboard (`1000000d`), and arithmetic with it may overflow.
const MOST: Duration = Duration::from_secs(100 * 365 * DAY + 25 * DAY);
const DAY: u64 = 86_400;

/// A duration: seconds with decimals, or a number with a unit.
pub(crate) fn parse(given: &str) -> Result<Duration, String> {
    let wrong = || {
        let wanted = "give seconds (0.3) or a number with a unit (90s 5m 1h 1d)";
        if given.is_empty() { wanted.to_owned() } else { format!("{given:?}: {wanted}") }
    };
    let (number, unit) = match given.strip_suffix(['s', 'm', 'h', 'd']) {
        Some(number) => (number, &given[number.len()..]),
        None => (given, "s"),
    };
    let seconds = match unit {
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => 1.0,
    };
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let negative = given.starts_with('-') && parse(&given[1..]).is_ok();
        return Err(if negative { "it must not be negative".to_owned() } else { wrong() });
    }
    let number: f64 = number.parse().map_err(|_| wrong())?;
    from_seconds(number * seconds)
}

/// The same of a number of seconds.
pub(crate) fn from_seconds(seconds: f64) -> Result<Duration, String> {
    if seconds < 0.0 {
        return Err("it must not be negative".to_owned());
    }
    let duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| *duration <= MOST);
    duration.ok_or_else(|| "it is more than 100 years".to_owned())
}

/// A duration that would mean nothing if it were 0.
pub(crate) fn positive(duration: Duration) -> Result<Duration, String> {
    if duration.is_zero() { Err("0 is no duration; leave it out for none".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse("0.3"), Ok(Duration::from_millis(300)));
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse("36525d"), Ok(MOST));
        assert!(parse("").unwrap_err().starts_with("give seconds"), "nothing was given that could be shown");
        for bad in ["s", "1e3", "1w", "2h30m", "inf", "5 m", "1.2.3", "ß", "--1", "."] {
            let why = parse(bad).unwrap_err();
            assert!(why.starts_with(&format!("\"{bad}\": give seconds")), "{bad}: {why}");
        }
    }

    #[test]
    fn absurd_ones_are_refused_in_their_own_words() {
        assert_eq!(parse("-5m").unwrap_err(), "it must not be negative");
        for absurd in ["36525.1d", "99999999999", &"9".repeat(400)] {
            assert_eq!(parse(absurd).unwrap_err(), "it is more than 100 years", "{absurd}");
        }
        assert!(from_seconds(f64::NAN).is_err() && from_seconds(f64::INFINITY).is_err());
        assert_eq!(positive(Duration::ZERO).unwrap_err(), "0 is no duration; leave it out for none");
    }
}
