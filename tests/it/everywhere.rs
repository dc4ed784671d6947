//! The same job from a shell, from a real cron and from a real systemd timer, at once: they meet at one lock.
//!
//! Each of the three, a user of its own in the group, comes to a gate of its own and sleeps there. The test opens the
//! gates when at least one of each has come, so that all of them ask for the lock at one moment, many times over. A
//! round is over when one of them runs and all others are recorded as skipped because of it. Who comes meanwhile comes to the
//! next round's gates.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use serde_json::Value;

use crate::{
    cron_box::libfaketime,
    gate::exclusive,
    job, machine,
    sandbox::{Running, eventually},
    systemd_box::SystemdBox,
};

const KINDS: [&str; 3] = ["shell", "cron", "timer"];
const LOCK: &str = "/var/lib/triplock/jobs/same.lock";

/// What each of them does: says that it has come and which file the lock is to it, waits at its gate, and becomes
/// triplock.
fn comes(kind: &str, triplock: &str) -> String {
    format!("stat -c %d:%i {LOCK} >>/run/meet/seen.{kind}; exec flock -sF /run/meet/gate.{kind} {triplock}")
}

/// The three schedulers, and their gates.
struct Meeting {
    machine: SystemdBox,
    /// Closed while the file is open.
    gates: Vec<File>,
    /// How many have gone through each gate.
    gone: [usize; 3],
    rounds: u32,
}

impl Meeting {
    fn new(test: &str) -> Option<Self> {
        if !machine::has(test, &["cron", "flock"]) {
            return None;
        }
        let Some(libfaketime) = libfaketime() else {
            machine::skip(test, "not installed: libfaketime");
            return None;
        };
        let machine = SystemdBox::booted(test)?;
        // (On an overlay, as the rest of the box, /proc/locks tells another device than stat.)
        let mount = "mount -t tmpfs -o mode=755 tmpfs /var/lib/triplock && systemd-tmpfiles --create triplock.conf";
        machine.sh("root", mount).exits(0);
        for kind in KINDS {
            machine.add_user(&format!("of-{kind}"), &["triplock"]);
        }
        fs::create_dir(machine.path("/run/meet")).unwrap();
        // (Without the sticky bit, under which nobody may append to another's file.)
        fs::set_permissions(machine.path("/run/meet"), fs::Permissions::from_mode(0o777)).unwrap();
        // Whoever runs it writes there.
        machine.write("/run/meet/seen.job", "");
        fs::set_permissions(machine.path("/run/meet/seen.job"), fs::Permissions::from_mode(0o666)).unwrap();
        machine.job(
            "same",
            "mkdir /run/meet/busy || echo \"$TRIPLOCK_RUN_ID\" >>/run/meet/overlaps
             stat -c %d:%i \"$TRIPLOCK_LOCK_FILE\" >>/run/meet/seen.job || exit 99
             until [ -e /run/meet/go.$TRIPLOCK_RUN_ID ]; do sleep 0.01; done
             rmdir /run/meet/busy",
            "",
        );
        // The lock file is there when they look.
        machine.write("/run/meet/go.1", "");
        machine.sh("of-shell", "TRIPLOCK_STATE_DIR=/var/lib/triplock triplock run same").exits(0);
        let mut meeting = Self { gates: Vec::new(), machine, gone: [0; 3], rounds: 0 };
        meeting.gates = meeting.close();
        meeting.start_timer();
        meeting.start_cron(libfaketime.to_str().expect("a path in text"));
        Some(meeting)
    }

    fn start_timer(&self) {
        let line = comes("timer", "/usr/bin/triplock run %i -E 0").replace("%d:%i", "%%d:%%i");
        // (One that starts every second is refused by systemd after the fifth.)
        self.machine.write(
            "/etc/systemd/system/triplock@same.service.d/meet.conf",
            &format!(
                "[Unit]\nStartLimitIntervalSec=0\n[Service]\nUser=of-timer\nPrivateTmp=yes\nExecStart=\nExecStart=/bin/sh -c '{line}'\n"
            ),
        );
        self.machine.write(
            "/etc/systemd/system/triplock@same.timer.d/meet.conf",
            "[Timer]\nOnCalendar=\nOnCalendar=*-*-* *:*:0/0.25\nAccuracySec=1us\n",
        );
        self.machine.systemctl(["daemon-reload"]).exits(0);
        self.machine.systemctl(["start", "triplock@same.timer"]).exits(0);
    }

    /// Debian's daemon, whose minute is a quarter of a second.
    fn start_cron(&self, libfaketime: &str) {
        self.machine.sh("root", "rm -rf /var/spool/cron/crontabs/*; : >/etc/crontab").exits(0);
        let line = comes("cron", "triplock run same").replace('%', "\\%");
        self.machine
            .write("/etc/cron.d/same", &format!("TRIPLOCK_STATE_DIR=/var/lib/triplock\n* * * * * of-cron {line}\n"));
        self.machine.write(
            "/etc/systemd/system/meet-cron.service",
            &format!(
                "[Service]\nEnvironment=LD_PRELOAD={libfaketime} NO_FAKE_STAT=1 \"FAKETIME=+0 x240\"\nExecStart=/usr/sbin/cron -f -L 15\n"
            ),
        );
        self.machine.systemctl(["start", "meet-cron.service"]).exits(0);
    }

    fn start_shell(&self) -> Running {
        let line = comes("shell", "triplock run same");
        self.machine.sh("of-shell", &format!("export TRIPLOCK_STATE_DIR=/var/lib/triplock; {line}")).start()
    }

    /// Puts closed gates in the place of those there are.
    fn close(&mut self) -> Vec<File> {
        self.rounds += 1;
        let close = |kind| {
            let path = |name: String| self.machine.path(&format!("/run/meet/{name}"));
            let (fresh, gate) = (path(format!("gate.{kind}.{}", self.rounds)), path(format!("gate.{kind}")));
            let file = exclusive(&fresh);
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o666)).unwrap();
            fs::rename(fresh, gate).unwrap();
            file
        };
        KINDS.map(close).into()
    }

    /// How many of that kind have said that they come.
    fn came(&self, kind: usize) -> usize {
        let seen = self.machine.path(&format!("/run/meet/seen.{}", KINDS[kind]));
        fs::read_to_string(seen).unwrap_or_default().matches('\n').count()
    }

    /// The lines of the ledger after those.
    fn since(&self, lines: usize) -> Vec<Value> {
        self.machine.ledger("same").split_off(lines)
    }

    /// Lets everybody who has come ask for the lock: one kind first, or all at once. Which kind ran.
    #[track_caller]
    fn meet(&mut self, first: Option<usize>) -> usize {
        let lines = self.machine.ledger("same").len();
        let shell = self.start_shell();
        eventually("one of each has come", || self.gates.iter().all(|gate| !waiters(gate).is_empty()));
        let next = self.close();
        let mut gates = std::mem::replace(&mut self.gates, next);
        // Whoever has come sleeps at one gate or the other; between its word and its sleep nobody is.
        let mut pids: Vec<Vec<u32>> = Vec::new();
        eventually("everybody who has come sleeps", || {
            pids = gates.iter().map(waiters).collect();
            (0..KINDS.len()).all(|kind| {
                let came = self.came(kind);
                let asleep = self.gone[kind] + pids[kind].len() + waiters(&self.gates[kind]).len();
                came == asleep && came == self.came(kind)
            })
        });
        let kinds: BTreeMap<u64, (usize, u32)> =
            (0..KINDS.len()).flat_map(|kind| pids[kind].iter().map(move |pid| (inner(*pid), (kind, *pid)))).collect();
        for (kind, pids) in pids.iter().enumerate() {
            self.gone[kind] += pids.len();
        }

        let of = |event: &str, lines: &[Value]| -> Vec<Value> {
            lines.iter().filter(|line| line["event"] == event).cloned().collect()
        };
        if let Some(first) = first {
            drop(gates.remove(first));
            eventually("it runs", || !of("started", &self.since(lines)).is_empty());
        }
        drop(gates);
        let mut round = Vec::new();
        eventually("everybody has had an answer", || {
            round = self.since(lines);
            round.len() >= kinds.len()
        });
        let (started, skipped) = (of("started", &round), of("not_run", &round));
        assert_eq!((started.len(), skipped.len()), (1, kinds.len() - 1), "one runs: {round:#?}");
        let winner = &started[0];
        for line in &skipped {
            assert_eq!(line["outcome"], "skipped", "{line}");
            // Who has the lock and has not yet written so into its file is known by its process alone.
            let by_process = format!("pid {}:", winner["pid"]);
            let is_named = line["reason"].as_str().is_some_and(|reason| reason.contains(&by_process));
            assert!(line["holder"]["pid"] == winner["pid"] || is_named, "{line}, {winner}");
        }
        let told: BTreeSet<_> = round.iter().map(|line| line["pid"].as_u64().expect("a pid")).collect();
        assert_eq!(told, kinds.keys().copied().collect(), "each has a line of its own: {round:#?}");
        let (kind, pid) = kinds[&winner["pid"].as_u64().expect("a pid")];

        self.machine.write(&format!("/run/meet/go.{}", winner["run"]), "");
        eventually("it has ended", || of("ended", &self.since(lines)).len() == 1 && !job::is_alive(pid));
        assert_eq!(of("ended", &self.since(lines))[0]["outcome"], "succeeded");
        shell.finish().exits(if KINDS[kind] == "shell" { 0 } else { 75 });
        kind
    }
}

/// The processes that sleep at a gate.
fn waiters(gate: &File) -> Vec<u32> {
    let metadata = gate.metadata().expect("stat an open file");
    let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let id = format!(" {major:02x}:{minor:02x}:{} ", metadata.ino());
    let locks = fs::read_to_string("/proc/locks").expect("read /proc/locks");
    let waiting = locks.lines().filter(|line| line.contains("-> FLOCK") && line.contains(&id));
    waiting.map(|line| line.split_whitespace().nth(5).expect("a pid").parse().expect("a pid")).collect()
}

/// The number that a process has in the box.
fn inner(pid: u32) -> u64 {
    let numbers = job::status(pid, "NSpid");
    numbers.split_whitespace().next_back().expect("a number").parse().expect("a number")
}

#[test]
fn a_shell_cron_and_a_timer_start_one_job_at_once_and_one_of_them_runs() {
    let test = "everywhere::a_shell_cron_and_a_timer_start_one_job_at_once_and_one_of_them_runs";
    let Some(mut meeting) = Meeting::new(test) else { return };
    // Each of them keeps out the others …
    for (kind, name) in KINDS.iter().enumerate() {
        assert_eq!(meeting.meet(Some(kind)), kind, "{name} was first");
    }
    // … and when they come together, whichever it is does.
    let mut wins = BTreeMap::new();
    for _ in 0..20 {
        *wins.entry(KINDS[meeting.meet(None)]).or_insert(0) += 1;
    }
    eprintln!("won: {wins:?}");
    assert!(!meeting.machine.exists("/run/meet/overlaps"), "{}", meeting.machine.read("/run/meet/overlaps"));
    // The same lock to all of them, in whichever mount namespace they are.
    let seen: BTreeMap<_, BTreeSet<_>> = KINDS
        .iter()
        .chain(&["job"])
        .map(|kind| {
            let lines = meeting.machine.read(&format!("/run/meet/seen.{kind}"));
            (kind, lines.lines().map(str::to_owned).collect())
        })
        .collect();
    let files: BTreeSet<_> = seen.values().flatten().collect();
    assert_eq!((files.len(), seen.len()), (1, 4), "{seen:?}");
}
