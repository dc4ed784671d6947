//! A lane: the line in front of a lock. Whoever comes first is served first.
//!
//! flock(2) promises no order, and a newcomer takes a lock that was just released before the kernel has woken who waited for
//! it. So whoever has to wait takes a ticket first, and only the first in line waits for the lock itself. There is no
//! daemon, nothing to clean up, and no list that a killed process could leave wrong: all of it is locks of the kernel.
//!
//! One file, `NAME.lane`. A ticket is the lock on one of its bytes ([`super::range`]); the byte's number is the ticket's.
//!
//! 1. Taking one: under flock(2) of the whole file, a number larger than the last, which the file's first line keeps, and
//!    not smaller than the time in microseconds; lock that byte; write the number down. Two that come at once get two
//!    numbers, and the smaller has its byte before the larger exists, so nobody is overlooked. The time keeps numbers
//!    growing when a power cut has emptied the file: a run that is queued keeps its ticket over a restart, and must not
//!    stand behind those that came later.
//! 2. Waiting: first for the ticket right before ours, a blocking call in the kernel. When that one is served, it leaves,
//!    and one waiter wakes, not all of them.
//! 3. Then the kernel is asked whether any byte before ours is locked. If one is, our predecessor was killed or gave up
//!    before its turn: wait for that one and ask again. Without this step a killed waiter would let its successor past
//!    all that stand before both.
//! 4. The first in line waits for the lock. Once it has that, it asks again as in 3: a replacement or a run that was resumed
//!    may have stepped in front meanwhile, and then the lock is given back.
//! 5. It keeps its ticket until its start is recorded. Given back earlier, a queued run would be neither waiting nor
//!    started, and be taken for one whose process was killed.
//! 6. Whoever does not wait looks whether anybody does before it tries the lock. Otherwise a `run -n` a second would
//!    overtake, at each release, who has waited for an hour.
//!
//! Who is stopped (`kill -STOP`) while it is first in line stops the line. Who removes the file loses the order of those in
//! line; the lock itself is another file, and keeps them out of each other's way.

use std::{
    cell::Cell,
    fs::File,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::FileExt as _,
    },
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Until, flock, held_file::read_head, inherited::Inherited, range};
use crate::{
    dir::{Access, Dir, FileId, stat_file},
    error::{Error, Result},
};

/// From this byte on: that the process of that queued run is its waiter, and not who made it. Runs have smaller numbers; the
/// byte of a run's own number is locked until that is over.
const PROCESSES: u64 = 1 << 48;

/// Locked while somebody gives runs their processes again.
const RESUMING: u64 = FRONT - 1;

/// The ticket in front of all others. The next ones are times: this one was in 2005.
const FRONT: u64 = 1 << 50;

/// No ticket has this number.
const END: u64 = 1 << 62;

/// How long the file's first line is: longer than its numbers can make it.
const LINE: usize = 64;

/// Which ticket, and which queued run has it; 0 of one that is not queued.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) ticket: u64,
    pub(crate) run: u64,
}

/// The file of one lane, open.
#[derive(Debug)]
pub(crate) struct Lane {
    file: File,
    id: FileId,
    path: PathBuf,
}

impl Lane {
    /// The lane of that name, if anybody ever waited in it.
    pub(crate) fn open(dir: &Dir, name: &str) -> Result<Option<Self>> {
        let name = Self::file_name(name);
        let opened = dir.open(&name, Access::ReadWrite)?;
        Ok(opened.map(|(file, stat)| Self { file, id: stat.id, path: dir.path_of(&name) }))
    }

    /// The same, made when it is missing.
    pub(crate) fn make(dir: &Dir, name: &str) -> Result<Self> {
        let name = Self::file_name(name);
        let (file, stat) = dir.open_or_create(&name)?;
        Ok(Self { file, id: stat.id, path: dir.path_of(&name) })
    }

    /// The name of its file.
    pub(crate) fn file_name(name: &str) -> String {
        format!("{name}.lane")
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// Which queued run a byte of the file is; `None` of a ticket.
    pub(crate) fn run_of(byte: u64) -> Option<u64> {
        (byte < PROCESSES).then_some(byte)
    }

    /// Whether there can be such a run and such a ticket.
    pub(crate) fn is_possible(place: Place) -> bool {
        place.run < PROCESSES && (FRONT + 1..END).contains(&place.ticket)
    }

    /// Whether anybody stands in it now.
    pub(crate) fn has_waiters(&self) -> Result<bool> {
        Ok(self.locked(FRONT..END)?.is_some())
    }

    /// Whether somebody has that ticket.
    pub(crate) fn is_live(&self, ticket: u64) -> Result<bool> {
        Ok(self.locked(ticket..ticket + 1)?.is_some())
    }

    /// Whether a queued run is not over, for all that its lock says: its process, or what that started, is there.
    pub(crate) fn has_run(&self, run: u64) -> Result<bool> {
        Ok(run < PROCESSES && self.locked(run..run + 1)?.is_some())
    }

    /// Keeps all that wait here from starting, until this is dropped or its process is gone.
    ///
    /// # Errors
    /// `Io` (resource busy) when somebody does.
    pub(crate) fn begin_resuming(&self) -> Result<()> {
        match range::try_lock(&self.file, RESUMING) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.failed("lock", io::ErrorKind::ResourceBusy.into())),
            Err(e) => Err(self.failed("lock", e)),
        }
    }

    /// Whether somebody does that.
    pub(crate) fn is_resuming(&self) -> Result<bool> {
        Ok(self.locked(RESUMING..RESUMING + 1)?.is_some())
    }

    /// Sleeps until nobody does.
    pub(crate) fn wait_for_resumption(&self) -> Result<()> {
        range::wait_for(&self.file, RESUMING, Until::Never).map(drop).map_err(|e| self.failed("wait in", e))
    }

    /// Says that this process waits for that run. (Whoever made it has the ticket's descriptor too, for a moment.)
    pub(crate) fn mark_process(&self, run: u64) -> Result<()> {
        range::try_lock(&self.file, Self::process_byte(run)).map(drop).map_err(|e| self.failed("lock", e))
    }

    /// The byte that its waiter has.
    pub(crate) fn process_byte(run: u64) -> u64 {
        PROCESSES + run
    }

    /// Sleeps until that queued run is over, or its process gone; `false` when the wait was over first.
    pub(crate) fn wait_for_run(&self, run: u64, until: Until) -> Result<bool> {
        if run >= PROCESSES {
            return Ok(true);
        }
        range::wait_for(&self.file, run, until).map_err(|e| self.failed("wait for a run in", e))
    }

    /// Takes the next ticket. `run`: the queued run that it is for, or 0.
    pub(crate) fn take(self, run: u64) -> Result<Ticket> {
        self.counting(|last| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
            let now = u64::try_from(now).unwrap_or(END);
            let mut number = last.ticket.saturating_add(1).max(now).max(FRONT + 1);
            // Somebody has it after all, whose number a power cut took from the file.
            while !range::try_lock(&self.file, number)? {
                number += 1;
            }
            let place = Place { ticket: number, run };
            Ok((place, place))
        })
        .map(|(place, before)| Ticket::new(self, place, Some(before)))
    }

    /// Takes the ticket in front of all others, of which there is one: the caller has the turn of replacing.
    pub(crate) fn take_front(self) -> Result<Ticket> {
        let taken = range::try_lock(&self.file, FRONT).map_err(|e| self.failed("take a ticket of", e))?;
        if !taken {
            return Err(self.failed("take the first ticket of", io::ErrorKind::ResourceBusy.into()));
        }
        Ok(Ticket::new(self, Place { ticket: FRONT, run: 0 }, None))
    }

    /// Takes a ticket again whose process is gone; `None` when it is not.
    pub(crate) fn take_again(self, place: Place) -> Result<Option<Ticket>> {
        if !self.take_byte(place.ticket)? {
            return Ok(None);
        }
        self.counting(|last| Ok((if last.ticket < place.ticket { place } else { last }, ())))?;
        Ok(Some(Ticket::new(self, place, None)))
    }

    /// Locks a byte, unless somebody has it for himself. (Who waited for it has it shared for a moment, until he lets go or is gone.)
    fn take_byte(&self, byte: u64) -> Result<bool> {
        loop {
            if range::try_lock(&self.file, byte).map_err(|e| self.failed("lock a byte of", e))? {
                return Ok(true);
            }
            if self.locked(byte..byte + 1)?.is_some() {
                return Ok(false);
            }
            std::thread::yield_now();
        }
    }

    /// Changes the last ticket that was taken; gives what the change gave, and the last one before.
    fn counting<T>(&self, change: impl FnOnce(Place) -> io::Result<(Place, T)>) -> Result<(T, Place)> {
        let failed = |e| self.failed("take a ticket of", e);
        flock::lock(&self.file, flock::Kind::Exclusive, Until::Never).map_err(failed)?;
        let changed = self.last().and_then(|last| {
            let (now, value) = change(last)?;
            let line = format!("{} {}", now.ticket, now.run);
            self.file.write_all_at(format!("{line:<width$}\n", width = LINE - 1).as_bytes(), 0)?;
            Ok((value, last))
        });
        let unlocked = flock::unlock(&self.file);
        let changed = changed.map_err(failed)?;
        unlocked.map_err(failed)?;
        Ok(changed)
    }

    /// What the first line says; nothing of one that a power cut has emptied.
    fn last(&self) -> io::Result<Place> {
        let mut line = [0; LINE];
        let line = String::from_utf8_lossy(read_head(&self.file, &mut line)?).into_owned();
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok().filter(|n| *n < END / 2));
        let mut next = || numbers.next().flatten().unwrap_or_default();
        Ok(Place { ticket: next(), run: next() })
    }

    fn locked(&self, bytes: std::ops::Range<u64>) -> Result<Option<u64>> {
        range::locked(&self.file, bytes).map_err(|e| self.failed("look at the tickets of", e))
    }

    fn failed(&self, operation: &'static str, e: io::Error) -> Error {
        Error::io(operation, &self.path, e)
    }
}

/// A place in a lane. It lasts until [`Ticket::leave`], or as long as somebody has its descriptor: so a child goes on waiting
/// for a parent that has ended.
#[derive(Debug)]
pub(crate) struct Ticket {
    lane: Lane,
    place: Place,
    /// The one right before it, if that is known.
    before: Option<Place>,
    /// It has been waited for.
    is_past_before: Cell<bool>,
}

impl Ticket {
    fn new(lane: Lane, place: Place, before: Option<Place>) -> Self {
        Self { lane, place, before, is_past_before: Cell::new(false) }
    }

    /// The ticket of a process that started us, whose descriptor of the lane we have by that number; and the one right before
    /// it.
    ///
    /// # Errors
    /// `Io` (invalid input) when it is none of that lane, or nobody has that ticket.
    pub(crate) fn inherited(
        dir: &Dir,
        name: &str,
        (place, before): (Place, Option<Place>),
        number: i32,
    ) -> Result<Self> {
        let looked = Lane::make(dir, name)?;
        let failed = |e: io::Error| looked.failed("take over a ticket of", e);
        let inherited = Inherited::numbered(number).map_err(failed)?;
        let file = inherited.try_clone().map_err(failed)?;
        let id = stat_file(&file).map_err(failed)?.id;
        if id != looked.id || !looked.is_live(place.ticket)? {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        Ok(Self::new(Lane { file, id, path: looked.path }, place, before))
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn before(&self) -> Option<Place> {
        self.before
    }

    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The lane file's descriptor: a process that inherits it shares the ticket.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.lane.file.as_fd()
    }

    /// Sleeps until nobody stands before us; `false` when the wait was over first. `passed`: told when who stood right
    /// before us is gone, and others still stand before us.
    ///
    /// # Errors
    /// `Io`: of kind `Interrupted` when a deferred signal ended the wait.
    pub(crate) fn wait_for_turn(&self, until: Until, passed: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        let wait_for =
            |ticket| range::wait_for(&self.lane.file, ticket, until).map_err(|e| self.lane.failed("wait in", e));
        let before = self.before.map_or(0, |before| before.ticket);
        if before > 0 && !self.is_past_before.get() && !wait_for(before)? {
            return Ok(false);
        }
        self.is_past_before.set(true);
        while let Some(ticket) = self.first_before()? {
            passed()?;
            if !wait_for(ticket)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits for our turn, and then for the lock: what `lock` gives, once nobody stands before us who came while it waited.
    /// `None` when the wait was over before our turn; the inner error of `lock` ends it too.
    ///
    /// # Errors
    /// As [`Ticket::wait_for_turn`], and those of `lock`.
    pub(crate) fn wait_for<T, N>(
        &self,
        until: Until,
        mut lock: impl FnMut() -> Result<Result<T, N>>,
    ) -> Result<Option<Result<T, N>>> {
        while self.wait_for_turn(until, &mut || Ok(()))? {
            let locked = lock()?;
            if locked.is_err() || self.is_first()? {
                return Ok(Some(locked));
            }
            // Somebody stepped in front: the lock is given back, and waited for behind it.
        }
        Ok(None)
    }

    /// Whether nobody stands before us.
    pub(crate) fn is_first(&self) -> Result<bool> {
        Ok(self.first_before()?.is_none())
    }

    fn first_before(&self) -> Result<Option<u64>> {
        self.lane.locked(FRONT..self.place.ticket)
    }

    /// Shows that the run that it is for is not over, beyond the end of the ticket, for as long as somebody has the
    /// descriptor or until [`Ticket::end_run`].
    ///
    /// # Errors
    /// `Io` (resource busy) when somebody shows that already.
    pub(crate) fn begin_run(&self) -> Result<()> {
        let taken = self.lane.take_byte(self.place.run)?;
        let busy = || self.lane.failed("begin a run in", io::ErrorKind::ResourceBusy.into());
        taken.then_some(()).ok_or_else(busy)
    }

    /// The run is over, whoever inherited the descriptor.
    pub(crate) fn end_run(&self) {
        // Nothing to be done about an error: closing the descriptor does it too.
        let _ = range::unlock(&self.lane.file, self.place.run);
    }

    /// Gives the place up, whoever inherited the descriptor.
    pub(crate) fn leave(&self) {
        // As above.
        let _ = range::unlock(&self.lane.file, self.place.ticket);
    }
}

#[cfg(test)]
mod tests;
