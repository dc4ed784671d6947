//! What was cut from a log: `42.cut`, one line of JSON, overwritten in place as the cut grows.
//!
//! It is written before the hole is punched. Killed in between, a reader leaves out bytes that are still there; the
//! other way round it would show NULs that the job never printed. A reader asks for the cut after it has read a piece
//! of the log: if the piece was punched before it was read, the cut says so by then.
//!
//! The line has a fixed length and a checksum, since a reader may see it half overwritten; it then reads again. It
//! names the log's inode, so that it is not taken for the cut of a later log.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    dir::Stat,
    error::{Error, Result},
    lock::read_head,
};

/// The bytes that were cut from a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cut {
    /// The first.
    pub(crate) from: u64,
    /// The first that was not.
    pub(crate) to: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    format: u64,
    inode: u64,
    #[serde(flatten)]
    cut: Cut,
    checksum: u32,
}

/// How long the line is: longer than its numbers can make it.
const LENGTH: usize = 160;

/// How often a line is read that does not match its checksum. A writer takes nanoseconds to overwrite it.
const TRIES: u32 = 1000;

impl Cut {
    pub(crate) fn length(self) -> u64 {
        self.to - self.from
    }

    fn checksum(self, inode: u64) -> u32 {
        crc32fast::hash(format!("{inode} {} {}", self.from, self.to).as_bytes())
    }

    pub(super) fn write(self, to: &File, inode: u64) -> io::Result<()> {
        let line = Line { format: crate::FORMAT, inode, cut: self, checksum: self.checksum(inode) };
        let mut line = serde_json::to_vec(&line).map_err(io::Error::other)?;
        line.resize(LENGTH - 1, b' ');
        line.push(b'\n');
        to.write_all_at(&line, 0)
    }

    /// The cut of that log, if there is one.
    pub(super) fn read(file: &File, log: Stat, path: impl Fn() -> PathBuf) -> Result<Option<Self>> {
        for _ in 0..TRIES {
            let mut buffer = [0; LENGTH];
            let line = read_head(file, &mut buffer).map_err(|e| Error::io("read", path(), e))?;
            let Ok(Line { format, inode, cut, checksum }) = serde_json::from_slice(line) else {
                // Being written for the first time, or emptied by a power cut.
                std::thread::yield_now();
                continue;
            };
            if format > crate::FORMAT {
                return Err(Error::NewerFormat { path: path(), found: format });
            }
            if checksum == cut.checksum(inode) {
                // A log that is shorter than its cut was truncated by its job.
                let is_valid = inode == log.id.inode && cut.from < cut.to && cut.to <= log.size;
                return Ok(is_valid.then_some(cut));
            }
            std::thread::yield_now();
        }
        Ok(None)
    }
}
