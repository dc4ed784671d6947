//! A look at every line of a job's ledger, for `doctor`.

use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};

use super::{
    files::JobFiles,
    line::{self, Unreadable},
};
use crate::{
    dir::Access,
    error::{Error, Result},
    sealed::CHECKSUM_LEN,
};

/// How much of a file's end is looked at, in bytes: some dozens of lines.
const END: u64 = 64 * 1024;

/// What a whole ledger holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verified {
    /// Intact lines.
    pub(crate) entries: u64,
    /// Lines that a crash cut short: nobody was told that they stand.
    pub(crate) cut_short: u64,
}

impl JobFiles {
    /// Reads every line of the ledger before this one, and of this one. Takes no lock.
    ///
    /// # Errors
    /// `Corrupt` when a line was changed after it was written, makes no sense, or numbers runs backwards; `NewerFormat`.
    pub(crate) fn verify(&self) -> Result<Verified> {
        let mut verified = Verified::default();
        let mut last_run = 0;
        for name in [&self.old, &self.ledger] {
            self.verify_file(name, 0, &mut last_run, &mut verified)?;
        }
        Ok(verified)
    }

    /// The same of the newest lines only, whatever the ledger's length. Takes no lock.
    ///
    /// # Errors
    /// The same; and `Corrupt` when there are lines and none is intact.
    pub(crate) fn verify_end(&self) -> Result<()> {
        let mut verified = Verified::default();
        let mut last_run = 0;
        for name in [&self.old, &self.ledger] {
            let size = self.dir.stat(name)?.map_or(0, |stat| stat.size);
            self.verify_file(name, size.saturating_sub(END), &mut last_run, &mut verified)?;
        }
        if verified.entries == 0 && verified.cut_short > 0 {
            let path = self.dir.path_of(&self.ledger);
            return Err(Error::Corrupt { path, offset: 0, why: "no line is intact".to_owned() });
        }
        Ok(())
    }

    /// Looks at a file's lines that begin after that byte, or at all.
    fn verify_file(&self, name: &str, from: u64, last_run: &mut u64, verified: &mut Verified) -> Result<()> {
        let Some((mut file, _)) = self.dir.open(name, Access::Read)? else { return Ok(()) };
        let path = self.dir.path_of(name);
        let corrupt = |offset, why: &str| Error::Corrupt { path: path.clone(), offset, why: why.to_owned() };
        let failed = |e| Error::io("read", &path, e);
        file.seek(SeekFrom::Start(from)).map_err(failed)?;
        let mut reader = BufReader::with_capacity(64 * 1024, file);
        let (mut bytes, mut offset) = (Vec::new(), from);
        if from > 0 {
            // The rest of a line.
            offset += reader.read_until(b'\n', &mut bytes).map_err(failed)? as u64;
        }
        loop {
            bytes.clear();
            let read = reader.read_until(b'\n', &mut bytes).map_err(failed)?;
            // Without its newline it is being written at this moment, or was cut short at the very end.
            let Some(line) = bytes.strip_suffix(b"\n") else { return Ok(()) };
            match line::totals(line) {
                Ok(totals) if totals.last_run < *last_run => {
                    return Err(corrupt(offset, "its runs are numbered backwards"));
                }
                Ok(totals) => {
                    *last_run = totals.last_run;
                    verified.entries += 1;
                }
                Err(Unreadable::Bad) if has_checksum(line) => {
                    return Err(corrupt(offset, "the line was changed: its checksum does not match"));
                }
                Err(Unreadable::Bad) => verified.cut_short += u64::from(!line.is_empty()),
                Err(Unreadable::Newer(found)) => return Err(Error::NewerFormat { path, found }),
                Err(Unreadable::Unknown(why)) => return Err(corrupt(offset, &why)),
            }
            offset += read as u64;
        }
    }
}

/// Whether it ends as a whole line does.
fn has_checksum(line: &[u8]) -> bool {
    let start = line.len().checked_sub(CHECKSUM_LEN);
    start.is_some_and(|start| line[start..].starts_with(b",\"crc\":\"") && line.ends_with(b"\"}"))
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;
    use crate::{
        clock::SystemClock,
        dir::StateDir,
        job::{Event, JobLedger, NotRun, Outcome, Totals},
        lock::Identity,
    };

    fn skipped(totals: &Totals) -> Vec<Event> {
        vec![Event::NotRun(NotRun {
            run: totals.next_run(),
            outcome: Outcome::Skipped,
            reason: "held".to_owned(),
            holder: None,
            wait: 0.0,
            command: "true".to_owned(),
            queued: false,
        })]
    }

    #[test]
    fn a_torn_line_is_told_from_a_changed_one() {
        let directory = tempfile::tempdir().unwrap();
        let dir = JobFiles::make_directory(&StateDir::open(directory.path(), false).unwrap()).unwrap();
        let files = JobFiles::new(dir, "a".parse().unwrap());
        assert_eq!(files.verify().unwrap(), Verified::default());
        let ledger = JobLedger::new(files.clone(), Arc::new(Identity::current()), Arc::new(SystemClock));
        for _ in 0..3 {
            ledger.append(skipped).unwrap().sync().unwrap();
        }
        assert_eq!(files.verify().unwrap(), Verified { entries: 3, cut_short: 0 });

        let path = files.dir.path_of(&files.ledger);
        let whole = fs::read(&path).unwrap();
        let third = memchr::memrchr(b'\n', &whole[..whole.len() - 1]).unwrap() + 1;
        // A power cut leaves half a line, and the next append goes on after it.
        let torn = [&whole[..third], &whole[third..third + 20], b"\0\0\0\n", &whole[third..]].concat();
        fs::write(&path, torn).unwrap();
        assert_eq!(files.verify().unwrap(), Verified { entries: 3, cut_short: 1 });

        let changed = String::from_utf8(whole.clone()).unwrap().replacen("held", "hold", 1);
        fs::write(&path, changed).unwrap();
        let error = files.verify().unwrap_err();
        assert!(matches!(&error, Error::Corrupt { offset: 0, .. }), "{error}");

        let backwards = [&whole[third..], &whole[..third]].concat();
        fs::write(&path, backwards).unwrap();
        let error = files.verify().unwrap_err();
        assert!(error.to_string().contains("numbered backwards"), "{error}");
    }
}
