//! The line by which triplock knows again what it wrote: whose it is, how much follows, and a checksum of that.
//!
//! Somebody else's file of that name has no such line; one that was edited since has another checksum. Neither is
//! overwritten or removed.

use std::ops::Range;

const BEGIN: &str = "# triplock install: ";

/// A text with its marker.
pub(super) fn marked(owner: &str, hint: &str, body: &str) -> String {
    let (lines, checksum) = (body.lines().count(), crc32fast::hash(body.as_bytes()));
    format!("{BEGIN}{owner}, {lines} lines, {checksum:08x}; {hint}\n{body}")
}

/// A marked part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// With its marker.
    pub(super) range: Range<usize>,
    /// It is as it was written.
    pub(super) is_intact: bool,
}

/// The part of the text that belongs to that owner.
pub(super) fn find(text: &str, owner: &str) -> Option<Block> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let body = start + line.len();
        let said = line.strip_prefix(BEGIN).and_then(|said| said.strip_prefix(owner)?.strip_prefix(", "));
        if let Some(said) = said {
            let mut words = said.split([' ', ';']);
            let count = words.next().and_then(|count| count.parse::<usize>().ok());
            let checksum = words.nth(1).and_then(|digits| u32::from_str_radix(digits, 16).ok());
            let length = text[body..].split_inclusive('\n').take(count.unwrap_or(0)).map(str::len).sum::<usize>();
            let end = body + length;
            let is_intact = count.is_some() && checksum == Some(crc32fast::hash(&text.as_bytes()[body..end]));
            return Some(Block { range: start..end, is_intact });
        }
        start = body;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_among_strange_lines_and_known_to_be_whole() {
        let block = marked("job a", "hint; with, anything", "1\n2\n");
        let text = format!("before\n{}{block}after\n", marked("job ab", "x", "0\n"));
        let found = find(&text, "job a").unwrap();
        assert_eq!((&text[found.range.clone()], found.is_intact), (&*block, true));
        assert_eq!(find(&text, "job b"), None);
        let edited = text.replace("\n2\n", "\n3\n");
        assert!(!find(&edited, "job a").unwrap().is_intact);
        let shortened = &text[..found.range.end - 2];
        assert!(!find(shortened, "job a").unwrap().is_intact);
    }
}
