//! JSON objects that end in a checksum of all that stands before it: how a line or a block that a crash cut short, or
//! that somebody changed, is told from one that was written whole.

/// `,"crc":"0a1b2c3d"}`
pub(crate) const CHECKSUM_LEN: usize = 18;

/// Appends the checksum of all that was written since `start`, and the closing brace.
pub(crate) fn seal(to: &mut Vec<u8>, start: usize) {
    let checksum = crc32fast::hash(&to[start..]);
    to.extend_from_slice(b",\"crc\":\"");
    for shift in (0..8).rev() {
        let digit = (checksum >> (shift * 4)) & 0xf;
        to.push(b"0123456789abcdef"[digit as usize]);
    }
    to.extend_from_slice(b"\"}");
}

/// A value as one sealed JSON object in a block of constant size, padded with spaces and ended with a newline: it can be
/// written over in place, and what is left of an older one never shows through.
pub(crate) fn sealed_block(value: &impl serde::Serialize, size: usize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("it is plain data");
    bytes.pop(); // the brace, which the checksum brings
    seal(&mut bytes, 0);
    assert!(bytes.len() < size, "what is kept in a block is bounded in size");
    bytes.resize(size - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// Whether the checksum at the end of those bytes is right.
pub(crate) fn is_intact(bytes: &[u8]) -> bool {
    let Some(at) = bytes.len().checked_sub(CHECKSUM_LEN) else { return false };
    let (body, checksum) = bytes.split_at(at);
    let Some(digits) = checksum.strip_prefix(b",\"crc\":\"").and_then(|rest| rest.strip_suffix(b"\"}")) else {
        return false;
    };
    let Ok(digits) = std::str::from_utf8(digits) else { return false };
    // from_str_radix takes a sign and capitals; the writer writes neither.
    !digits.bytes().any(|b| b == b'+' || b.is_ascii_uppercase())
        && u32::from_str_radix(digits, 16) == Ok(crc32fast::hash(body))
}
