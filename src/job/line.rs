//! One line of a job's ledger: JSON that `jq` reads.
//!
//! ```json
//! {"format":1,"time":"…","host":"a","pid":4711,"event":"started","run":3,…,"totals":{"last_run":3,…},"crc":"0a1b2c3d"}
//! ```

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Entry, Totals};
use crate::sealed;

/// Appends the line with its newline.
pub(super) fn encode(entry: &Entry, totals: &Totals, to: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Line<'l> {
        format: u64,
        #[serde(flatten)]
        entry: &'l Entry,
        totals: &'l Totals,
    }
    let start = to.len();
    let line = Line { format: crate::FORMAT, entry, totals };
    to.extend_from_slice(&serde_json::to_vec(&line).expect("an entry is plain data"));
    to.pop(); // the brace, which the checksum brings
    sealed::seal(to, start);
    to.push(b'\n');
}

/// Why bytes are no line.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// Cut short, or changed.
    Bad,
    /// Written by a newer triplock, in this format.
    Newer(u64),
    /// Whole, and not a line as this triplock knows them.
    Unknown(String),
}

/// What happened, of the line in those bytes (without the newline).
pub(super) fn entry(bytes: &[u8]) -> Result<Entry, Unreadable> {
    decode(bytes)
}

/// The sums, without a look at the rest.
pub(super) fn totals(bytes: &[u8]) -> Result<Totals, Unreadable> {
    #[derive(Deserialize)]
    struct Sums {
        totals: Totals,
    }
    decode::<Sums>(bytes).map(|line| line.totals.completed())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Format {
        format: u64,
    }
    if !sealed::is_intact(bytes) {
        return Err(Unreadable::Bad);
    }
    // The format stands first, so that a line that this triplock can read is parsed once.
    if !bytes.starts_with(format!("{{\"format\":{},", crate::FORMAT).as_bytes()) {
        return Err(match serde_json::from_slice::<Format>(bytes) {
            Ok(Format { format }) if format > crate::FORMAT => Unreadable::Newer(format),
            _ => Unreadable::Unknown("it does not begin with its format".to_owned()),
        });
    }
    serde_json::from_slice(bytes).map_err(|e| Unreadable::Unknown(e.to_string()))
}
