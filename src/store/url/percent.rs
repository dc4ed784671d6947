//! Percent-encoding (RFC 3986): how odd characters are written in a URL.

use std::fmt::{self, Write as _};

/// What is wrong with a part of a URL; without the part, which may be a password's.
pub(super) type Wrong = &'static str;

/// A part of a URL as it is meant.
pub(super) fn decode(part: &str) -> Result<String, Wrong> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let [high, low, after @ ..] = after else { return Err(NOT_HEXADECIMAL) };
        let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return Err(NOT_HEXADECIMAL) };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
        rest = after;
    }
    if bytes.contains(&0) {
        return Err("%00 means nothing in it");
    }
    String::from_utf8(bytes).map_err(|_| "what its %XX mean is not UTF-8")
}

const NOT_HEXADECIMAL: Wrong = "a % in it is not followed by two hexadecimal digits; write % itself as %25";

/// Writes a part so that [`decode`] gives it back; `also`: what may stand as it is besides letters, digits and `-._~`.
pub(super) fn encode(f: &mut fmt::Formatter<'_>, part: &str, also: &[u8]) -> fmt::Result {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also.contains(&byte) {
            f.write_char(char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_meant() {
        assert_eq!(decode("a%2Fb%20%C3%A9é+").unwrap(), "a/b éé+");
        for wrong in ["%", "%4", "%4x", "a%+1", "%é"] {
            assert_eq!(decode(wrong), Err(NOT_HEXADECIMAL), "{wrong}");
        }
        assert!(decode("%00").is_err() && decode("%FF").is_err());
    }
}
