//! The syncer's note in `NAME.sync`: up to where a sync was about to go.
//!
//! The kernel reports a write-back error once. A syncer that was killed after it consumed the error, and before it
//! could tell anybody, would leave a ledger that looks fine in memory and is not on disk: 2 acknowledged bookings were
//! lost so. The note is written before each sync, so whoever comes next sees a sync that never reached its
//! publication, and copies the ledger instead of trusting it.
//!
//! It is one block, made with the file and overwritten in place, so it never wants for space.

use serde::{Deserialize, Serialize};

use super::files::TripFiles;
use crate::{
    error::{Error, Result},
    lock::HeldFile,
    sealed,
};

/// The size of the note, in bytes.
const SIZE: usize = 256;

/// What the note says of the ledger of that generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    format: u64,
    pub(super) generation: u64,
    /// A sync was begun that was to make this many bytes durable.
    pub(super) upto: u64,
    /// A sync failed: the ledger must be copied.
    pub(super) condemned: bool,
}

impl Note {
    pub(super) fn begin(generation: u64, upto: u64) -> Self {
        Self { format: crate::FORMAT, generation, upto, condemned: false }
    }

    pub(super) fn condemn(generation: u64) -> Self {
        Self { format: crate::FORMAT, generation, upto: 0, condemned: true }
    }

    /// The note in the file. One that was garbled condemns whatever generation there is; none (an empty file, or one
    /// whose content a power cut took, and with it every error that was not reported) says nothing.
    pub(super) fn read(files: &TripFiles, sync: &HeldFile, generation: u64) -> Result<Option<Self>> {
        let mut buffer = [0; SIZE];
        let bytes =
            sync.read(&mut buffer).map_err(|e| Error::io("read", files.dir.path_of(&files.sync), e))?.trim_ascii_end();
        if bytes.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        super::ledger::refuse_newer(&files.dir.path_of(&files.sync), bytes)?;
        let note = sealed::is_intact(bytes).then(|| serde_json::from_slice(bytes).ok()).flatten();
        Ok(Some(note.unwrap_or(Self::condemn(generation))))
    }

    pub(super) fn write(&self, files: &TripFiles, sync: &HeldFile) -> Result<()> {
        let bytes = sealed::sealed_block(self, SIZE);
        sync.write(&bytes).map_err(|e| Error::io("write", files.dir.path_of(&files.sync), e))
    }

    /// Whether a ledger of that generation, durable up to there, may not be trusted beyond it.
    pub(super) fn condemns(&self, generation: u64, durable: u64) -> bool {
        self.generation == generation && (self.condemned || self.upto > durable)
    }
}
