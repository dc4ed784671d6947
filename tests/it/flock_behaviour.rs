//! What a lock of `triplock flock` means to others. Every test is true of util-linux's flock(1) as well, and is held
//! against it where that is installed.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use crate::{
    dispositions,
    flock_drop_in::both,
    sandbox::{Sandbox, TRIPLOCK, eventually, waiters},
};

#[test]
fn a_held_lock_is_a_conflict() {
    for flock in both("a_held_lock_is_a_conflict") {
        let place = Place::new(flock);
        let held = place.hold(Kind::Exclusive);
        place.call(["-n", "F", "echo", "ran"]).ends(1, "", "");
        place.call(["-n", "-E", "7", "F", "echo", "ran"]).ends(7, "", "");
        place.call(["-nE0", "F", "echo", "ran"]).ends(0, "", "");
        place.call(["-w", "0", "F", "echo", "ran"]).ends(1, "", "");
        place.call(["--verbose", "-n", "F", "echo", "ran"]).ends(1, "", "flock: failed to get lock\n");
        drop(held);
        place.call(["-n", "F", "echo", "ran"]).ends(0, "ran\n", "");
    }
}

#[test]
fn shared_locks_exclude_exclusive_ones() {
    for flock in both("shared_locks_exclude_exclusive_ones") {
        let place = Place::new(flock);
        let held = place.hold(Kind::Shared);
        place.call(["-sn", "F", "echo", "ran"]).ends(0, "ran\n", "");
        place.call(["-s", "F", "echo", "ran"]).ends(0, "ran\n", "");
        place.call(["-sw", "9", "F", "echo", "ran"]).ends(0, "ran\n", "");
        place.call(["-xn", "F", "echo", "ran"]).ends(1, "", "");
        place.call(["-sxn", "F", "echo", "ran"]).ends(1, "", "");
        drop(held);
        let _held = place.hold(Kind::Exclusive);
        place.call(["-sn", "F", "echo", "ran"]).ends(1, "", "");
        // The lock is not asked for.
        place.call(["-un", "F", "echo", "ran"]).ends(0, "ran\n", "");
    }
}

#[test]
fn a_wait_ends_when_its_time_is_over() {
    for flock in both("a_wait_ends_when_its_time_is_over") {
        let place = Place::new(flock);
        let _held = place.hold(Kind::Exclusive);
        for operation in ["-x", "-s"] {
            let start = Instant::now();
            let timeout = "flock: timeout while waiting to get lock\n";
            place.call([operation, "-w.3", "-E5", "--verbose", "F", "echo", "ran"]).ends(5, "", timeout);
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(10), "{took:?}");
        }
    }
}

#[test]
fn a_waiter_gets_the_lock_when_it_is_free() {
    for flock in both("a_waiter_gets_the_lock_when_it_is_free") {
        for words in [&["F", "echo", "ran"][..], &["-w", "60", "F", "echo", "ran"], &["-s", "F", "echo", "ran"]] {
            let place = Place::new(flock);
            let held = place.hold(Kind::Exclusive);
            let waiting = place.start(words);
            eventually("it waits", || waiters(&held) == 1);
            drop(held);
            Ended(waiting.output()).ends(0, "ran\n", "");
        }
    }
}

#[test]
fn a_descriptor_is_locked_for_whoever_opened_it() {
    for flock in both("a_descriptor_is_locked_for_whoever_opened_it") {
        let place = Place::new(flock);
        let script = "( flock -n 9 || exit 99
            flock -n F true; echo $?
            flock -s 9; flock -sn F true; echo $?
            flock -u 9; flock -n F true; echo $? ) 9>F
            flock -n F true; echo $?";
        place.shell(script).ends(0, "1\n0\n0\n0\n", "");
        place.shell("flock -n F flock -n 3").ends(0, "", "");
        place.shell("flock 0 <&-").ends(65, "", "flock: 0: Bad file descriptor\n");
        place.shell("flock F wc -c <&-").ends(0, "0\n", "");
    }
}

#[test]
fn a_directory_is_locked() {
    for flock in both("a_directory_is_locked") {
        let place = Place::new(flock);
        fs::create_dir(place.file()).unwrap();
        place.shell("flock F flock -n F true").ends(1, "", "");
        place.shell("flock -n F/ true").ends(0, "", "");
    }
}

/// The background process waits for the test to open the gate, and then ends by itself.
#[test]
fn what_inherits_the_descriptor_keeps_the_lock() {
    for flock in both("what_inherits_the_descriptor_keeps_the_lock") {
        for (options, keeps) in [("-n", true), ("-no", false), ("-nF", true)] {
            let place = Place::new(flock);
            let gate = place.gate();
            place.shell(&format!("flock {options} F sh -c '(read line <gate) >/dev/null 2>&1 &'")).ends(0, "", "");
            place.call(["-n", "F", "true"]).ends(i32::from(keeps), "", "");
            // Only once it reads there can the gate be opened for writing.
            drop(fs::OpenOptions::new().write(true).open(gate).unwrap());
            eventually("it is free", || place.call(["-n", "F", "true"]).0.status.success());
        }
    }
}

#[test]
fn without_a_fork_it_becomes_the_command() {
    for flock in both("without_a_fork_it_becomes_the_command") {
        let place = Place::new(flock);
        for (words, same) in [(["-F", "F", "sh", "-c", "echo $$"], true), (["-n", "F", "sh", "-c", "echo $$"], false)] {
            let child = place.start(words);
            let pid = child.id();
            let output = child.output();
            assert_eq!(String::from_utf8_lossy(&output.stdout) == format!("{pid}\n"), same, "{output:?}");
        }
    }
}

/// A TERM to the wrapper alone ends it alone. The command goes on, and keeps the lock.
#[test]
fn a_wrapper_that_is_ended_leaves_the_lock_with_the_command() {
    for flock in both("a_wrapper_that_is_ended_leaves_the_lock_with_the_command") {
        for signal in [Signal::TERM, Signal::KILL, Signal::INT] {
            let place = Place::new(flock);
            let gate = place.gate();
            let mut child = place.start(["F", "sh", "-c", "echo started; read line <gate", "sh"]);
            let mut begun = [0; 8];
            child.0.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
            rustix::process::kill_process(Pid::from_child(&child.0), signal).unwrap();
            assert_eq!(child.0.wait().unwrap().signal(), Some(signal.as_raw()));
            place.call(["-n", "F", "true"]).ends(1, "", "");
            drop(fs::OpenOptions::new().write(true).open(gate).unwrap());
            eventually("it is free", || place.call(["-n", "F", "true"]).0.status.success());
        }
    }
}

#[test]
fn a_waiter_that_is_ended_does_not_run_the_command() {
    for flock in both("a_waiter_that_is_ended_does_not_run_the_command") {
        let place = Place::new(flock);
        let held = place.hold(Kind::Exclusive);
        for words in [&["F", "touch", "ran"][..], &["-w", "60", "F", "touch", "ran"]] {
            let mut waiting = place.start(words);
            eventually("it waits", || waiters(&held) == 1);
            rustix::process::kill_process(Pid::from_child(&waiting.0), Signal::TERM).unwrap();
            assert_eq!(waiting.0.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
        }
        drop(held);
        assert!(!place.sandbox.path("ran").exists());
    }
}

#[test]
fn the_command_is_in_the_same_group_with_the_same_signals() {
    for flock in both("the_command_is_in_the_same_group_with_the_same_signals") {
        let place = Place::new(flock);
        let group = "cut -d' ' -f5,6 /proc/self/stat";
        place.shell(&format!("flock F {group} >a; {group} >b; cmp a b")).ends(0, "", "");
        let signals = "grep Sig[BIC] /proc/self/status";
        for ignored in ["", "PIPE", "TERM PIPE HUP", "CHLD INT"] {
            let script = format!(
                "{} flock F {signals} >a; {signals} >b; cmp a b",
                if ignored.is_empty() { String::new() } else { format!("trap '' {ignored};") }
            );
            place.shell(&script).ends(0, "", "");
        }
        for option in ["-n", "-F"] {
            let script = format!("env --ignore-signal=CHLD flock {option} F {signals} >a; {signals} >b; cmp a b");
            place.shell(&script).ends(0, "", "");
        }
        // Whose children the kernel buries by itself would not learn how they ended.
        place.shell("env --ignore-signal=CHLD flock F sh -c 'exit 3'").ends(3, "", "");
    }
}

/// Who reads what it tells may have left: the command is run all the same.
#[test]
fn a_broken_pipe_does_not_keep_the_command_from_running() {
    for flock in both("a_broken_pipe_does_not_keep_the_command_from_running") {
        let place = Place::new(flock);
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        drop(reader);
        let mut command = place.flock();
        command.args(["--verbose", "F", "touch", "ran"]).stdout(writer);
        command.output().unwrap();
        assert!(place.sandbox.path("ran").exists(), "{}", flock.display());
    }
}

/// A crontab changes by one word.
#[test]
fn a_crontab_line_changes_by_one_word() {
    let place = Place::new(Path::new(TRIPLOCK));
    let line = "/usr/bin/flock -n F -c 'echo ran; exit 3'";
    let changed = line.replace("/usr/bin/flock", &format!("{TRIPLOCK} flock"));
    place.shell(&changed).ends(3, "ran\n", "");
    fs::copy(TRIPLOCK, place.sandbox.path("copy")).unwrap();
    fs::create_dir(place.sandbox.path("sbin")).unwrap();
    fs::rename(place.sandbox.path("copy"), place.sandbox.path("sbin/flock")).unwrap();
    place.shell(&line.replace("/usr/bin/", "sbin/")).ends(3, "ran\n", "");
    place.shell(&format!("{TRIPLOCK} --quiet flock -n F true")).ends(0, "", "");
    let _held = place.hold(Kind::Exclusive);
    place.shell(&changed).ends(1, "", "");
}

#[derive(Clone, Copy)]
enum Kind {
    Shared,
    Exclusive,
}

/// A directory with one of the two programs as its `flock`.
struct Place {
    sandbox: Sandbox,
}

impl Place {
    fn new(flock: &Path) -> Self {
        let sandbox = Sandbox::new();
        fs::create_dir(sandbox.path("bin")).unwrap();
        if flock.is_absolute() {
            std::os::unix::fs::symlink(flock, sandbox.path("bin/flock")).unwrap();
        }
        Self { sandbox }
    }

    fn file(&self) -> PathBuf {
        self.sandbox.path("F")
    }

    /// A pipe that a command of this place waits at.
    fn gate(&self) -> PathBuf {
        let gate = self.sandbox.path("gate");
        assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
        gate
    }

    /// Locks the file as somebody else.
    // The tests play the foreign process, so they lock by themselves.
    #[allow(clippy::disallowed_methods)]
    fn hold(&self, kind: Kind) -> File {
        let file = File::create(self.file()).unwrap();
        let tried = match kind {
            Kind::Shared => fs2::FileExt::try_lock_shared(&file),
            Kind::Exclusive => fs2::FileExt::try_lock_exclusive(&file),
        };
        tried.expect("nobody has it");
        file
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = dispositions::command(program);
        command.current_dir(self.sandbox.path("")).stdin(Stdio::null()).env_remove("LD_LIBRARY_PATH");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let bin = [self.sandbox.path("bin")].into_iter().chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(bin).unwrap());
        command
    }

    /// It by the name under which this place has it, whichever of the two it is.
    fn flock(&self) -> Command {
        self.command(Path::new("flock"))
    }

    /// Calls it.
    fn call<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Ended {
        Ended(self.flock().args(words).output().unwrap())
    }

    fn start<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Started {
        let mut command = self.flock();
        command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        Started(command.spawn().unwrap())
    }

    /// Runs a script whose `flock` it is.
    fn shell(&self, script: &str) -> Ended {
        Ended(self.command(Path::new("sh")).args(["-c", script]).output().unwrap())
    }
}

/// Killed when the test fails before its end.
struct Started(Child);

impl Started {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn output(mut self) -> Output {
        let mut output = Output { status: self.0.wait().unwrap(), stdout: Vec::new(), stderr: Vec::new() };
        self.0.stdout.take().unwrap().read_to_end(&mut output.stdout).unwrap();
        self.0.stderr.take().unwrap().read_to_end(&mut output.stderr).unwrap();
        output
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have been waited for: then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Ended(Output);

impl Ended {
    #[track_caller]
    fn ends(&self, code: i32, stdout: &str, stderr: &str) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let found = (self.0.status.code(), text(&self.0.stdout), text(&self.0.stderr));
        assert_eq!(found, (Some(code), stdout.to_owned(), stderr.to_owned()));
    }
}
