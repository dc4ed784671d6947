//! Values of a file, read by the parsers of the command line: a value means the same in both places.

use std::borrow::Cow;

use toml::{Spanned, de::DeValue};

use crate::job::settings::Words;

/// A value with its place in the text.
pub(crate) type Value<'t> = Spanned<DeValue<'t>>;

/// Which spellings a value has besides a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Integer {
    /// A whole number, and no string.
    Only,
    /// Any number.
    OrFloat,
    /// A whole number.
    OrText,
}

/// What the command line's parser makes of the value.
pub(crate) fn parsed<T>(
    value: &DeValue<'_>,
    spelling: Integer,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, String> {
    match (value, spelling) {
        (DeValue::Integer(number), _) => parse(&decimal(number.as_str(), number.radix())),
        (DeValue::Float(number), Integer::OrFloat) => parse(number.as_str()),
        (DeValue::String(text), Integer::OrText | Integer::OrFloat) => parse(text),
        (DeValue::String(text), Integer::Only) => parse(text).and_then(|_| Err(format!("write {text} without quotes"))),
        // In the words that say what is wanted.
        (other, _) => match parse("") {
            Err(wanted) => Err(format!("{} does not fit; {wanted}", kind(other))),
            Ok(_) => Err(format!("{} does not fit", kind(other))),
        },
    }
}

/// The digits of a number to base 10: `0x10` is 16.
fn decimal(digits: &str, radix: u32) -> Cow<'_, str> {
    match radix {
        10 => Cow::Borrowed(digits),
        _ => i64::from_str_radix(digits, radix).map_or(Cow::Borrowed(digits), |number| number.to_string().into()),
    }
}

/// One of a few words.
pub(crate) fn word<T: Words>(value: &DeValue<'_>) -> Result<T, String> {
    value.as_str().and_then(T::from_word).ok_or_else(|| {
        let known = T::WORDS.iter().map(|(word, _)| *word);
        let meant = value.as_str().and_then(|given| super::nearest(given, known.clone()));
        match meant {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("give one of {}", known.map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")),
        }
    })
}

/// A string that a command line could hold.
pub(crate) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    let text = value.as_str().ok_or_else(|| format!("{} does not fit; give a string in quotes", kind(value)))?;
    if text.contains('\0') { Err("it holds a NUL character; take it out".to_owned()) } else { Ok(text) }
}

/// True or false.
pub(crate) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("{} does not fit; give true or false", kind(value)))
}

/// Several values, or one alone.
pub(crate) fn array<T>(
    value: &DeValue<'_>,
    each: impl Fn(&DeValue<'_>) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    match value.as_array() {
        Some(values) => values.iter().map(|value| each(value.get_ref())).collect(),
        None => each(value).map(|value| vec![value]),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with decimals",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
