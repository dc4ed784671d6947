//! A real cron daemon, Debian's, whose minutes are seconds, in a mount namespace of its own: it sees the crontabs of the
//! box and none of the machine's, and what it would mail is kept.
//!
//! - libfaketime is preloaded into the daemon alone. Jobs get the environment that cron gives them, and real time.
//! - cron mails through `/usr/sbin/sendmail` and nothing else (without one it throws output away), so the box has one
//!   that stores what it is given.
//! - It looks at crontabs again when the newest time among them differs in its whole seconds, of which a minute has one
//!   here. So every change gets a second of its own.
//! - Process ids are the machine's: a lock taken under cron is seen from a shell, as it is outside of tests. What the
//!   box has started is known by its mount namespace, and is ended with the box.

use std::{
    cell::{Cell, RefCell},
    fs::{self, File},
    io::Write as _,
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use rustix::process::{Pid, PidfdFlags, Signal};
use tempfile::TempDir;

use crate::{machine, mount::FORGET_DISKS, sandbox::eventually};

/// A user that only the box knows, in a group with the other one.
pub(crate) const MEMBER: (&str, u32) = ("triplock-one", 54322);
pub(crate) const OTHER_MEMBER: (&str, u32) = ("triplock-two", 54323);
pub(crate) const GROUP: u32 = 54321;

/// The box. The thread that made it must outlive it: with that thread the daemon ends.
#[derive(Debug)]
pub(crate) struct CronBox {
    /// The namespace, which lives as long as this is open.
    namespace: File,
    daemon: RefCell<Option<Child>>,
    preloaded: PathBuf,
    /// How often a crontab has changed.
    changes: Cell<u64>,
    dir: TempDir,
}

/// What cron has given to sendmail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mail {
    /// sendmail's arguments.
    pub(crate) arguments: String,
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

/// Mounts what the box has over what the machine has, says so, and waits until somebody has the namespace.
const MOUNT: &str = r#"set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir /run/upper /run/work
mount -t overlay -o lowerdir=/usr/sbin,upperdir=/run/upper,workdir=/run/work overlay /usr/sbin
rm -f /usr/sbin/sendmail
cp "$0/sendmail" /usr/sbin/sendmail
: >/run/empty
for file in /etc/crontab /etc/anacrontab /etc/environment /etc/default/locale /etc/cron.allow /etc/cron.deny; do
  if [ -e "$file" ]; then mount --bind /run/empty "$file"; fi
done
mount --bind "$0/cron.d" /etc/cron.d
mount --bind "$0/spool" /var/spool/cron
mount --bind "$0/passwd" /etc/passwd
mount --bind "$0/group" /etc/group
echo mounted
read -r opened"#;

impl CronBox {
    /// A daemon without crontabs. `None` where the machine cannot have one: then the test is skipped, out loud.
    #[track_caller]
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !machine::is_root() {
            machine::skip(test, "needs root, to give cron a namespace of its own");
            return None;
        }
        if !machine::has(test, &["cron", "crontab", "unshare", "nsenter", "setpriv", "mount"]) {
            return None;
        }
        let Some(preloaded) = libfaketime() else {
            machine::skip(test, "not installed: libfaketime");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("triplock-cron-").tempdir().expect("make a temporary directory");
        fill(dir.path());
        let namespace = namespace(dir.path());
        let cron = Self { namespace, daemon: RefCell::default(), preloaded, changes: Cell::new(0), dir };
        cron.start();
        Some(cron)
    }

    /// Starts the daemon; again, when it was killed.
    #[track_caller]
    pub(crate) fn start(&self) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(self.inside()).args(["/usr/bin/env", "-i", "PATH=/usr/bin:/bin"]);
        command.arg(format!("LD_PRELOAD={}", self.preloaded.display())).arg("FAKETIME=+0 x60");
        // Files have their real times.
        command.args(["NO_FAKE_STAT=1", "/usr/sbin/cron", "-f", "-L", "15"]);
        let log = File::options().append(true).create(true).open(self.path("log")).expect("open the daemon's log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        let daemon = command.spawn().expect("start setpriv");
        *self.daemon.borrow_mut() = Some(daemon);
        eventually("cron runs", || self.pid().is_some_and(|pid| comm(pid) == "cron"));
    }

    /// The daemon's process id, while it was not killed.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.daemon.borrow().as_ref().map(Child::id)
    }

    /// `kill -9` of the daemon alone. What it has started goes on.
    pub(crate) fn kill(&self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            daemon.wait().expect("wait for our own child");
        }
    }

    /// Ends the daemon and waits for what it has started, which mails what there is to mail.
    #[track_caller]
    pub(crate) fn comes_to_rest(&self) {
        self.kill();
        eventually("everything that cron has started ends", || self.processes().is_empty());
    }

    /// Words to put before a command that is to see the box's crontabs.
    pub(crate) fn inside(&self) -> [String; 3] {
        let namespace = format!("--mount=/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd());
        ["nsenter".to_owned(), namespace, "--".to_owned()]
    }

    /// Makes a file in /etc/cron.d of those lines.
    #[track_caller]
    pub(crate) fn system_line(&self, file: &str, text: &str) {
        let path = self.cron_d().join(file);
        // Not half of it: the daemon may look at any time, and it passes over names with a dot.
        let fresh = self.cron_d().join(format!("{file}.new"));
        fs::write(&fresh, format!("{text}\n")).expect("write a crontab");
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644)).expect("chmod");
        fs::rename(&fresh, &path).expect("rename a crontab");
        self.crontabs_changed();
    }

    /// The box's /etc/cron.d.
    pub(crate) fn cron_d(&self) -> PathBuf {
        self.path("cron.d")
    }

    /// Gives a user that crontab, by crontab(1).
    #[track_caller]
    pub(crate) fn user_crontab(&self, user: &str, text: &str) {
        let [program, args @ ..] = self.inside();
        let mut command = Command::new(program);
        command.args(args).args(["crontab", "-u", user, "-"]).stdin(Stdio::piped());
        let mut crontab = command.spawn().expect("start nsenter");
        let mut pipe = crontab.stdin.take().expect("piped");
        writeln!(pipe, "{text}").expect("write to crontab");
        drop(pipe);
        assert!(crontab.wait().expect("wait for crontab").success(), "crontab -u {user}: {text}");
        self.crontabs_changed();
    }

    /// Has the daemon look at its crontabs again; for tests that change them by other means.
    pub(crate) fn crontabs_changed(&self) {
        let change = self.changes.get() + 1;
        self.changes.set(change);
        // The newest of all times, and another one each time.
        let time = SystemTime::now() + Duration::from_secs(1000 + 10 * change);
        for directory in [self.cron_d(), self.path("spool/crontabs")] {
            for file in fs::read_dir(&directory).expect("list crontabs") {
                File::open(file.expect("list crontabs").path())
                    .expect("open")
                    .set_modified(time)
                    .expect("set its time");
            }
            File::open(&directory).expect("open").set_modified(time).expect("set its time");
        }
    }

    /// What cron has mailed, the oldest first.
    pub(crate) fn mails(&self) -> Vec<Mail> {
        let mut found: Vec<_> = fs::read_dir(self.path("mail"))
            .expect("list mail")
            .map(|entry| entry.expect("list mail").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "mail"))
            .map(|path| (fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("stat a mail"), path))
            .collect();
        found.sort();
        found.into_iter().map(|(_, path)| Mail::parse(&fs::read(path).expect("read a mail"))).collect()
    }

    /// Waits until there are so many mails.
    #[track_caller]
    pub(crate) fn waits_for_mails(&self, number: usize) -> Vec<Mail> {
        eventually(&format!("cron has mailed {number} times"), || self.mails().len() >= number);
        self.mails()
    }

    /// A path of the box, which every user may look into.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Everything in the box, the daemon included.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let processes = fs::read_dir("/proc").expect("list /proc");
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| self.has(*pid)).collect()
    }

    /// Whether that process is in the box.
    fn has(&self, pid: u32) -> bool {
        let ours = self.namespace.metadata().expect("stat our own file");
        // A process that has ended, or a kernel thread, has none.
        fs::metadata(format!("/proc/{pid}/ns/mnt")).is_ok_and(|its| (its.dev(), its.ino()) == (ours.dev(), ours.ino()))
    }
}

impl Drop for CronBox {
    /// Ends the daemon and all it has started.
    fn drop(&mut self) {
        self.kill();
        for _ in 0..5000 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for pid in left {
                let pid_of = i32::try_from(pid).ok().and_then(Pid::from_raw);
                let Some(Ok(handle)) = pid_of.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty())) else {
                    continue;
                };
                // Looked at once the handle means it: the number may have passed to a stranger before.
                if self.has(pid) {
                    let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Mail {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
        let mut lines = head.lines().map(str::to_owned);
        Self { arguments: lines.next().unwrap_or_default(), headers: lines.collect(), body: body.to_owned() }
    }

    /// What stands after that header's colon.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = |line: &'_ String| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
        self.headers.iter().find(|line| value(line)).map_or("", |line| line[name.len() + 1..].trim())
    }
}

/// Where Debian's multiarch puts it.
pub(crate) fn libfaketime() -> Option<PathBuf> {
    let directories = fs::read_dir("/usr/lib").ok()?;
    let mut candidates = directories.filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketime.so.1")));
    candidates.find(|path| path.is_file())
}

/// What the box puts over the machine's.
fn fill(dir: &Path) {
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    mode(dir, 0o755);
    for (name, bits) in [("cron.d", 0o755), ("spool", 0o755), ("spool/crontabs", 0o1730), ("mail", 0o1777)] {
        fs::create_dir(dir.join(name)).expect("make a directory");
        mode(&dir.join(name), bits);
    }
    // crontab(1) writes there with the rights of its group.
    let crontab = fs::metadata("/usr/bin/crontab").expect("crontab is installed").gid();
    chown(dir.join("spool/crontabs"), None, Some(crontab)).expect("chgrp");
    let mail = dir.join("mail");
    // A mail is there once it is whole.
    let sendmail = format!(
        "#!/bin/sh\nmail=$(mktemp -p {0}) || exit 75\n{{ echo \"$*\"; cat; }} >\"$mail\" && mv \"$mail\" \"$mail.mail\"\n",
        mail.display()
    );
    fs::write(dir.join("sendmail"), sendmail).expect("write sendmail");
    mode(&dir.join("sendmail"), 0o755);
    let [mut passwd, mut group] =
        ["/etc/passwd", "/etc/group"].map(|file| fs::read(file).unwrap_or_else(|e| panic!("{file}: {e}")));
    for (name, uid) in [MEMBER, OTHER_MEMBER] {
        let home = dir.join(name);
        fs::create_dir(&home).expect("make a home");
        chown(&home, Some(uid), Some(GROUP)).expect("chown");
        writeln!(passwd, "{name}:*:{uid}:{GROUP}::{}:/bin/sh", home.display()).expect("write to a vector");
    }
    writeln!(group, "triplock-box:x:{GROUP}:{},{}", MEMBER.0, OTHER_MEMBER.0).expect("write to a vector");
    fs::write(dir.join("passwd"), passwd).expect("write passwd");
    fs::write(dir.join("group"), group).expect("write group");
}

/// A mount namespace with the box's files in their places.
#[track_caller]
fn namespace(dir: &Path) -> File {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "/bin/sh", "-c"]);
    command.arg(format!("{FORGET_DISKS}{MOUNT}")).arg(dir);
    let mut mounting = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mounting = mounting.as_mut().expect("start unshare");
    let mut said = String::new();
    let mut stdout = std::io::BufReader::new(mounting.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut stdout, &mut said).expect("read from our own child");
    if said != "mounted\n" {
        let mut why = String::new();
        let stderr = mounting.stderr.as_mut().expect("piped");
        std::io::Read::read_to_string(stderr, &mut why).expect("read from our own child");
        let _ = mounting.wait();
        panic!("cannot make cron's namespace: {said}{why}");
    }
    let namespace = File::open(format!("/proc/{}/ns/mnt", mounting.id())).expect("open the namespace");
    drop(mounting.stdin.take());
    mounting.wait().expect("wait for our own child");
    namespace
}

fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}
