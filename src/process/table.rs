//! The process table, as /proc shows it (proc(5)).

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    time::Duration,
};

/// What is known of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessInfo {
    pub(crate) pid: u32,
    /// 0 of a process whose parent is in no namespace that we see.
    pub(crate) parent: u32,
    /// Its process group.
    pub(crate) group: u32,
    /// As ps(1) has it: `R`, `S`, `D`, `T`, `Z` …
    pub(crate) state: char,
    /// When it started, in clock ticks since the boot: with the pid, this means one process for ever.
    pub(crate) start_ticks: u64,
    /// The kernel's name for it: 15 bytes of its program's file name.
    pub(crate) name: String,
}

/// How long the machine has been up.
pub(crate) fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

impl ProcessInfo {
    /// Whether it still runs; a zombie does not, it only waits to be asked how it ended.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// How long ago it started, to a hundredth of a second: the kernel's tick towards programs, whatever its own is.
    pub(crate) fn age(&self) -> Duration {
        self.age_at(uptime())
    }

    /// The same at the moment at which the machine had been up that long.
    pub(crate) fn age_at(&self, uptime: Duration) -> Duration {
        uptime.saturating_sub(Duration::from_millis(self.start_ticks.saturating_mul(10)))
    }

    /// Reads a line of `/proc/PID/stat`. The name is in parentheses and may itself contain any of them, blanks and line
    /// ends, so it ends at the last one.
    fn parse(line: &[u8]) -> Option<Self> {
        let open = line.iter().position(|byte| *byte == b'(')?;
        let close = line.iter().rposition(|byte| *byte == b')')?;
        let name = String::from_utf8_lossy(line.get(open + 1..close)?).into_owned();
        let pid = std::str::from_utf8(&line[..open]).ok()?.trim().parse().ok()?;
        let mut fields = std::str::from_utf8(line.get(close + 1..)?).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        // The 22nd field of the line; the state is the third.
        let start_ticks = fields.nth(16)?.parse().ok()?;
        Some(Self { pid, parent, group, state, start_ticks, name })
    }
}

/// What is known of that process; `None` when there is none, or it is hidden from us (`hidepid`).
pub(crate) fn info(pid: u32) -> Option<ProcessInfo> {
    // Some 300 bytes, and given in one piece.
    let mut line = [0; 1024];
    let read = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    ProcessInfo::parse(&line[..read])
}

/// Its command line with blanks between the arguments, or its name in brackets when it has none (a kernel thread, a
/// zombie).
pub(crate) fn command_line(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.is_empty() {
        return info(pid).map(|process| format!("[{}]", process.name));
    }
    Some(String::from_utf8_lossy(bytes).replace('\0', " "))
}

/// The numbers of all processes that /proc shows.
pub(super) fn pids() -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// The children of a process, as its own threads list them: quicker than the whole table, and none where the kernel was
/// built without that list.
pub(super) fn children(pid: u32) -> Vec<ProcessInfo> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let listed = list.split_ascii_whitespace().filter_map(|child| info(child.parse().ok()?));
        found.extend(listed.filter(|child| child.parent == pid));
    }
    found
}

/// The descendants of a process, zombies among them, parents before children. Not one moment's picture: a process
/// that comes or goes meanwhile may be missing.
pub(crate) fn descendants(pid: u32) -> io::Result<Vec<ProcessInfo>> {
    let mut children: HashMap<u32, Vec<ProcessInfo>> = HashMap::new();
    for process in pids()?.filter_map(info) {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = children.remove(&pid).unwrap_or_default();
    let mut next = 0;
    while next < found.len() {
        // Taken out, so that a number that came to be used twice meanwhile cannot make a circle.
        found.extend(children.remove(&found[next].pid).unwrap_or_default());
        next += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::process::alone::eventually;

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        let rest = "S 7 8 8 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3";
        for name in ["sh", "a b", ") Z 1 1 1", "((x) R", "", "\n", "a)"] {
            let process = ProcessInfo::parse(format!("42 ({name}) {rest}\n").as_bytes()).unwrap();
            let expected =
                ProcessInfo { pid: 42, parent: 7, group: 8, state: 'S', start_ticks: 987_654, name: name.to_owned() };
            assert_eq!(process, expected);
        }
        assert_eq!(ProcessInfo::parse(b"42 (sh"), None);
        assert_eq!(ProcessInfo::parse(b"42 (sh) S 1"), None);
        assert_eq!(ProcessInfo::parse(b")("), None);
    }

    #[test]
    fn ourselves_and_a_tree_below() {
        let me = info(std::process::id()).unwrap();
        assert!(me.is_alive() && me.start_ticks > 0);
        assert!(command_line(me.pid).unwrap().contains("triplock"));
        assert_eq!(info(u32::MAX), None);
        let mut child = Command::new("sh").args(["-c", "sleep 98 & wait"]).stdin(Stdio::null()).spawn().unwrap();
        let sleeper = || descendants(child.id()).unwrap().into_iter().find(|process| process.name == "sleep");
        eventually("the grandchild is there", || sleeper().is_some());
        let sleeper = sleeper().unwrap();
        assert_eq!(sleeper.parent, child.id());
        assert_eq!(command_line(sleeper.pid).unwrap(), "sleep 98");
        assert!(descendants(me.pid).unwrap().contains(&sleeper), "of ours too");
        assert!(children(me.pid).iter().any(|process| process.pid == child.id()));
        assert_eq!(children(child.id()).iter().map(|process| process.pid).collect::<Vec<_>>(), [sleeper.pid]);
        child.kill().unwrap();
        eventually("a zombie is not alive", || info(child.id()).is_some_and(|process| !process.is_alive()));
        child.wait().unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(sleeper.pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}
