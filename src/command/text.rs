//! Times, spans and sizes for people.

use chrono::{DateTime, Local, Utc};

/// A moment, by the clock on the wall.
pub(super) fn local(time: DateTime<Utc>) -> String {
    time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// A span of seconds in two units at most: `0.25s`, `5.1s`, `2m 05s`, `1h 02m`, `3d 04h`.
pub(super) fn span(seconds: f64) -> String {
    if seconds < 9.995 {
        return format!("{:.2}s", seconds.max(0.0));
    }
    if seconds < 59.95 {
        return format!("{seconds:.1}s");
    }
    // Rounded and positive; a span past the end of time is shown as one.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86400, whole / 3600 % 24, whole / 60 % 60);
    match (days, whole / 3600) {
        (0, 0) => format!("{minutes}m {:02}s", whole % 60),
        (0, _) => format!("{hours}h {minutes:02}m"),
        _ => format!("{days}d {hours:02}h"),
    }
}

/// How long ago that was, or how long it has lasted.
pub(super) fn since(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - time).num_seconds().max(0);
    // A clock that is set back makes it a span of nothing; no span of ours has more seconds than a float tells apart.
    #[allow(clippy::cast_precision_loss)]
    if seconds < 60 { format!("{seconds}s") } else { span(seconds as f64) }
}

/// Bytes: `640 KiB`, `12.5 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    // Three digits are shown.
    #[allow(clippy::cast_precision_loss)]
    let kib = bytes as f64 / 1024.0;
    if kib < 1000.0 {
        format!("{kib:.0} KiB")
    } else if kib < 1000.0 * 1024.0 {
        format!("{:.1} MiB", kib / 1024.0)
    } else {
        format!("{:.1} GiB", kib / 1024.0 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_take_two_units() {
        for (seconds, text) in [
            (-1.0, "0.00s"),
            (0.254, "0.25s"),
            (9.996, "10.0s"),
            (59.96, "1m 00s"),
            (125.0, "2m 05s"),
            (3600.0, "1h 00m"),
            (86399.9, "1d 00h"),
            (273_600.0, "3d 04h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn sizes_take_a_unit() {
        assert_eq!([bytes(0), bytes(655_360), bytes(13_107_200)], ["0 KiB", "640 KiB", "12.5 MiB"]);
    }
}
