//! Names that become paths, and ids that only become JSON strings.
//!
//! A [`Name`] is checked before a path is built from it, so no name can leave the state directory.

use std::{fmt, str::FromStr, sync::Arc};

/// The longest name or id, in bytes.
pub const MAX_LEN: usize = 128;

/// Why a string is not a name or an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidName {
    what: &'static str,
    given: String,
    why: String,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {} {}: {}", self.what, shown(&self.given), self.why)
    }
}

impl std::error::Error for InvalidName {}

/// At most 40 characters of what was given, quoted, with control characters escaped.
fn shown(given: &str) -> String {
    let head: String = given.chars().take(40).collect();
    if head.len() < given.len() { format!("{head:?}…") } else { format!("{head:?}") }
}

fn check(what: &'static str, given: &str, extra: &[u8]) -> Result<Arc<str>, InvalidName> {
    let fail = |why: String| Err(InvalidName { what, given: given.to_owned(), why });
    if given.is_empty() {
        return fail("it is empty".to_owned());
    }
    if given.len() > MAX_LEN {
        return fail(format!("it has {} bytes, and {MAX_LEN} are allowed", given.len()));
    }
    if given.starts_with(['.', '-']) {
        return fail("it must not start with '.' or '-'".to_owned());
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b) || extra.contains(&b);
    match given.chars().find(|c| !u8::try_from(*c).is_ok_and(allowed)) {
        None => Ok(given.into()),
        Some('\\') if unescaped(given).is_some_and(|meant| check(what, &meant, extra).is_ok()) => {
            let meant = unescaped(given).unwrap_or_default();
            fail(format!("it is escaped as by systemd-escape(1), and names are not; {meant} is meant"))
        }
        Some(bad) => {
            let extra: String = extra.iter().flat_map(|b| [' ', char::from(*b)]).collect();
            fail(format!("{bad:?} is not allowed, only A-Z a-z 0-9 . _ -{extra}"))
        }
    }
}

/// What systemd-escape(1) would have made that text of: `my\x2djob` of `my-job`.
fn unescaped(given: &str) -> Option<String> {
    let mut parts = given.split("\\x");
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let digits = part.get(..2)?;
        text.push(char::from(u8::from_str_radix(digits, 16).ok()?));
        text.push_str(&part[2..]);
    }
    (!text.contains('\\')).then_some(text)
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        // Shared: an answer, its line and the map of a batch hold the same text.
        pub struct $type(Arc<str>);

        impl $type {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(given: &str) -> Result<Self, InvalidName> {
                check($what, given, $extra).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "a {}", $what)
                    }

                    fn visit_str<E: serde::de::Error>(self, given: &str) -> Result<$type, E> {
                        given.parse().map_err(E::custom)
                    }
                }
                from.deserialize_str(Text)
            }
        }
    };
}

name_type!(
    /// The name of a trip or a job: 1-128 bytes of `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`.
    Name, "name", b""
);
name_type!(
    /// Who books. As a [`Name`], and `@ + :` as well, so that a mail address will do.
    Student, "student", b"@+:"
);
name_type!(
    /// Names one request, so that a retry returns the first answer. As a [`Student`] in form.
    RequestId, "request id", b"@+:"
);

/// Fresh request ids: 128 bits as 32 hexadecimal digits, counted up from a random start that the kernel gives.
#[derive(Debug, Default)]
pub(crate) struct RequestIds(Option<u128>);

impl RequestIds {
    /// One that nobody has had.
    ///
    /// # Errors
    /// When the kernel has no randomness to give.
    pub(crate) fn next(&mut self) -> std::io::Result<RequestId> {
        let number = match self.0 {
            Some(last) => last.wrapping_add(1),
            None => {
                let mut bits = [0u8; 16];
                // Up to 256 bytes come whole.
                rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty())?;
                u128::from_ne_bytes(bits)
            }
        };
        self.0 = Some(number);
        let mut digits = [0u8; 32];
        for (digit, at) in digits.iter_mut().zip((0..32).rev()) {
            *digit = b"0123456789abcdef"[(number >> (4 * at)) as usize & 0xf];
        }
        Ok(RequestId(std::str::from_utf8(&digits).expect("digits are ASCII").into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_safe_file_name() {
        for good in ["1", "nightly", "a.b_c-d", &"x".repeat(128)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-n", "a/b", "../x", "a\0b", "🚌", "a b", "a@b", &"x".repeat(129)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_was_escaped_for_systemd_is_told_from_others() {
        let error = r"my\x2djob".parse::<Name>().unwrap_err().to_string();
        assert!(
            error.ends_with("it is escaped as by systemd-escape(1), and names are not; my-job is meant"),
            "{error}"
        );
        for other in [r"my\job", r"my\x2", r"my\xäb", r"a\x2fb", r"\x2djob"] {
            assert!(other.parse::<Name>().unwrap_err().to_string().contains(r"'\\' is not allowed"), "{other}");
        }
    }

    #[test]
    fn a_student_may_be_a_mail_address() {
        assert!("anna+trip@example.org".parse::<Student>().is_ok());
        assert!("anna\"".parse::<Student>().is_err());
    }

    #[test]
    fn an_error_is_one_short_line() {
        let error = "x\n".repeat(500).parse::<Name>().unwrap_err().to_string();
        assert!(!error.contains('\n') && error.len() < 200, "{error}");
    }

    #[test]
    fn generated_ids_differ() {
        let (mut one, mut other) = (RequestIds::default(), RequestIds::default());
        let ids = [one.next().unwrap(), one.next().unwrap(), other.next().unwrap()];
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2], "{ids:?}");
        assert!(ids.iter().all(|id| id.as_str().parse::<RequestId>().as_ref() == Ok(id)));
    }
}
