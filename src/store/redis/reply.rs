//! Taking replies apart.

use redis::Value;

use super::trouble::Failure;

fn senseless(expected: &str, value: &Value) -> Failure {
    let mut found = format!("{value:?}");
    if let Some((at, _)) = found.char_indices().nth(60) {
        found.truncate(at);
        found.push('…');
    }
    Failure::Senseless(format!("it replied {found} where {expected} belongs; see what has changed its data"))
}

/// A string; `None` where there is nothing.
pub(super) fn optional_text(value: Value) -> Result<Option<String>, Failure> {
    match value {
        Value::Nil => Ok(None),
        Value::Okay => Ok(Some("OK".to_owned())),
        Value::SimpleString(text) => Ok(Some(text)),
        Value::BulkString(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(e) => Err(senseless("a text", &Value::BulkString(e.into_bytes()))),
        },
        other => Err(senseless("a text", &other)),
    }
}

/// A string.
pub(super) fn text(value: Value) -> Result<String, Failure> {
    optional_text(value)?.ok_or_else(|| senseless("a text", &Value::Nil))
}

/// An integer.
pub(super) fn integer(value: &Value) -> Result<i64, Failure> {
    match value {
        Value::Int(number) => Ok(*number),
        other => Err(senseless("a number", other)),
    }
}

/// A list of any length.
pub(super) fn list(value: Value) -> Result<Vec<Value>, Failure> {
    match value {
        Value::Array(values) => Ok(values),
        other => Err(senseless("a list", &other)),
    }
}

/// A list of that length.
pub(super) fn array<const N: usize>(value: Value) -> Result<[Value; N], Failure> {
    list(value)?.try_into().map_err(|values| senseless("a list of another length", &Value::Array(values)))
}

/// A whole number written as a string.
pub(super) fn number<T: std::str::FromStr>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| senseless("a number", &Value::BulkString(text.as_bytes().to_vec())))
}
