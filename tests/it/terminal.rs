//! Jobs in a terminal: Ctrl-C, Ctrl-Z, fg and bg under an interactive shell on a pseudo-terminal.
//!
//! Nothing here reads the screen: what was typed is judged by process states and by files.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::{
    job::{is_alive, state},
    machine,
    sandbox::{Sandbox, eventually},
};

/// An interactive shell on a terminal of its own.
struct Terminal {
    keyboard: File,
    shell: Child,
}

const CTRL_C: &str = "\x03";
const CTRL_Z: &str = "\x1a";
const CTRL_BACKSLASH: &str = "\x1c";

impl Terminal {
    /// In the sandbox's directory. `None` where that is not to be had, which is said.
    #[track_caller]
    fn new(test: &str, sandbox: &Sandbox) -> Option<Self> {
        // setsid(1) makes the terminal the session's: a call that a child would have to make before its exec.
        if !machine::has(test, &["setsid", "bash"]) {
            return None;
        }
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("open a pseudo-terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("set up the pseudo-terminal");
        let name = ptsname(&master, Vec::new()).expect("the pseudo-terminal has a name");
        let open = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            Stdio::from(rustix::fs::open(name.as_c_str(), flags, Mode::empty()).expect("open the terminal"))
        };
        let mut command = Command::new("setsid");
        command.args(["--ctty", "bash", "--noprofile", "--norc", "-i"]).current_dir(sandbox.path(""));
        command.stdin(open()).stdout(open()).stderr(open()).env("HISTFILE", "/dev/null");
        command.env_remove("TRIPLOCK_STATE_DIR").env_remove("TRIPLOCK_HELD");
        let shell = command.spawn().expect("start a shell");
        let screen = master.try_clone().expect("copy a descriptor");
        std::thread::spawn(move || drain(screen));
        let mut terminal = Self { keyboard: File::from(master), shell };
        // So that a failing test leaves no job of the shell's behind: it ends them with its own end.
        terminal.line("echo ready >shell");
        sandbox.written("shell");
        Some(terminal)
    }

    /// Types.
    #[track_caller]
    fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("type");
    }

    #[track_caller]
    fn line(&mut self, line: &str) {
        self.keys(&format!("{line}\n"));
    }

    /// `run nightly …` of a script, in the foreground; its process id is written to `wrapper`, its exit code to `code`.
    #[track_caller]
    fn runs(&mut self, sandbox: &Sandbox, policy: &[&str], script: &str) {
        let words = sandbox.sh("nightly", policy, script).words();
        let quoted: Vec<_> = words.iter().map(|word| quoted(&word.to_string_lossy())).collect();
        // exec keeps the process id, and the shell sees one job.
        // On one line: a key that interrupts has the terminal forget what was typed ahead, and a job may read it.
        self.line(&format!("sh -c 'echo $$ >wrapper; exec \"$0\" \"$@\"' {}; echo $? >code", quoted.join(" ")));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Reads what is printed: a terminal whose screen is full would hold everybody up.
fn drain(screen: OwnedFd) {
    let mut screen = File::from(screen);
    let mut bytes = [0; 4096];
    let mut shown = Vec::new();
    while let Ok(read @ 1..) = screen.read(&mut bytes) {
        shown.extend_from_slice(&bytes[..read]);
    }
    eprintln!("the screen:\n{}", String::from_utf8_lossy(&shown));
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[track_caller]
fn code(sandbox: &Sandbox, file: &str) -> String {
    sandbox.written(file).trim().to_owned()
}

#[track_caller]
fn is_in_state(what: &str, pid: u32, expected: &[char]) {
    eventually(&format!("{what} is in state {expected:?}"), || {
        state(pid).is_some_and(|state| expected.contains(&state))
    });
}

const SLEEPING: &[char] = &['S', 'R', 'D'];
const STOPPED: &[char] = &['T'];

#[test]
fn a_job_reads_from_the_terminal() {
    let sandbox = Sandbox::new();
    let Some(mut terminal) = Terminal::new("terminal::a_job_reads_from_the_terminal", &sandbox) else { return };
    // In a group of its own in the background it would be stopped (SIGTTIN) at the first read.
    terminal.runs(&sandbox, &[], "echo ready >ready; read line; echo \"$line\" >got; exit 4");
    sandbox.written("ready");
    terminal.line("hello");
    assert_eq!(sandbox.written("got"), "hello\n");
    assert_eq!(code(&sandbox, "code"), "4");
    assert_eq!(sandbox.outcomes("nightly"), ["failed"]);
}

#[test]
fn ctrl_c_ends_a_job() {
    for (key, expected) in [(CTRL_C, "130"), (CTRL_BACKSLASH, "131")] {
        let sandbox = Sandbox::new();
        let Some(mut terminal) = Terminal::new("terminal::ctrl_c_ends_a_job", &sandbox) else { return };
        terminal.runs(&sandbox, &[], "ulimit -c 0; echo $$ >pid; exec cat");
        sandbox.pid_in("pid");
        terminal.keys(key);
        assert_eq!(code(&sandbox, "code"), expected);
        sandbox.nothing_runs();
        assert_eq!(sandbox.outcomes("nightly"), ["stopped"]);
        assert!(!sandbox.is_locked("nightly.lock"));
    }
}

/// An editor or a shell handles Ctrl-C itself: the job goes on, and so does its wrapper.
#[test]
fn a_job_that_handles_ctrl_c_goes_on() {
    let sandbox = Sandbox::new();
    let Some(mut terminal) = Terminal::new("terminal::a_job_that_handles_ctrl_c_goes_on", &sandbox) else { return };
    let script = "trap 'echo INT >>got' INT; echo ready >ready; while [ ! -e end ]; do sleep 0.01; done; exit 0";
    terminal.runs(&sandbox, &["-k", "0.2"], script);
    sandbox.written("ready");
    terminal.keys(CTRL_C);
    assert_eq!(sandbox.written("got"), "INT\n");
    // Longer than the grace: no clock was started.
    std::thread::sleep(std::time::Duration::from_millis(500));
    std::fs::write(sandbox.path("end"), "").unwrap();
    assert_eq!(code(&sandbox, "code"), "0");
    assert_eq!(sandbox.written("got"), "INT\n", "once");
    assert_eq!(sandbox.outcomes("nightly"), ["succeeded"]);
}

#[test]
fn ctrl_z_stops_wrapper_and_job_and_fg_continues_both() {
    let test = "terminal::ctrl_z_stops_wrapper_and_job_and_fg_continues_both";
    let sandbox = Sandbox::new();
    let Some(mut terminal) = Terminal::new(test, &sandbox) else { return };
    terminal.runs(&sandbox, &[], "echo $$ >pid; read line; echo \"$line\" >got; exit 4");
    let (wrapper, job) = (sandbox.pid_in("wrapper"), sandbox.pid_in("pid"));
    for round in 0..2 {
        is_in_state("the job", job, SLEEPING);
        terminal.keys(CTRL_Z);
        is_in_state("the wrapper", wrapper, STOPPED);
        is_in_state("the job", job, STOPPED);
        if round == 0 {
            // The shell has its prompt back. (128 + TSTP, or STOP.)
            let code = code(&sandbox, "code");
            assert!(["147", "148"].contains(&&*code), "{code}");
            terminal.line("jobs >jobs; echo end >>jobs");
            eventually("the shell lists its jobs", || sandbox.written("jobs").ends_with("end\n"));
            assert!(sandbox.written("jobs").contains("Stopped"), "{}", sandbox.written("jobs"));
        }
        assert!(sandbox.is_locked("nightly.lock"), "a stopped job still runs");
        terminal.line("fg");
        is_in_state("the wrapper", wrapper, SLEEPING);
    }
    is_in_state("the job", job, SLEEPING);
    terminal.line("hello");
    assert_eq!(sandbox.written("got"), "hello\n");
    terminal.line("echo $? >after");
    assert_eq!(code(&sandbox, "after"), "4");
    assert_eq!(sandbox.outcomes("nightly"), ["failed"]);
}

#[test]
fn bg_continues_a_job_in_the_background() {
    let sandbox = Sandbox::new();
    let Some(mut terminal) = Terminal::new("terminal::bg_continues_a_job_in_the_background", &sandbox) else { return };
    sandbox.pipe("go");
    terminal.runs(&sandbox, &[], "echo $$ >pid; read x <go; exit 4");
    let (wrapper, job) = (sandbox.pid_in("wrapper"), sandbox.pid_in("pid"));
    is_in_state("the job", job, SLEEPING);
    terminal.keys(CTRL_Z);
    is_in_state("the wrapper", wrapper, STOPPED);
    is_in_state("the job", job, STOPPED);
    sandbox.written("code");
    terminal.line("bg");
    is_in_state("the wrapper", wrapper, SLEEPING);
    is_in_state("the job", job, SLEEPING);
    sandbox.open_pipe("go");
    terminal.line("wait %1; echo $? >after");
    assert_eq!(code(&sandbox, "after"), "4");
    assert_eq!(sandbox.outcomes("nightly"), ["failed"]);
}

#[test]
fn a_time_limit_works_in_the_foreground() {
    let test = "terminal::a_time_limit_works_in_the_foreground";
    let sandbox = Sandbox::new();
    let Some(mut terminal) = Terminal::new(test, &sandbox) else { return };
    terminal.runs(
        &sandbox,
        &["--time-limit", "0.3", "-k", "0.3"],
        "trap '' TERM; sleep 1000 & setsid sleep 1000 & wait",
    );
    assert_eq!(code(&sandbox, "code"), "137");
    sandbox.nothing_runs();
    assert_eq!(sandbox.outcomes("nightly"), ["timed_out"]);
    // The shell, in whose session all that was, is still there.
    terminal.line("echo here >here");
    sandbox.written("here");
}

#[test]
fn term_to_the_wrapper_works_in_the_foreground() {
    let test = "terminal::term_to_the_wrapper_works_in_the_foreground";
    let sandbox = Sandbox::new();
    let Some(mut terminal) = Terminal::new(test, &sandbox) else { return };
    terminal.runs(&sandbox, &["-k", "0.3"], "echo $$ >pid; sleep 1000 & wait");
    sandbox.pid_in("pid");
    let wrapper = sandbox.pid_in("wrapper");
    Command::new("kill").args(["-TERM", &wrapper.to_string()]).status().expect("kill");
    assert_eq!(code(&sandbox, "code"), "143");
    sandbox.nothing_runs();
    assert_eq!(sandbox.outcomes("nightly"), ["stopped"]);
}

/// A run that was started with `&` has the terminal, but not its foreground.
#[test]
fn a_job_in_the_background_is_left_alone_by_ctrl_c() {
    let test = "terminal::a_job_in_the_background_is_left_alone_by_ctrl_c";
    let sandbox = Sandbox::new();
    let Some(mut terminal) = Terminal::new(test, &sandbox) else { return };
    let words = sandbox.sh("nightly", &[], "echo $$ >pid; while [ ! -e end ]; do sleep 0.01; done").words();
    let quoted: Vec<_> = words.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    terminal.line(&format!("{} &", quoted.join(" ")));
    sandbox.pid_in("pid");
    terminal.line("sh -c 'echo $$ >waits; exec cat'");
    let waits = sandbox.pid_in("waits");
    terminal.keys(CTRL_C);
    eventually("the foreground is interrupted", || !is_alive(waits));
    std::fs::write(sandbox.path("end"), "").unwrap();
    terminal.line("wait; echo $? >code");
    assert_eq!(code(&sandbox, "code"), "0");
    assert_eq!(sandbox.outcomes("nightly"), ["succeeded"]);
}
