//! Reads a log, also one that is being written and cut.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt as _,
};

use super::{Logs, cut::Cut};
use crate::{
    dir::{Stat, stat_file},
    error::{Error, Result},
    job::model::RunId,
};

/// How much is read at once.
const PIECE: usize = 64 * 1024;

/// A log, read from its beginning; where it was cut, a line says so.
pub(crate) struct LogReader<'l> {
    logs: &'l Logs,
    run: RunId,
    file: File,
    cut: Option<File>,
    position: u64,
    /// What was copied last ended a line.
    is_line_start: bool,
    piece: Vec<u8>,
}

impl<'l> LogReader<'l> {
    /// The log of that run, if there is one.
    pub(crate) fn open(logs: &'l Logs, run: RunId) -> Result<Option<Self>> {
        let Some((file, _)) = logs.open_log(run)? else { return Ok(None) };
        Ok(Some(Self { logs, run, file, cut: None, position: 0, is_line_start: true, piece: vec![0; PIECE] }))
    }

    /// Copies what was printed since the last time, up to the log's present end: a job that prints faster than we read
    /// does not keep us. The outer result is about the log, the inner one about `to`.
    pub(crate) fn copy(&mut self, to: &mut dyn Write) -> Result<io::Result<()>> {
        let path = || self.logs.path_of(self.run);
        let end = stat_file(&self.file).map_err(|e| Error::io("stat", path(), e))?.size;
        if end < self.position {
            self.position = 0;
            if let Err(e) = self.mark(to, "the job truncated its output here") {
                return Ok(Err(e));
            }
        }
        while self.position < end {
            match self.copy_piece(end, to)? {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => return Ok(Err(e)),
            }
        }
        Ok(to.flush())
    }

    fn copy_piece(&mut self, end: u64, to: &mut dyn Write) -> Result<io::Result<bool>> {
        let mut piece = std::mem::take(&mut self.piece);
        let wanted = usize::try_from(end - self.position).unwrap_or(PIECE).min(PIECE);
        let read = self.file.read_at(&mut piece[..wanted], self.position);
        let length = read.map_err(|e| Error::io("read", self.logs.path_of(self.run), e))?;
        // Only now, or it might be cut in between.
        let stat = stat_file(&self.file).map_err(|e| Error::io("stat", self.logs.path_of(self.run), e))?;
        let cut = self.cut(stat)?.filter(|cut| cut.from < self.position + length as u64 && self.position < cut.to);
        let whole = match cut {
            Some(cut) => usize::try_from(cut.from.saturating_sub(self.position)).unwrap_or(length),
            None => length,
        };
        let mut written = to.write_all(&piece[..whole]);
        if let Some(last) = piece[..whole].last() {
            self.is_line_start = *last == b'\n';
        }
        self.position += whole as u64;
        self.piece = piece;
        if let Some(cut) = cut {
            let bytes = cut.to - self.position;
            self.position = cut.to;
            written = written.and_then(|()| self.mark(to, &format!("{bytes} bytes cut here")));
        }
        Ok(written.map(|()| length > 0))
    }

    fn cut(&mut self, log: Stat) -> Result<Option<Cut>> {
        if self.cut.is_none() {
            self.cut = self.logs.open_cut(self.run)?;
        }
        match &self.cut {
            Some(file) => Cut::read(file, log, || self.logs.cut_path(self.run)),
            None => Ok(None),
        }
    }

    /// A line of our own.
    fn mark(&mut self, to: &mut dyn Write, text: &str) -> io::Result<()> {
        let before = if self.is_line_start { "" } else { "\n" };
        self.is_line_start = true;
        writeln!(to, "{before}[triplock: {text}]")
    }
}
