//! Checkpoints: what the ledger gained goes into the index.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufWriter, Seek as _, SeekFrom},
    iter::Peekable,
    os::unix::fs::FileExt,
};

use memchr::memmem::Finder;

use super::{
    BLOCK, HEADERS, Header, Key, Seed,
    run::{self, Entry, Run},
};
use crate::{
    booking::Event,
    error::{Error, Result},
    lock::{HeldFile, Missing, Taken, Until},
    sealed,
    state::{
        files::TripFiles,
        ledger::Ledger,
        line::{self, Line},
    },
};

/// Entries that are sorted in memory at once (4 MiB); more of them make more runs, which are merged on disk.
const SLICE: usize = 256 * 1024;

/// Entries up to which a run is merged with every next one: each run costs every lookup a read.
const SMALL: u64 = 1024;

/// A file with more than this many times its live blocks is written anew.
const SLACK: u64 = 4;

/// Brings the index up to `durable` ledger bytes, unless somebody else is at it. `until`: how long to wait for him.
pub(in crate::state) fn checkpoint(files: &TripFiles, ledger: &Ledger, durable: u64, until: Until) -> Result<()> {
    let held = match HeldFile::acquire(&files.dir, &files.index, Missing::Create, until, None)? {
        Taken::Held(held) => held,
        Taken::Busy(_) | Taken::Missing | Taken::Reentrant => return Ok(()),
    };
    let path = files.dir.path_of(&files.index);
    let header = Header::read(held.file(), &path)?;
    // An index that is not of just this ledger is not added to: what it lacks would be taken for covered.
    let is_of_ledger = match &header {
        Some(header) => header.is_of(ledger)?,
        None => false,
    };
    match header {
        // Somebody healed the ledger since, or was faster.
        Some(header) if header.generation > ledger.generation() || (is_of_ledger && header.covered >= durable) => {
            Ok(())
        }
        Some(header) if is_of_ledger => match grow(files, held.file(), ledger, header, durable) {
            Err(Failure::Index(e)) if e.kind() == io::ErrorKind::InvalidData => rebuild(files, ledger, durable),
            grown => grown,
        },
        _ => rebuild(files, ledger, durable),
    }
    .map_err(|e| match e {
        Failure::Index(e) => Error::io("write", path, e),
        Failure::Ledger(e) => e,
    })
}

/// Adds to the file; or copies what lives in it to a new one, when most of it is runs that were merged away.
fn grow(files: &TripFiles, file: &File, ledger: &Ledger, header: Header, durable: u64) -> Result<(), Failure> {
    let live: u64 = header.runs.iter().map(|run| run.blocks).sum();
    if header.blocks <= SLACK * live + 1024 {
        let mut writer = Writer { file, ledger, header };
        writer.extend(durable)?;
        return writer.finish();
    }
    replace(files, |fresh| {
        let empty = Header { blocks: HEADERS, runs: Vec::new(), ..header.clone() };
        let mut writer = Writer { file: fresh, ledger, header: empty };
        writer.merge(&[], file, &header.runs)?;
        writer.extend(durable)?;
        writer.finish()
    })
}

/// A new file with the whole ledger in it.
fn rebuild(files: &TripFiles, ledger: &Ledger, durable: u64) -> Result<(), Failure> {
    let mut seed = [0; 16];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).map_err(io::Error::from)?;
    let (high, low) = seed.split_at(8);
    let half = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
    let header = Header {
        format: crate::FORMAT,
        generation: ledger.generation(),
        sequence: 0,
        covered: 0,
        anchor: String::new(),
        blocks: HEADERS,
        seed: Seed(half(high), half(low)),
        runs: Vec::new(),
    };
    replace(files, |fresh| {
        let mut writer = Writer { file: fresh, ledger, header };
        writer.extend(durable)?;
        writer.finish()
    })
}

/// Puts a new file in the index's place. The caller holds the old one: whoever waits for it sees that it is no longer
/// the path's.
fn replace(files: &TripFiles, fill: impl FnOnce(&File) -> Result<(), Failure>) -> Result<(), Failure> {
    let fresh = files.dir.create_fresh(&files.fresh_index).map_err(Failure::Ledger)?;
    fill(&fresh)?;
    files.dir.rename(&files.fresh_index, &files.index).map_err(Failure::Ledger)
}

/// A failure of the index's file, or one that carries its path already.
enum Failure {
    Index(io::Error),
    Ledger(Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Index(e)
    }
}

struct Writer<'w> {
    file: &'w File,
    ledger: &'w Ledger,
    header: Header,
}

impl Writer<'_> {
    /// Adds the lines between what is covered and `durable`.
    fn extend(&mut self, durable: u64) -> Result<(), Failure> {
        let mut slice: Vec<Entry> = Vec::new();
        let fields = Fields::new();
        let mut written = Ok(());
        let ledger = self.ledger;
        ledger
            .lines(self.header.covered, durable, |offset, bytes, complete| {
                if !complete || !sealed::is_intact(bytes) {
                    return Err(ledger.corrupt(offset, "a bad line among those that were on disk"));
                }
                slice.extend(fields.keys(bytes).map(|key| Entry { hash: self.header.seed.hash(key), offset }));
                if slice.len() >= SLICE {
                    written = self.add_run(std::mem::take(&mut slice));
                }
                let go_on = written.is_ok();
                Ok(if go_on { std::ops::ControlFlow::Continue(()) } else { std::ops::ControlFlow::Break(()) })
            })
            .map_err(Failure::Ledger)?;
        written?;
        if !slice.is_empty() {
            self.add_run(slice)?;
        }
        self.header.covered = durable;
        self.header.anchor = ledger.anchor(durable).map_err(Failure::Ledger)?;
        Ok(())
    }

    /// Appends a run of these entries, merged with the last runs as long as those are small or not much larger.
    fn add_run(&mut self, mut entries: Vec<Entry>) -> Result<(), Failure> {
        entries.sort_unstable();
        let mut count = entries.len() as u64;
        let mut kept = self.header.runs.len();
        while kept > 0 && self.header.runs[kept - 1].entries <= SMALL.max(2 * count) {
            kept -= 1;
            count += self.header.runs[kept].entries;
        }
        let merged = self.header.runs.split_off(kept);
        self.merge(&entries, self.file, &merged)
    }

    /// Appends one run of sorted entries and of the runs of a file.
    fn merge(&mut self, entries: &[Entry], from: &File, runs: &[Run]) -> Result<(), Failure> {
        let count = entries.len() as u64 + runs.iter().map(|run| run.entries).sum::<u64>();
        let mut blocks = run::blocks_for(count);
        loop {
            let mut to = BufWriter::with_capacity(64 * BLOCK, self.file);
            to.seek(SeekFrom::Start(self.header.blocks * BLOCK as u64))?;
            let mut sources = vec![Source::Memory(entries.iter())];
            sources.extend(runs.iter().map(|run| Source::run(from, run)));
            let sorted = Merge::new(sources, |hash, older, newer| self.same_key(hash, older, newer))?;
            if run::write(&mut to, blocks, sorted)? {
                io::Write::flush(&mut to)?;
                break;
            }
            blocks *= 2;
        }
        self.header.runs.push(Run { first: self.header.blocks, blocks, entries: count });
        self.header.blocks += blocks;
        Ok(())
    }

    /// Whether two lines speak of the same key, not just of the same hash. Only then is the older one forgotten.
    fn same_key(&self, hash: u64, older: u64, newer: u64) -> io::Result<bool> {
        let line = |offset| self.ledger.line_at(offset).map_err(io::Error::other);
        let (older, newer) = (line(older)?, line(newer)?);
        let seed = self.header.seed;
        let shared =
            |older: Option<Key>, newer: Option<Key>| older == newer && older.is_some_and(|key| seed.hash(key) == hash);
        Ok(shared(student_key(&older), student_key(&newer)) || shared(request_key(&older), request_key(&newer)))
    }

    /// Makes what was added count: the runs first, then the header that names them.
    fn finish(&mut self) -> Result<(), Failure> {
        self.file.sync_data()?;
        self.header.sequence += 1;
        let slot = self.header.sequence % 2;
        self.file.write_all_at(&self.header.encode(), slot * BLOCK as u64)?;
        Ok(())
    }
}

fn student_key(line: &Line) -> Option<Key<'_>> {
    match &line.event {
        Event::Booked { student, .. } | Event::Cancelled { student, .. } => {
            Some(Key::Student(student.as_str().as_bytes()))
        }
        _ => None,
    }
}

fn request_key(line: &Line) -> Option<Key<'_>> {
    line.request_id.as_ref().map(|id| Key::RequestId(id.as_str().as_bytes()))
}

/// Finds a line's keys without parsing all of it; its checksum has been verified.
pub(in crate::state) struct Fields {
    event: Finder<'static>,
    student: Finder<'static>,
    request_id: Finder<'static>,
}

impl Fields {
    pub(in crate::state) fn new() -> Self {
        Self {
            event: Finder::new(b"\"event\":\""),
            student: Finder::new(b"\"student\":\""),
            request_id: Finder::new(b"\"request_id\":\""),
        }
    }

    pub(in crate::state) fn keys<'l>(&self, line: &'l [u8]) -> impl Iterator<Item = Key<'l>> + use<'l> {
        let event = line::text_field(line, &self.event);
        // A refusal names a student too, and says nothing of what is booked.
        let moves_seats = matches!(event, Some(b"booked" | b"cancelled"));
        let student = moves_seats.then(|| line::text_field(line, &self.student)).flatten().map(Key::Student);
        student.into_iter().chain(line::text_field(line, &self.request_id).map(Key::RequestId))
    }
}

/// Sorted entries, from memory or from a run on disk.
enum Source<'s> {
    Memory(std::slice::Iter<'s, Entry>),
    Run { file: &'s File, next: u64, end: u64, block: VecDeque<Entry> },
}

impl<'s> Source<'s> {
    fn run(file: &'s File, run: &Run) -> Self {
        Self::Run { file, next: run.first, end: run.first + run.blocks, block: VecDeque::new() }
    }
}

impl Iterator for Source<'_> {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Memory(entries) => entries.next().copied().map(Ok),
            Self::Run { file, next, end, block } => loop {
                if let Some(entry) = block.pop_front() {
                    return Some(Ok(entry));
                }
                if next == end {
                    return None;
                }
                let mut bytes = [0; BLOCK];
                if let Err(e) = file.read_exact_at(&mut bytes, *next * BLOCK as u64) {
                    return Some(Err(e));
                }
                *next += 1;
                match run::entries(&bytes) {
                    Some(entries) => block.extend(entries),
                    None => return Some(Err(io::Error::new(io::ErrorKind::InvalidData, "a damaged block"))),
                }
            },
        }
    }
}

/// Merges sorted sources; of entries with the same key only the newest is kept.
struct Merge<'s, F> {
    sources: Vec<Peekable<Source<'s>>>,
    held: Option<Entry>,
    same_key: F,
}

impl<'s, F: FnMut(u64, u64, u64) -> io::Result<bool>> Merge<'s, F> {
    fn new(sources: Vec<Source<'s>>, same_key: F) -> io::Result<Self> {
        let mut merge = Self { sources: sources.into_iter().map(Iterator::peekable).collect(), held: None, same_key };
        merge.held = merge.smallest()?;
        Ok(merge)
    }

    fn smallest(&mut self) -> io::Result<Option<Entry>> {
        let mut best: Option<(usize, Entry)> = None;
        for (at, source) in self.sources.iter_mut().enumerate() {
            match source.peek() {
                Some(Ok(entry)) if best.is_none_or(|(_, best)| *entry < best) => best = Some((at, *entry)),
                Some(Ok(_)) | None => {}
                Some(Err(_)) => {
                    return source.next().expect("it was peeked at").map(Some);
                }
            }
        }
        Ok(best.map(|(at, entry)| {
            self.sources[at].next();
            entry
        }))
    }

    fn step(&mut self) -> io::Result<Option<Entry>> {
        loop {
            let next = self.smallest()?;
            match (self.held, next) {
                (Some(held), Some(next))
                    if held.hash == next.hash && (self.same_key)(held.hash, held.offset, next.offset)? =>
                {
                    self.held = Some(next);
                }
                (held, next) => {
                    self.held = next;
                    return Ok(held);
                }
            }
        }
    }
}

impl<F: FnMut(u64, u64, u64) -> io::Result<bool>> Iterator for Merge<'_, F> {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
