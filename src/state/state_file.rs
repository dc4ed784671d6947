//! The state file, `NAME.json`: the trip's sums and how many bytes of the ledger are known to be on disk.
//!
//! It is replaced whole, by exchanging a fresh file, so a reader that takes no lock sees one state or another and
//! never a mixture (written in place, 3 of 79,007 readers saw one). It is not synced: it never says more than the
//! disk holds, so losing it costs a verification and nothing else.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use serde::{Deserialize, Serialize};

use super::{files::TripFiles, ledger::refuse_newer};
use crate::{
    booking::Totals,
    dir::Access,
    error::{Error, Result},
    lock::is_sole_opener,
    name::Name,
    sealed,
};

/// The size of a state file in bytes, padded with spaces: it never grows, so one inode can be used again for the next.
const SIZE: usize = 512;

/// What the state file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    /// Of the ledger that it is about.
    pub(super) generation: u64,
    /// How many bytes of that ledger are known to be on disk; `totals` are the sums of just those.
    pub(super) durable: u64,
    pub(super) totals: Totals,
}

#[derive(Serialize, Deserialize)]
struct Json {
    format: u64,
    generation: u64,
    trip: Name,
    #[serde(flatten)]
    totals: Totals,
    durable: u64,
}

impl State {
    /// The state, or `None` when it is missing, empty, cut short or garbled.
    pub(super) fn read(files: &TripFiles) -> Result<Option<Self>> {
        let path = || files.dir.path_of(&files.state);
        let Some((file, _)) = files.dir.open(&files.state, Access::Read)? else { return Ok(None) };
        // Room for a newer format, which may have grown: it is to be refused, not taken for damage.
        let mut buffer = [0; 4 * SIZE];
        let bytes = crate::lock::read_head(&file, &mut buffer).map_err(|e| Error::io("read", path(), e))?;
        Self::decode(bytes, &path(), &files.trip)
    }

    fn decode(bytes: &[u8], path: &Path, trip: &Name) -> Result<Option<Self>> {
        let bytes = bytes.trim_ascii_end();
        refuse_newer(path, bytes)?;
        if !sealed::is_intact(bytes) {
            return Ok(None);
        }
        Ok(serde_json::from_slice::<Json>(bytes).ok().filter(|json| json.trip == *trip).map(|json| Self {
            generation: json.generation,
            durable: json.durable,
            totals: json.totals,
        }))
    }

    fn encode(&self, trip: &Name) -> Vec<u8> {
        let json = Json {
            format: crate::FORMAT,
            generation: self.generation,
            trip: trip.clone(),
            totals: self.totals,
            durable: self.durable,
        };
        sealed::sealed_block(&json, SIZE)
    }

    /// Makes this the state that everybody reads. The caller holds `NAME.sync`, which guards the fresh file's name.
    pub(super) fn publish(&self, files: &TripFiles) -> Result<()> {
        let file = match spare(files) {
            Some(file) => file,
            None => files.dir.create_fresh(&files.fresh_state)?,
        };
        file.write_all_at(&self.encode(&files.trip), 0)
            .map_err(|e| Error::io("write", files.dir.path_of(&files.fresh_state), e))?;
        files.dir.exchange_or_rename(&files.fresh_state, &files.state)
    }
}

/// What the last exchange left under the fresh name: the state before. It may be written over when nobody can be
/// reading it any more, which halves the cost of a publication (no inode is freed, none is made).
fn spare(files: &TripFiles) -> Option<File> {
    let (file, stat) = files.dir.open(&files.fresh_state, Access::ReadWrite).ok().flatten()?;
    // Another name may be somebody's backup.
    (stat.size == SIZE as u64 && stat.links == 1 && is_sole_opener(&file)).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Fence;

    #[test]
    fn a_state_survives_a_round_trip_and_no_damage() {
        let trip: Name = "1".parse().unwrap();
        let totals = Totals { seats: 3, seats_left: 1, bookings: 2, revision: 4, fence: Fence(9), added: Some(1) };
        let state = State { generation: 2, durable: 999, totals };
        let bytes = state.encode(&trip);
        let decode = |bytes: &[u8]| State::decode(bytes, Path::new("1.json"), &trip).unwrap();
        assert_eq!(decode(&bytes), Some(state));
        let text = bytes.trim_ascii_end().len();
        for at in 0..text {
            assert_eq!(decode(&bytes[..at]), None, "cut at {at}");
            let mut bad = bytes.clone();
            bad[at] ^= 0x20;
            assert_eq!(decode(&bad), None, "byte {at}");
        }
        assert_eq!(decode(&[0; 300]), None);
    }
}
