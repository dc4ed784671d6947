//! Who keeps a file locked.
//!
//! A lock of flock(2) belongs to an open file, which every process that inherited its descriptor shares. So there are two
//! questions. Who *took* it: `/proc/locks` names that process, alive or not. Who *keeps* it: every process that has a
//! descriptor of that open file. Those are found in `/proc/PID/fd` by device and inode, and told from mere openers and from
//! waiters by `/proc/PID/fdinfo`, which shows a lock under the descriptors of the open file that holds it and under no
//! others.
//!
//! Two things `/proc/locks` does not tell: a taker that ended, seen from a pid namespace other than the first, takes its
//! line with it ([`LockTable::is_complete`]); and it prints the file system's device, which on btrfs and overlayfs is not
//! the one that `stat` gives, so there a line is a hint that fdinfo has to confirm.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, StatxFlags},
    io::Errno,
};

use super::table::pids;
use crate::dir::FileId;

/// The inode number of the first pid namespace (the kernel's `PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// As much of `/proc/locks` as certainly came in one piece.
const ONE_READ: usize = 2048;

/// How often the list is read when it is longer and always shows something new.
const LOOKS: usize = 8;

/// The flock(2) locks of `/proc/locks`, at one moment.
#[derive(Debug, Default)]
pub(crate) struct LockTable {
    lines: Vec<Line>,
    is_complete: bool,
}

/// One lock, or one wait for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    /// 0 when it is in another pid namespace.
    pid: u32,
    device: (u32, u32),
    inode: u64,
    waits: bool,
    is_exclusive: bool,
}

impl Line {
    /// Reads `1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF`; a waiter's has `->` after the colon. Other kinds of
    /// lock are `None`.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().skip(1).peekable();
        let waits = fields.next_if_eq(&"->").is_some();
        if fields.next()? != "FLOCK" {
            return None;
        }
        let is_exclusive = fields.nth(1)? == "WRITE";
        // -1 is said of a lock without a process.
        let pid = fields.next()?.parse::<i64>().ok()?;
        let mut file = fields.next()?.split(':');
        let hex = |part: Option<&str>| u32::from_str_radix(part?, 16).ok();
        let device = (hex(file.next())?, hex(file.next())?);
        let inode = file.next()?.parse().ok()?;
        Some(Self { pid: u32::try_from(pid).unwrap_or_default(), device, inode, waits, is_exclusive })
    }

    fn is_of(&self, file: FileId) -> bool {
        self.inode == file.inode && self.device == (rustix::fs::major(file.device), rustix::fs::minor(file.device))
    }
}

/// The list, with as few reads as can be: each read(2) is a look of its own, as far as its buffer and a page go, and the
/// standard library would begin with a buffer of 32 bytes, in which there is one lock.
fn look() -> io::Result<String> {
    let mut text = String::with_capacity(64 * 1024);
    File::open("/proc/locks")?.read_to_string(&mut text)?;
    Ok(text)
}

impl LockTable {
    pub(crate) fn read() -> io::Result<Self> {
        let namespace = fs::read_link("/proc/self/ns/pid");
        let is_complete = namespace.is_ok_and(|namespace| namespace == Path::new(FIRST_PID_NAMESPACE));
        let mut text = look()?;
        let mut lines: Vec<_> = text.lines().filter_map(Line::parse).collect();
        // The kernel hands out a page at a time, and goes on after as many locks as it has shown: when one of those is
        // gone meanwhile, another that is held all the time is passed over. So until nothing new is seen.
        let mut seen = 0;
        for _ in 0..LOOKS {
            lines.sort_unstable();
            lines.dedup();
            if text.len() <= ONE_READ || lines.len() == seen {
                break;
            }
            seen = lines.len();
            text = look()?;
            lines.extend(text.lines().filter_map(Line::parse));
        }
        Ok(Self { lines, is_complete })
    }

    /// Whether every lock of the machine is in it. Otherwise one that is not in it may still be held, and [`keepers`] has to
    /// be asked.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The processes that took the lock of that file and still have it or gave it to others: several of a shared one.
    /// They may have ended.
    pub(crate) fn takers(&self, file: FileId) -> Vec<u32> {
        self.holders(file).map(|line| line.pid).collect()
    }

    /// Whether that process has taken the lock of that file, as far as the list tells, which for users who may not look
    /// into the process is all there is: by the inode alone, since on btrfs and overlayfs the list's device is another.
    pub(crate) fn may_have_been_taken(&self, file: FileId, pid: u32) -> bool {
        self.lines.iter().any(|line| !line.waits && line.inode == file.inode && line.pid == pid)
    }

    /// Whether the file is locked.
    pub(crate) fn is_locked(&self, file: FileId) -> bool {
        if self.holders(file).next().is_some() {
            return true;
        }
        // The taker of a lock that looks like it may be gone, with only its heirs left to confirm it.
        self.lines.iter().any(|line| !line.waits && line.inode == file.inode)
            && visible_keepers(file).is_ok_and(|keepers| !keepers.keepers.is_empty())
    }

    /// The processes that wait for it.
    #[cfg(test)]
    pub(crate) fn waiters(&self, file: FileId) -> Vec<u32> {
        self.lines.iter().filter(|line| line.waits && line.is_of(file)).map(|line| line.pid).collect()
    }

    fn holders(&self, file: FileId) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| {
            !line.waits
                && line.inode == file.inode
                && (line.is_of(file) || line.pid != 0 && keeps(line.pid, file).unwrap_or(false))
        })
    }
}

/// A process that has a descriptor of the open file that is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keeper {
    pub(crate) pid: u32,
    /// Its first such descriptor.
    pub(crate) fd: u32,
    /// The process that took the lock, which may have ended; 0 when it cannot be told (any more).
    pub(crate) taker: u32,
    /// Whether it keeps everybody else out, or only those who want to.
    pub(crate) is_exclusive: bool,
}

impl Keeper {
    /// Whether its lock may be the one that this process took. (A taker that has ended is not always told.)
    pub(crate) fn is_of(&self, taker: u32) -> bool {
        [taker, 0].contains(&self.taker)
    }
}

/// Who keeps a file locked, as far as can be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Keepers {
    pub(crate) keepers: Vec<Keeper>,
    /// How many processes did not let us look (another user's).
    pub(crate) unreadable: usize,
    /// Somebody keeps it, if not one of those we found, then one who did not let us look. (`false` with unreadable
    /// processes in a pid namespace of our own means nothing: see [`LockTable::is_complete`].)
    pub(crate) locked: bool,
}

/// Every process that keeps the file locked.
pub(crate) fn keepers(file: FileId) -> io::Result<Keepers> {
    let mut keepers = visible_keepers(file)?;
    // The table is read last: a holder that started while we looked is in it, and the caller looks again.
    let in_table = || LockTable::read().is_ok_and(|table| table.holders(file).next().is_some());
    keepers.locked = !keepers.keepers.is_empty() || in_table();
    Ok(keepers)
}

fn visible_keepers(file: FileId) -> io::Result<Keepers> {
    let mut keepers = Keepers::default();
    for pid in pids()? {
        match keeper(pid, file) {
            Ok(found) => keepers.keepers.extend(found),
            Err(_) => keepers.unreadable += 1,
        }
    }
    Ok(keepers)
}

/// Whether that process keeps the file locked.
///
/// # Errors
/// When it does not let us look.
pub(crate) fn keeps(pid: u32, file: FileId) -> io::Result<bool> {
    keeper(pid, file).map(|keeper| keeper.is_some())
}

fn keeper(pid: u32, file: FileId) -> io::Result<Option<Keeper>> {
    for_each_descriptor(pid, file, |fd, text| {
        let mut locks = text.lines().filter_map(|line| Line::parse(line.strip_prefix("lock:")?));
        let lock = locks.find(|lock| lock.inode == file.inode)?;
        Some(Keeper { pid, fd, taker: lock.pid, is_exclusive: lock.is_exclusive })
    })
}

/// Looks at a process's descriptors of that file, and at what the kernel says of each, until something is found.
fn for_each_descriptor<T>(
    pid: u32,
    file: FileId,
    mut look: impl FnMut(u32, &str) -> Option<T>,
) -> io::Result<Option<T>> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let descriptors = match fs::read_dir(process.join("fd")) {
        Ok(descriptors) => descriptors,
        Err(e) => return gone_is_none(e),
    };
    for entry in descriptors {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => return gone_is_none(e),
        };
        // It may have been closed by now, or is nothing that has an inode.
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if file_behind(&entry.path()).ok() != Some(file) {
            continue;
        }
        match fs::read_to_string(process.join(format!("fdinfo/{fd}"))) {
            Ok(text) => {
                if let Some(found) = look(fd, &text) {
                    return Ok(Some(found));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return gone_is_none(e),
        }
    }
    Ok(None)
}

/// Whether that process has that byte of the file locked for itself.
///
/// # Errors
/// When it does not let us look.
pub(crate) fn has_byte(pid: u32, file: FileId, byte: u64) -> io::Result<bool> {
    Ok(bytes_of(pid, file)?.contains(&byte))
}

/// Which processes have which of those bytes.
pub(crate) fn who_have_bytes(file: FileId, bytes: &[u64]) -> io::Result<Vec<(u32, u64)>> {
    let mut found = Vec::new();
    for pid in pids()? {
        // Of who does not let us look, nothing is known.
        let theirs = bytes_of(pid, file).unwrap_or_default();
        found.extend(theirs.into_iter().filter(|byte| bytes.contains(byte)).map(|byte| (pid, byte)));
    }
    Ok(found)
}

/// The bytes of the file that a process has locked for itself: `lock: 1: OFDLCK ADVISORY  WRITE -1 fd:01:123 17 17` each.
pub(crate) fn bytes_of(pid: u32, file: FileId) -> io::Result<Vec<u64>> {
    let byte = |line: &str| {
        let mut fields = line.strip_prefix("lock:")?.split_ascii_whitespace().skip(1);
        if fields.next()? != "OFDLCK" || fields.nth(1)? != "WRITE" {
            return None;
        }
        let of = fields.nth(1)?.rsplit(':').next()?.parse::<u64>().ok()?;
        let (first, last) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
        (of == file.inode && first == last).then_some(first)
    };
    let mut bytes = Vec::new();
    for_each_descriptor(pid, file, |_, text| -> Option<()> {
        bytes.extend(text.lines().filter_map(byte));
        None
    })?;
    Ok(bytes)
}

/// What has ended keeps nothing.
fn gone_is_none<T>(error: io::Error) -> io::Result<Option<T>> {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => Ok(None),
        _ => Err(error),
    }
}

/// Which file a link in `/proc/PID/fd` means. A network file system is not asked: its server may be gone, and we would wait
/// for it.
fn file_behind(link: &Path) -> io::Result<FileId> {
    match rustix::fs::statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::INO) {
        Ok(stat) => {
            Ok(FileId { device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino })
        }
        Err(Errno::NOSYS) => {
            use std::os::unix::fs::MetadataExt as _;
            fs::metadata(link).map(|stat| FileId { device: stat.dev(), inode: stat.ino() })
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::AsFd as _,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::{
        dir::stat_file,
        process::{Program, Spawn, alone::eventually},
    };

    #[test]
    fn lines_are_told_apart() {
        let line = Line::parse("1: FLOCK  ADVISORY  WRITE 359 fd:1a:11691 0 EOF").unwrap();
        let expected = Line { pid: 359, device: (0xfd, 0x1a), inode: 11691, waits: false, is_exclusive: true };
        assert_eq!(line, expected);
        let line = Line::parse("12: -> FLOCK  ADVISORY  READ  -1 00:2f:7 0 EOF").unwrap();
        assert_eq!(line, Line { pid: 0, device: (0, 0x2f), inode: 7, waits: true, is_exclusive: false });
        assert_eq!(Line::parse("3: POSIX  ADVISORY  WRITE 1 08:01:5 0 EOF"), None);
        assert_eq!(Line::parse("4: LEASE  ACTIVE    READ 1 08:01:5 0 EOF"), None);
        assert_eq!(Line::parse(""), None);
    }

    #[test]
    // The test plays those who take locks by themselves.
    #[allow(clippy::disallowed_methods)]
    fn a_lock_that_is_held_is_seen_while_others_come_and_go() {
        let (dir, path, id) = fixture();
        let held = File::open(path).unwrap();
        fs2::FileExt::lock_exclusive(&held).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let is_done = || done.load(std::sync::atomic::Ordering::Relaxed);
        let missed = std::thread::scope(|scope| {
            let is_done = &is_done;
            for thread in 0..2 {
                let others: Vec<_> = (0..8).map(|n| dir.path().join(format!("{thread}.{n}"))).collect();
                scope.spawn(move || {
                    while !is_done() {
                        let files: Vec<_> = others.iter().map(|path| File::create(path).unwrap()).collect();
                        for file in &files {
                            fs2::FileExt::lock_exclusive(file).unwrap();
                        }
                    }
                });
            }
            let missed = (0..2000).filter(|_| LockTable::read().unwrap().takers(id).is_empty()).count();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            missed
        });
        // (Other processes' locks may make it two pages, of which one may be read too late.)
        assert!(missed < 200, "missed {missed} of 2000 times");
    }

    fn fixture() -> (tempfile::TempDir, PathBuf, FileId) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.lock");
        let id = stat_file(&File::create_new(&path).unwrap()).unwrap().id;
        (dir, path, id)
    }

    #[test]
    fn holders_are_told_from_waiters_and_openers() {
        let (_dir, path, id) = fixture();
        assert!(!LockTable::read().unwrap().is_locked(id));
        assert_eq!(keepers(id).unwrap().keepers, []);
        let flock = |command: &str| {
            let mut flock = Command::new("flock");
            flock.arg(&path).args(["-c", command]).stdin(Stdio::piped()).spawn().unwrap()
        };
        let mut holder = flock("read -r line");
        eventually("it is locked", || LockTable::read().unwrap().is_locked(id));
        let mut waiter = flock("true");
        eventually("somebody waits", || LockTable::read().unwrap().waiters(id) == [waiter.id()]);
        let opener = File::open(&path).unwrap();
        assert_eq!(LockTable::read().unwrap().takers(id), [holder.id()]);
        assert!(keeps(holder.id(), id).unwrap());
        assert!(!keeps(waiter.id(), id).unwrap());
        assert!(!keeps(std::process::id(), id).unwrap());
        eventually("flock and its shell keep it", || {
            let found = keepers(id).unwrap().keepers;
            found.len() == 2 && found.iter().any(|keeper| keeper.pid == holder.id() && keeper.is_exclusive)
        });
        drop(opener);
        drop(holder.stdin.take());
        holder.wait().unwrap();
        waiter.wait().unwrap();
        assert_eq!(keepers(id).unwrap().keepers, []);
        assert!(!LockTable::read().unwrap().is_locked(id));
    }

    #[test]
    fn a_lock_whose_taker_closed_it_is_kept_by_the_job() {
        let (_dir, path, id) = fixture();
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let file = take(&path);
        let program = Program::find(&["cat".into()]).unwrap();
        let job = Spawn {
            program: &program,
            environment: &[],
            stdin: Some(reader.as_fd()),
            stdout: None,
            stderr: None,
            inherit: &[file.as_fd()],
            own_group: false,
            dies_with_us: false,
            cgroup: None,
            mask: None,
        };
        let job = job.start().unwrap();
        drop(file);
        let table = LockTable::read().unwrap();
        assert!(table.is_locked(id) || !table.is_complete());
        // A process that another test is just starting has our descriptors until it is its program.
        eventually("only the job keeps it", || {
            keepers(id).unwrap().keepers.iter().map(|keeper| keeper.pid).collect::<Vec<_>>() == [job.id()]
        });
        assert!(!keeps(std::process::id(), id).unwrap());
        drop(writer);
        job.wait().unwrap();
        assert_eq!(keepers(id).unwrap().keepers, []);
        assert!(!LockTable::read().unwrap().is_locked(id));
    }

    #[test]
    fn a_lock_that_is_held_is_in_the_list_however_others_come_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let file = |number: usize| directory.path().join(number.to_string());
        (0..200).for_each(|number| drop(File::create(file(number)).unwrap()));
        let held: Vec<_> = (0..100).map(|number| take(&file(number))).collect();
        let ids: Vec<_> = held.iter().map(|file| crate::dir::stat_file(file).unwrap().id).collect();
        let done = std::sync::atomic::AtomicBool::new(false);
        let missing = std::thread::scope(|scope| {
            scope.spawn(|| {
                let others: Vec<_> = (100..200).map(|number| File::open(file(number)).unwrap()).collect();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    others.iter().for_each(lock);
                    others.iter().for_each(unlock);
                }
            });
            let looks = (0..150).map(|_| LockTable::read().unwrap());
            let missing =
                looks.map(|table| ids.iter().filter(|id| table.takers(**id).is_empty()).count()).sum::<usize>();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            missing
        });
        assert_eq!(missing, 0);
    }

    #[allow(clippy::disallowed_methods)]
    fn take(path: &Path) -> File {
        let file = File::open(path).unwrap();
        lock(&file);
        file
    }

    #[allow(clippy::disallowed_methods)]
    fn unlock(file: &File) {
        rustix::fs::flock(file, rustix::fs::FlockOperation::Unlock).unwrap();
    }

    #[allow(clippy::disallowed_methods)]
    fn lock(file: &File) {
        rustix::fs::flock(file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    }
}
