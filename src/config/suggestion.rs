//! "did you mean"

/// The known word that is nearest to what was given, if one is near.
pub(crate) fn nearest<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // `--time-limit`, `Time-Limit` and `timeLimit` are one thought.
    let plain = |word: &str| word.trim_start_matches('-').replace('-', "_").to_lowercase();
    let wanted = plain(given);
    // A third of its letters may be wrong.
    let most = (wanted.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&wanted, &plain(known)), known))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_finds_what_was_meant() {
        let known = ["time_limit", "wait", "retries", "slots"];
        for (given, meant) in [
            ("timelimit", Some("time_limit")),
            ("time-limit", Some("time_limit")),
            ("--time-limit", Some("time_limit")),
            ("wiat", Some("wait")),
            ("Retry", None),
            ("retires", Some("retries")),
            ("slot", Some("slots")),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, known), meant, "{given}");
        }
    }
}
