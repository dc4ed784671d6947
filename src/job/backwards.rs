//! A ledger read from its end, block by block: the newest 20 runs of 10,000 cost what they cost of 20.

use std::{collections::VecDeque, fs::File, os::unix::fs::FileExt as _, path::PathBuf};

use super::{
    Entry,
    files::JobFiles,
    line::{self, Unreadable},
};
use crate::{
    dir::{Access, Stat},
    error::{Error, Result},
};

/// How much is read at once, in bytes.
const BLOCK: u64 = 64 * 1024;

/// The entries of a ledger and of the one before it, the newest first. Takes no lock.
///
/// Lines that a crash cut short are passed over, and counted.
#[derive(Debug)]
pub(crate) struct Backwards {
    /// What has not been read: of each file, everything before that byte.
    unread: VecDeque<(PathBuf, File, u64)>,
    /// What has been read and not been given: up to a line's end, maybe from amid a line.
    held: Vec<u8>,
    /// Whether the file's bytes before `held` are all read.
    at_start: bool,
    bad_lines: u64,
}

impl JobFiles {
    /// The ledger's entries, the newest first. Takes no lock.
    pub(crate) fn entries_backwards(&self) -> Result<Backwards> {
        let unread = self.open_both()?.into_iter().map(|(name, file, stat)| (self.dir.path_of(name), file, stat.size));
        Ok(Backwards { unread: unread.collect(), held: Vec::new(), at_start: true, bad_lines: 0 })
    }

    /// The ledger and the one before it, each if it is there.
    ///
    /// A rotation between the two opens would show the same file twice, or leave one out. Then the ledger's path means
    /// another file afterwards, so look again.
    fn open_both(&self) -> Result<Vec<(&str, File, Stat)>> {
        loop {
            let ledger = self.dir.open(&self.ledger, Access::Read)?;
            let old = self.dir.open(&self.old, Access::Read)?;
            let now = self.dir.stat(&self.ledger)?;
            if now.map(|stat| stat.id) == ledger.as_ref().map(|(_, stat)| stat.id) {
                let named = |name, file: Option<(File, Stat)>| file.map(|(file, stat)| (name, file, stat));
                return Ok(named(self.ledger.as_str(), ledger).into_iter().chain(named(&self.old, old)).collect());
            }
        }
    }
}

impl Backwards {
    /// Lines passed over so far.
    pub(crate) fn bad_lines(&self) -> u64 {
        self.bad_lines
    }

    /// Reads the block before what is held, or goes on to the file before.
    fn read_more(&mut self) -> Result<bool> {
        let Some((path, file, end)) = self.unread.front_mut() else { return Ok(false) };
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(*end - start).unwrap_or_default()];
        let read = read_at(file, &mut block, start).map_err(|e| Error::io("read", &*path, e))?;
        // Shorter when an append that failed was taken back meanwhile.
        block.truncate(read);
        block.append(&mut self.held);
        self.held = block;
        *end = start;
        self.at_start = start == 0;
        if self.at_start {
            self.unread.pop_front();
        }
        Ok(true)
    }
}

impl Iterator for Backwards {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let newline = memchr::memrchr(b'\n', &self.held);
            let from = match newline {
                Some(at) => at + 1,
                None if self.at_start && !self.held.is_empty() => 0,
                None => match self.read_more() {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(e) => {
                        self.unread.clear();
                        self.held.clear();
                        self.at_start = true;
                        return Some(Err(e));
                    }
                },
            };
            let bytes = &self.held[from..];
            let entry = if bytes.is_empty() { None } else { Some(line::entry(bytes)) };
            self.held.truncate(newline.unwrap_or_default());
            match entry {
                Some(Ok(entry)) => return Some(Ok(entry)),
                Some(Err(Unreadable::Bad | Unreadable::Newer(_) | Unreadable::Unknown(_))) => self.bad_lines += 1,
                None => {}
            }
        }
    }
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_at(file: &File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
