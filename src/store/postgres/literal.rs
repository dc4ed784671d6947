//! Text inside of statements.

/// The text as a literal of SQL.
///
/// Several statements in one message save round trips, and such a message has no parameters; so the text is written into
/// it. That is safe, whatever the text: in `E'…'` the quote and the backslash are the only characters that mean anything,
/// whatever `standard_conforming_strings` says, and both are doubled. The connection speaks UTF-8, where neither of their
/// bytes is part of another character. A NUL, which would end the message, is in no name and in no JSON, and is left out.
/// (Names, students, request ids and tokens have none of these anyway: see src/name.rs.)
pub(super) fn literal(text: impl AsRef<str>) -> String {
    let text = text.as_ref();
    let mut quoted = String::with_capacity(text.len() + 3);
    quoted.push_str("E'");
    for character in text.chars() {
        match character {
            '\0' => continue,
            '\'' | '\\' => quoted.push(character),
            _ => {}
        }
        quoted.push(character);
    }
    quoted.push('\'');
    quoted
}

/// The same of something that may not be there.
pub(super) fn optional(text: Option<impl AsRef<str>>) -> String {
    text.map_or_else(|| "NULL".to_owned(), literal)
}

/// A number, or `NULL`.
pub(super) fn number(number: Option<impl Into<u64>>) -> String {
    number.map_or_else(|| "NULL".to_owned(), |number| number.into().to_string())
}

/// Several texts, with commas between them.
pub(super) fn list<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    texts.into_iter().map(literal).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_its_literal() {
        assert_eq!(literal("a@b.c"), "E'a@b.c'");
        assert_eq!(literal(r"'; DROP TABLE trips; --\"), r"E'''; DROP TABLE trips; --\\'");
        assert_eq!(literal("\\'"), "E'\\\\'''");
        assert_eq!(literal("a\0b"), "E'ab'");
        assert_eq!(list(["a", "b'"]), "E'a',E'b'''");
        assert_eq!(
            (optional(None::<&str>), number(None::<u32>), number(Some(7u32))),
            ("NULL".into(), "NULL".into(), "7".into())
        );
    }
}
