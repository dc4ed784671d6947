//! A password, which is shown to nobody.

use std::fmt;

/// A password. It is neither printed nor logged: its `Debug` is a dash.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// For who sends it to the server.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A text in which each URL has lost what stands before its `@`: a message may quote a command line, and somebody may
/// have put a password there.
pub(crate) fn without_passwords(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        shown.push_str(before);
        // A password may hold anything, quotation marks and spaces too, so it ends at the last `@` of the line.
        let line = &after[..after.find('\n').unwrap_or(after.len())];
        let word = &line[..line.find([' ', '\'', '"']).unwrap_or(line.len())];
        if let Some(end) = line.rfind('@') {
            shown.push('…');
            rest = &after[end..];
        } else if may_be_cut(word) {
            shown.push('…');
            rest = &after[word.len()..];
        } else {
            rest = after;
        }
        // `?password=…`
        if let Some(at) = rest.find("password=") {
            let value = &rest[at + "password=".len()..];
            let end = value.find(['&', '\'', '"', ' ', '\n']).unwrap_or(value.len());
            shown.push_str(&rest[..at + "password=".len()]);
            shown.push('…');
            rest = &value[end..];
        }
    }
    shown.push_str(rest);
    shown
}

/// Whether it may be the beginning of a URL with a password, whose end somebody cut off: a colon with no port after it.
fn may_be_cut(word: &str) -> bool {
    let authority = word.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    host.split_once(':').is_some_and(|(_, port)| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_shown_to_nobody() {
        assert_eq!(format!("{:?}", Secret::new("s3cret")), "Secret(…)");
        for (text, shown) in [
            ("no URL at all: a@b", "no URL at all: a@b"),
            ("'redis://h:1/2' is fine", "'redis://h:1/2' is fine"),
            ("unrecognized subcommand 'redis://:s3cret@h/1'", "unrecognized subcommand 'redis://…@h/1'"),
            ("'postgres://u:s3 'c@ret@h' and 'x'\nnext", "'postgres://…@h' and 'x'\nnext"),
            ("\"redis://:s3cr\"…: ':' is not allowed", "\"redis://…\"…: ':' is not allowed"),
            ("rediss://[::1]:1 and redis://[::1]/x", "rediss://[::1]:1 and redis://[::1]/x"),
            ("postgres://h/d?password=s3cret&user=x", "postgres://h/d?password=…&user=x"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }
}
