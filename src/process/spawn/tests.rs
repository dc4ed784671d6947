use std::{
    fs::{self, File},
    io::Read as _,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::Path,
};

use rustix::event::{PollFd, PollFlags};

use super::*;
use crate::process::{
    Cgroup, Signals, Status,
    alone::{alone_after, eventually},
    wait_for,
};

fn argv(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn start(words: &[&str]) -> Result<Child, SpawnError> {
    Spawn::plain(&Program::find(&argv(words))?).start()
}

/// A shell script whose output is read.
struct Script {
    program: Program,
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Script {
    fn new(script: &str) -> Self {
        let program = Program::find(&argv(&["sh", "-c", script, "a name", "one  two", ""])).unwrap();
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        Self { program, reader, writer }
    }

    fn spawn(&self) -> Spawn<'_> {
        Spawn { stdout: Some(self.writer.as_fd()), ..Spawn::plain(&self.program) }
    }

    fn output_of(self, child: &Child) -> (String, Status) {
        drop(self.writer);
        let mut output = String::new();
        File::from(self.reader).read_to_string(&mut output).unwrap();
        (output, child.wait().unwrap().status)
    }
}

fn run(script: &str) -> (String, Status) {
    let script = Script::new(script);
    let child = script.spawn().start().unwrap();
    script.output_of(&child)
}

fn run_with_mask(script: &str, mask: &Mask) -> (String, Status) {
    let script = Script::new(script);
    let child = Spawn { mask: Some(mask), ..script.spawn() }.start().unwrap();
    script.output_of(&child)
}

fn executable(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Another thread may hold the fresh script open for writing in a child that has not become its program yet.
fn start_script(words: &[&str]) -> Child {
    let mut started = None;
    eventually("the script is not busy", || match start(words) {
        Err(SpawnError::NotExecutable(e)) if e.kind() == io::ErrorKind::ExecutableFileBusy => false,
        other => {
            started = Some(other.unwrap());
            true
        }
    });
    started.unwrap()
}

#[test]
fn what_cannot_be_executed_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let path = |name: &str| dir.path().join(name).into_os_string().into_string().unwrap();
    let not_found = |words: &[&str]| matches!(start(words), Err(SpawnError::NotFound(_)));
    let not_executable = |words: &[&str]| match start(words) {
        Err(SpawnError::NotExecutable(e)) => e.raw_os_error().unwrap_or_default(),
        other => panic!("{words:?}: {other:?}"),
    };
    assert!(not_found(&["triplock-has-no-such-command", "x"]));
    assert!(not_found(&[&path("missing")]));
    assert!(not_found(&[""]));
    assert!(not_found(&[]));
    assert_eq!(not_executable(&[&path("file")]), libc::EACCES);
    assert_eq!(not_executable(&[&path("")]), libc::EACCES, "a directory");
    assert_eq!(not_executable(&["/bin"]), libc::EACCES, "a directory");
    assert_eq!(not_executable(&[&path("file/below")]), libc::ENOTDIR);
    assert_eq!(not_executable(&["true", "\0"]), 0, "no errno: never tried");
}

#[test]
fn path_is_searched_as_execvp_does() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["first", "second"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("first/tool"), "").unwrap();
    fs::write(dir.path().join("first/only"), "").unwrap();
    executable(&dir.path().join("second/tool"), "#!/bin/sh\nexit 7\n");
    let shell = format!("PATH={0}/missing:{0}/first/tool:{0}/first:{0}/second:$PATH:{0}/missing", dir.path().display());
    // The outer process made the directory and its path; the inner finds it in its own.
    alone_after(&shell, "process::spawn::tests::path_is_searched_as_execvp_does", || {
        assert_eq!(start_script(&["tool"]).wait().unwrap().status, Status::Exited(7), "past the one that may not run");
        assert!(matches!(start(&["only"]), Err(SpawnError::NotExecutable(_))), "not found later");
        assert!(matches!(start(&["none"]), Err(SpawnError::NotFound(_))));
    });
}

#[test]
fn a_script_without_an_interpreter_is_the_shells() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    executable(&script, "test \"$0 $1 $2\" = \"$SCRIPT a b\" && exit 9\n");
    let program = Program::find(&[script.clone().into(), "a".into(), "b".into()]).unwrap();
    let environment = [("SCRIPT".into(), Some(script.into_os_string()))];
    let mut status = None;
    eventually("the script is not busy", || {
        let child = Spawn { environment: &environment, ..Spawn::plain(&program) }.start();
        status = child.ok().map(|child| child.wait().unwrap().status);
        status.is_some()
    });
    assert_eq!(status, Some(Status::Exited(9)));
}

#[test]
fn arguments_environment_and_exit_code_arrive() {
    let environment = [
        ("TRIPLOCK_TEST_SET".into(), Some("a = b".into())),
        ("HOME".into(), None),
        ("PATH".into(), Some("/changed".into())),
    ];
    let script = r#"printf '%s|' "$0" "$@" "$TRIPLOCK_TEST_SET" "${HOME-none}" "$PATH"; exit 42"#;
    let script = Script::new(script);
    let child = Spawn { environment: &environment, ..script.spawn() }.start().unwrap();
    let (output, status) = script.output_of(&child);
    assert_eq!(output, "a name|one  two||a = b|none|/changed|");
    assert_eq!(status, Status::Exited(42));
    assert_eq!(run("kill -9 $$").1, Status::Killed(9));
    // Untouched, it is all of ours.
    let (output, _) = run("env");
    let names = |name: &str| output.lines().any(|line| line.starts_with(name));
    assert!(std::env::var_os("PATH").is_none() || names("PATH="));
}

#[test]
fn only_what_is_inherited_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let [given, withheld] = ["given", "withheld"].map(|name| File::create(dir.path().join(name)).unwrap());
    // (Not `>&N`: dash takes no number of two digits there.)
    let script = format!("echo x >/proc/$$/fd/{}; ls -l /proc/$$/fd", given.as_raw_fd());
    let script = Script::new(&script);
    let child = Spawn { inherit: &[given.as_fd()], ..script.spawn() }.start().unwrap();
    let (output, status) = script.output_of(&child);
    assert_eq!(status, Status::Exited(0));
    assert!(output.contains("/given") && !output.contains("/withheld"), "{output}");
    assert_eq!(fs::read_to_string(dir.path().join("given")).unwrap(), "x\n");
    let flags = rustix::io::fcntl_getfd(&given).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "ours is as before");
    drop(withheld);
}

#[test]
fn standard_descriptors_can_change_places() {
    let two = io::stderr();
    let mut kept = Vec::new();
    assert!(out_of_the_way(two.as_fd(), 1, &mut kept).unwrap() > 2);
    assert_eq!(kept.len(), 1);
    assert_eq!(out_of_the_way(two.as_fd(), 2, &mut kept).unwrap(), 2);
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("f")).unwrap();
    assert_eq!(out_of_the_way(file.as_fd(), 1, &mut kept).unwrap(), file.as_raw_fd());
    // One descriptor as two of them.
    let script = Script::new("echo out; echo error >&2");
    let child = Spawn { stderr: Some(script.writer.as_fd()), ..script.spawn() }.start().unwrap();
    let (output, _) = script.output_of(&child);
    assert_eq!(output, "out\nerror\n");
}

/// A line of a process's status file, as a number.
fn signal_set(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

const STATUS: &str = "while read -r line; do echo \"$line\"; done < /proc/self/status";

#[test]
fn the_mask_is_the_one_from_before_and_broken_pipes_end_a_program() {
    let own = fs::read_to_string("/proc/thread-self/status").unwrap();
    let signals = Signals::take().unwrap();
    let taken = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert_ne!(signal_set(&own, "SigBlk:"), signal_set(&taken, "SigBlk:"));
    let (status, _) = run_with_mask(STATUS, signals.before());
    assert_eq!(signal_set(&status, "SigBlk:"), signal_set(&own, "SigBlk:"));
    assert_eq!(signal_set(&status, "SigIgn:") & (1 << (libc::SIGPIPE - 1)), 0);
    let (status, _) = run(STATUS);
    assert_eq!(signal_set(&status, "SigBlk:"), signal_set(&taken, "SigBlk:"), "without one it is ours");
    let after = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert_eq!(signal_set(&after, "SigBlk:"), signal_set(&taken, "SigBlk:"), "starting changes nothing here");
    drop(signals);
    let after = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert_eq!(signal_set(&after, "SigBlk:"), signal_set(&own, "SigBlk:"));
}

#[test]
fn broken_pipes_are_ignored_as_who_started_us_wanted() {
    let name = "process::spawn::tests::broken_pipes_are_ignored_as_who_started_us_wanted";
    alone_after("trap '' PIPE", name, || {
        let (status, _) = run(STATUS);
        assert_eq!(signal_set(&status, "SigIgn:") & (1 << (libc::SIGPIPE - 1)), 1 << (libc::SIGPIPE - 1));
    });
}

/// Its group, its signals and its environment are ours, and its end is waited for without a descriptor.
#[test]
fn a_plain_child_is_waited_for() {
    let end = |words: &[&str]| Spawn::plain(&Program::find(&argv(words))?).run().map(Result::unwrap);
    let status = |words: &[&str]| end(words).unwrap().status;
    let pgid = rustix::process::getpgrp().as_raw_nonzero();
    let script = format!("test $(cut -d' ' -f5 /proc/$$/stat) = {pgid} && exit 5");
    assert_eq!(status(&["sh", "-c", &script]), Status::Exited(5));
    assert_eq!(status(&["sh", "-c", "kill -9 $$"]), Status::Killed(9));
    assert!(matches!(end(&["triplock-has-no-such-command"]), Err(SpawnError::NotFound(_))));
}

/// While there are handlers, all signals are held back until the new process has none.
#[test]
fn our_handlers_do_not_change_what_a_program_finds() {
    let name = "process::spawn::tests::our_handlers_do_not_change_what_a_program_finds";
    alone_after("trap '' HUP", name, || {
        let found = || {
            let (status, _) = run(STATUS);
            ["SigBlk:", "SigIgn:", "SigCgt:"].map(|set| signal_set(&status, set))
        };
        assert!(handled_signals().is_empty());
        let before = found();
        let own = fs::read_to_string("/proc/thread-self/status").unwrap();
        let deferred = crate::lock::Deferred::begin();
        assert_eq!(handled_signals(), [libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
        assert_eq!(found(), before);
        let after = fs::read_to_string("/proc/thread-self/status").unwrap();
        assert_eq!(signal_set(&after, "SigBlk:"), signal_set(&own, "SigBlk:"));
        drop(deferred);
        assert!(handled_signals().is_empty());
    });
}

#[test]
fn a_program_takes_our_place() {
    let name = "process::spawn::tests::a_program_takes_our_place";
    if std::env::var_os("TRIPLOCK_TEST_BECOMES").is_none() {
        let test = std::env::current_exe().unwrap().into_os_string().into_string().unwrap();
        let program = Program::find(&argv(&[&test, "--exact", name, "--nocapture"])).unwrap();
        let environment = [("TRIPLOCK_TEST_BECOMES".into(), Some("1".into()))];
        let script = Script { program, ..Script::new("") };
        let child = Spawn { environment: &environment, ..script.spawn() }.start().unwrap();
        let pid = child.id();
        let (output, status) = script.output_of(&child);
        assert_eq!(status, Status::Exited(6), "{output}");
        assert!(output.contains(&format!("became {pid} 1 0\n")), "{output}");
        return;
    }
    let become_it = |words: &[&str]| Spawn::plain(&Program::find(&argv(words)).unwrap()).become_it();
    assert!(matches!(become_it(&["triplock-has-no-such-command"]), SpawnError::NotFound(_)));
    let broken = 1 << (libc::SIGPIPE - 1);
    let script = format!(
        "while read -r name set; do test \"$name\" = SigIgn: && break; done < /proc/$$/status\necho \"became $$ $TRIPLOCK_TEST_BECOMES $((0x$set & {broken}))\"; exit 6"
    );
    panic!("{}", become_it(&["sh", "-c", &script]));
}

#[test]
fn what_the_caller_ignores_stays_ignored_except_the_end_of_children() {
    let name = "process::spawn::tests::what_the_caller_ignores_stays_ignored_except_the_end_of_children";
    alone_after("trap '' HUP", name, || {
        // Shells do not let a script ignore this one.
        // SAFETY: a disposition without a handler, in a process of this test's own.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        let (status, ended) = run(STATUS);
        assert_eq!(ended, Status::Exited(0), "its end was not lost");
        assert_eq!(signal_set(&status, "SigIgn:") & 1, 1, "HUP");
    });
}

/// In a process all of whose threads hold signals back, as those of triplock do: else another thread would take them.
#[test]
fn signals_are_read_with_their_sender() {
    let name = "process::spawn::tests::signals_are_read_with_their_sender";
    if std::env::var_os("TRIPLOCK_TEST_MASKED").is_none() {
        let _signals = Signals::take().unwrap();
        let test = std::env::current_exe().unwrap();
        let shell = argv(&["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]);
        let words = shell.into_iter().chain([test.into_os_string()]).chain(argv(&["--exact", name, "--nocapture"]));
        let program = Program::find(&words.collect::<Vec<_>>()).unwrap();
        let environment = [("TRIPLOCK_TEST_MASKED".into(), Some("1".into()))];
        let script = Script { program, ..Script::new("") };
        let child = Spawn { environment: &environment, ..script.spawn() }.start().unwrap();
        let (output, status) = script.output_of(&child);
        assert!(status == Status::Exited(0) && output.contains("1 passed"), "{output}");
        return;
    }
    let signals = Signals::take().unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(signal_set(&own, "ShdPnd:") & 1, 1, "an ignored signal that is held back is queued");
    assert_eq!(signals.read(), None, "and passed over");
    let (_, status) = run(&format!("kill -TERM {}", std::process::id()));
    assert_eq!(status, Status::Exited(0));
    let mut came = std::iter::from_fn(|| signals.read()).collect::<Vec<_>>();
    came.sort_by_key(|received| std::cmp::Reverse(received.signal));
    assert_eq!(came.iter().map(|r| r.signal).collect::<Vec<_>>(), [libc::SIGCHLD, libc::SIGTERM]);
    assert!(!came[1].from_kernel && came[1].sender.is_some());
}

#[test]
fn a_group_of_its_own_and_an_end_that_can_be_waited_for() {
    let program = Program::find(&argv(&["sleep", "100"])).unwrap();
    let child = Spawn { own_group: true, ..Spawn::plain(&program) }.start().unwrap();
    assert_eq!(rustix::process::getpgid(Some(child.pid)).unwrap(), child.pid);
    let mut fds = [PollFd::new(&child, PollFlags::IN)];
    assert_eq!(wait_for(&mut fds, Some(std::time::Duration::ZERO)).unwrap(), 0);
    rustix::process::kill_process_group(child.pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(wait_for(&mut fds, None).unwrap(), 1);
    let ended = child.wait().unwrap();
    assert_eq!(ended.status, Status::Killed(9));
    let (_, status) = run("test $(ps -o pgid= $$ || echo 0) != $$");
    assert_eq!(status, Status::Exited(0), "only when asked for");
}

#[test]
fn usage_is_measured() {
    let child = start(&["sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]).unwrap();
    let usage = child.wait().unwrap().usage;
    assert!(usage.user + usage.system > std::time::Duration::from_millis(5), "{usage:?}");
    assert!(usage.peak_memory > 256 * 1024, "{usage:?}");
}

/// The group of a process that a child starts and is the parent of, and whether the child is said to be in the one asked for.
fn group_of_a_child(cgroup: BorrowedFd<'_>) -> (String, bool) {
    let script = Script::new("cat /proc/self/cgroup");
    let child = Spawn { cgroup: Some(cgroup), ..script.spawn() }.start().unwrap();
    let in_cgroup = child.in_cgroup;
    let (output, status) = script.output_of(&child);
    assert_eq!(status, Status::Exited(0));
    (output.lines().find(|line| line.starts_with("0::")).unwrap_or_default().to_owned(), in_cgroup)
}

/// As a container's filter does: from now on, clone3(2) fails in this thread and what it starts.
fn forbid_clone3() {
    let number = u32::try_from(libc::SYS_clone3).unwrap();
    let step = |code: u32, on_false, operand| libc::sock_filter {
        code: code.try_into().unwrap(),
        jt: 0,
        jf: on_false,
        k: operand,
    };
    let mut steps = [
        // The call's number is what comes first.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
    // SAFETY: a valid program, which the kernel copies; then a call that is too short to start anything.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
        assert_eq!(libc::syscall(libc::SYS_clone3, ptr::null::<u8>(), 0), -1);
    }
    assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
}

#[test]
fn it_runs_in_the_control_group_on_every_kernel() {
    alone_after("", "process::spawn::tests::it_runs_in_the_control_group_on_every_kernel", || {
        let dir = tempfile::tempdir().unwrap();
        let no_group = File::open(dir.path()).unwrap();
        let ours = fs::read_to_string("/proc/self/cgroup").unwrap();
        let ours = ours.lines().find(|line| line.starts_with("0::")).unwrap_or_default();
        assert_eq!(group_of_a_child(no_group.as_fd()), (ours.to_owned(), false), "where there is no group");
        let Some(cgroup) = Cgroup::try_make("test") else {
            eprintln!("SKIPPED: no control group is to be had here (none delegated, or not writable)");
            return;
        };
        let name = cgroup.path().file_name().unwrap().to_str().unwrap();
        let expected = format!("{}/{name}", ours.trim_end_matches('/'));
        assert_eq!(group_of_a_child(cgroup.as_fd()), (expected.clone(), true));
        forbid_clone3();
        assert_eq!(group_of_a_child(cgroup.as_fd()), (expected, true), "it moves there by itself");
        assert_eq!(group_of_a_child(no_group.as_fd()), (ours.to_owned(), false));
    });
}
