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
pub(crate) struct Block<'t> {
    /// Whom the marker names.
    pub(crate) owner: &'t str,
    /// With its marker.
    pub(crate) range: Range<usize>,
    /// It is as it was written.
    pub(crate) is_intact: bool,
}

/// The part of the text that belongs to that owner.
pub(super) fn find<'t>(text: &'t str, owner: &str) -> Option<Block<'t>> {
    blocks(text).find(|block| block.owner == owner)
}

/// All parts of the text that are marked. One from which lines were taken ends before the next one, at the latest.
pub(crate) fn blocks(text: &str) -> impl Iterator<Item = Block<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at;
            let line = text[start..].split_inclusive('\n').next()?;
            at += line.len();
            let Some((owner, said)) = line.strip_prefix(BEGIN).and_then(|said| said.split_once(", ")) else { continue };
            let mut words = said.split([' ', ';']);
            let count = words.next().and_then(|count| count.parse::<usize>().ok());
            let checksum = words.nth(1).and_then(|digits| u32::from_str_radix(digits, 16).ok());
            let lines = text[at..].split_inclusive('\n').take(count.unwrap_or(0));
            let length: usize = lines.take_while(|line| !line.starts_with(BEGIN)).map(str::len).sum();
            let body = &text[at..at + length];
            let is_intact = count.is_some() && checksum == Some(crc32fast::hash(body.as_bytes()));
            at += length;
            return Some(Block { owner, range: start..at, is_intact });
        }
    })
}

/// What follows the marker.
pub(crate) fn body(block: &str) -> &str {
    block.split_once('\n').map_or("", |(_, body)| body)
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
        // One that lost its lines takes none of the next.
        let robbed = format!("{}\n{block}", marked("job c", "x", "3\n").lines().next().unwrap());
        let owners: Vec<_> = blocks(&robbed).map(|block| (block.owner, block.is_intact)).collect();
        assert_eq!(owners, [("job c", false), ("job a", true)]);
        assert_eq!(body(&block), "1\n2\n");
        let shortened = &text[..found.range.end - 2];
        assert!(!find(shortened, "job a").unwrap().is_intact);
    }
}
