//! Numbers as strtol(3) and strtod(3) read them.

use std::time::Duration;

/// What a whole number may be wrong in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotWhole {
    NoNumber,
    /// It does not fit 32 bits.
    TooLarge,
}

/// A decimal number that fits 32 bits.
pub(super) fn whole(text: &[u8]) -> Result<i32, NotWhole> {
    let text = after_spaces(text);
    let negative = text.first() == Some(&b'-');
    let digits = text.strip_prefix(b"+").or(text.strip_prefix(b"-")).unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NotWhole::NoNumber);
    }
    let most = i64::from(u32::MAX);
    let size = digits.iter().fold(0, |sum, digit| most.min(sum * 10 + i64::from(digit - b'0')));
    i32::try_from(if negative { -size } else { size }).map_err(|_| NotWhole::TooLarge)
}

/// A wait, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seconds {
    For(Duration),
    /// A number, but no timer takes it.
    Impossible,
}

/// A decimal or hexadecimal number of seconds, to the microsecond.
pub(super) fn seconds(text: &[u8]) -> Option<Seconds> {
    let text = std::str::from_utf8(after_spaces(text)).ok()?;
    let number = text.parse().ok().or_else(|| hexadecimal(text))?;
    // Below a microsecond it is nothing, on either side of zero.
    let number: f64 = if (-1e-6..1e-6).contains(&number) { 0.0 } else { number };
    Some(match Duration::try_from_secs_f64(number) {
        Ok(wait) if number < 2.0_f64.powi(63) => Seconds::For(wait),
        _ => Seconds::Impossible,
    })
}

/// `0x1.8p3`.
fn hexadecimal(text: &str) -> Option<f64> {
    let (sign, text) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    let (digits, exponent) = match text.split_once(['p', 'P']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (before, after) = digits.split_once('.').unwrap_or((digits, ""));
    if before.is_empty() && after.is_empty() {
        return None;
    }
    let mut value = 0.0;
    for digit in before.chars().chain(after.chars()) {
        value = value * 16.0 + f64::from(digit.to_digit(16)?);
    }
    let places = i32::try_from(after.len()).ok()?.checked_mul(4)?;
    Some(sign * value * 2.0_f64.powi(exponent.saturating_sub(places)))
}

fn after_spaces(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|b| matches!(b, b' ' | b'\t'..=b'\r')).count();
    &text[spaces..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers() {
        assert_eq!(whole(b"9"), Ok(9));
        assert_eq!(whole(b" \t+07"), Ok(7));
        assert_eq!(whole(b"-5"), Ok(-5));
        assert_eq!(whole(b"-2147483648"), Ok(i32::MIN));
        assert_eq!(whole(b"2147483648"), Err(NotWhole::TooLarge));
        assert_eq!(whole(b"99999999999999999999999"), Err(NotWhole::TooLarge));
        for bad in ["", " ", "x", "9 ", "0x9", "1.0", "--1", "+"] {
            assert_eq!(whole(bad.as_bytes()), Err(NotWhole::NoNumber), "{bad:?}");
        }
    }

    #[test]
    fn numbers_of_seconds() {
        let wait = |seconds| Some(Seconds::For(Duration::from_secs_f64(seconds)));
        for (text, seconds) in [
            ("1", 1.0),
            (".5", 0.5),
            ("1.", 1.0),
            ("1e3", 1e3),
            (" +2", 2.0),
            ("-0", 0.0),
            ("0x1.8p1", 3.0),
            ("1e-9", 0.0),
        ] {
            assert_eq!(super::seconds(text.as_bytes()), wait(seconds), "{text}");
        }
        for text in ["-1", "-0.5", "inf", "INFINITY", "nan", "1e999", "9.3e18"] {
            assert_eq!(super::seconds(text.as_bytes()), Some(Seconds::Impossible), "{text}");
        }
        for text in ["", "1x", "1 ", ".", "1e", "0x", "0xg", "1.5.2", "-w"] {
            assert_eq!(super::seconds(text.as_bytes()), None, "{text}");
        }
    }
}
