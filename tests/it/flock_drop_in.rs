//! `triplock flock` beside the flock(1) of util-linux 2.38: the same command line to both, each in a directory of its
//! own, and the same exit code, messages, output and files must come of it.

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Command, Stdio},
};

use crate::{machine, sandbox::TRIPLOCK};

/// Every one of these says the same in both. (`x` is a lock file that is not there yet, `d` a directory, `bad` a script
/// without its interpreter, `plain` one that names none, `noexec` no program.)
const SAME: &[&[&str]] = &[
    // Words that are missing, or no options.
    &[],
    &["x"],
    &["-"],
    &["--"],
    &["-", "true"],
    &["--", "x", "true"],
    &["x", "--", "true"],
    &["-n"],
    &["-e", "-n", "-o"],
    &["", "true"],
    // Short options, alone and joined.
    &["-w"],
    &["-E"],
    &["-z"],
    &["-xz", "x"],
    &["-zh"],
    &["-?"],
    &["-:"],
    &["-W"],
    &["-c", "exit 3"],
    &["-cn", "x"],
    &["-xnu", "x", "true"],
    &["-nE3", "x", "true"],
    &["-E300", "x", "true"],
    &["-nw.5", "x", "true"],
    &["-nw.5x", "x", "true"],
    // Long options, whole and shortened.
    &["--s", "x", "true"],
    &["--ex", "x", "true"],
    &["--e"],
    &["--u", "x", "true"],
    &["--nb", "x", "true"],
    &["--nonb", "x", "true"],
    &["--wai=1", "x", "true"],
    &["--time", "1", "x", "true"],
    &["--con", "5", "x", "true"],
    &["--clos", "x", "true"],
    &["--verb", "x", "true"],
    &["--n", "x", "true"],
    &["--no", "x", "true"],
    &["--n=1", "x", "true"],
    &["--v", "x", "true"],
    &["--ver", "x", "true"],
    &["--c", "x", "true"],
    &["--co", "x", "true"],
    &["--="],
    &["--=x", "x", "true"],
    &["--foo"],
    &["--foo=1", "x"],
    &["--no-forkx"],
    &["--jo", "x"],
    &["--state", "x"],
    &["--time"],
    &["--t"],
    &["--w"],
    &["--nonblock=3", "x", "true"],
    &["--nb=1"],
    &["--help=1"],
    &["--verbose=1"],
    &["--sha="],
    &["--timeout=", "x", "true"],
    // Numbers: waits, exit codes, descriptors.
    &["-w", "abc", "x", "true"],
    &["-w", "", "x", "true"],
    &["-w", " 1", "x", "true"],
    &["-w", "1 ", "x", "true"],
    &["-w", "1x", "x", "true"],
    &["-w", "1e", "x", "true"],
    &["-w", "1e3", "x", "true"],
    &["-w", "0x1p1", "x", "true"],
    &["-w", "0x", "x", "true"],
    &["-w", ".", "x", "true"],
    &["-w", "1.", "x", "true"],
    &["-w", "1.5.2", "x", "true"],
    &["-w", "1,5", "x", "true"],
    &["-w", "+1", "x", "true"],
    &["-w", "-0", "x", "true"],
    &["-w", "-1", "x", "true"],
    &["-w", "-0.5", "x", "true"],
    &["-w", "inf", "x", "true"],
    &["-w", "nan", "x", "true"],
    &["-w", "1e999", "x", "true"],
    &["-w", "1e-400", "x", "true"],
    &["-w", "99999999999", "x", "true"],
    &["-w", "9.3e18", "x", "true"],
    &["-w", "-w", "x", "true"],
    &["-w", "-1", "/nosuch/x", "true"],
    &["-w", "-1", "9"],
    &["-E", "256", "x", "true"],
    &["-E", "-1", "x", "true"],
    &["-E", "abc", "x", "true"],
    &["-E", "", "x", "true"],
    &["-E", " +5", "x", "true"],
    &["-E", "0x10", "x", "true"],
    &["-E", "2147483648", "x", "true"],
    &["-E", "-2147483649", "x", "true"],
    &["-E", "99999999999999999999999", "x", "true"],
    &["9"],
    &["0"],
    &["-u", "1"],
    &["-s", "1"],
    &["-F", "1"],
    &["-o", "1"],
    &["--verbose", "1"],
    &["--", "-5"],
    &["-5"],
    &["abc"],
    &["0x9"],
    &[" 9"],
    &["9 "],
    &[""],
    &["07"],
    &["+1"],
    &["2147483648"],
    &["99999999999"],
    &["9", "true"],
    // Options that exclude each other, and which complaint comes first.
    &["-Fo", "x", "true"],
    &["--close", "--no-fork", "9"],
    &["-Fo", "/nosuch/x", "true"],
    &["-Fo", "-w", "-1", "x", "true"],
    &["-Fo", "-E", "300", "x", "true"],
    &["-oFz", "x", "true"],
    // What cannot be opened.
    &["/nosuch/x", "true"],
    &["noexec/x", "true"],
    &["/proc/nosuch", "true"],
    &["loop", "true"],
    &["d", "true"],
    &["-s", "d", "true"],
    &[".", "true"],
    &["/dev/null", "true"],
    // The command.
    &["x", "true"],
    &["-s", "x", "true"],
    &["-u", "x", "true"],
    &["x", "nosuch"],
    &["x", ""],
    &["x", "", "a"],
    &["x", "./nosuch/y"],
    &["x", "./noexec"],
    &["x", "./d"],
    &["x", "./bad"],
    &["x", "./plain", "a", "b c"],
    &["x", "plain"],
    &["-F", "x", "nosuch"],
    &["-F", "x", "./noexec"],
    &["-F", "x", "./plain", "a"],
    &["x", "sh", "-c", "exit 255"],
    &["x", "sh", "-c", "kill -9 $$"],
    &["x", "sh", "-c", "kill -TERM $$"],
    &["-F", "x", "sh", "-c", "kill -TERM $$"],
    &["-F", "x", "sh", "-c", "exit 3"],
    &["x", "-c", "exit 5"],
    &["x", "--command", "exit 6"],
    &["x", "--comm", "exit 6"],
    &["x", "-c"],
    &["x", "-c", "a", "b"],
    &["x", "-c", ""],
    &["x", "-c", "echo $0"],
    &["--verbose", "x", "true"],
    &["--verbose", "-n", "x", "true"],
    &["--verbose", "-w", "1", "x", "true"],
    &["--verbose", "x", "nosuch"],
    &["--verbose", "x", "-c", "echo hi"],
    // What the command finds: descriptors, signals, limits.
    &["x", "ls", "/proc/self/fd"],
    &["-o", "x", "ls", "/proc/self/fd"],
    &["-F", "x", "ls", "/proc/self/fd"],
    &["x", "readlink", "/proc/self/fd/0"],
    &["x", "grep", "Sig[BIC]", "/proc/self/status"],
    &["-F", "x", "grep", "Sig[BIC]", "/proc/self/status"],
    &["x", "env"],
    &["x", "sh", "-c", "ulimit -a; umask"],
];

#[test]
fn it_says_and_does_what_flock_does() {
    if !the_original_is_here("it_says_and_does_what_flock_does") {
        return;
    }
    let differ: Vec<_> = SAME
        .iter()
        .filter_map(|words| {
            let (original, ours) = (trial("flock", words, 0o022), trial(TRIPLOCK, words, 0o022));
            (original != ours).then(|| format!("flock {words:?}\n the original: {original:?}\n ours:         {ours:?}"))
        })
        .collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn the_lock_files_mode_is_as_the_umask_says() {
    if the_original_is_here("the_lock_files_mode_is_as_the_umask_says") {
        for umask in [0, 0o027, 0o077] {
            assert_eq!(trial("flock", &["x", "true"], umask), trial(TRIPLOCK, &["x", "true"], umask));
        }
    }
}

/// The same where there is nothing to compare with.
#[test]
fn its_messages_and_exit_codes() {
    const HINT: &str = "Try 'flock --help' for more information.\n";
    for (words, code, message) in [
        (&[][..], 64, format!("flock: not enough arguments\n{HINT}")),
        (&["-n"], 64, "flock: requires file descriptor, file or directory\n".to_owned()),
        (&["-z", "x"], 64, format!("flock: invalid option -- 'z'\n{HINT}")),
        (&["-w"], 64, format!("flock: option requires an argument -- 'w'\n{HINT}")),
        (
            &["--n", "x"],
            64,
            format!("flock: option '--n' is ambiguous; possibilities: '--nonblocking' '--no-fork'\n{HINT}"),
        ),
        (&["-w", "1x", "x", "true"], 64, "flock: invalid timeout value: '1x'\n".to_owned()),
        (&["-w", "-1", "x", "true"], 71, "flock: cannot set up timer: Invalid argument\n".to_owned()),
        (&["-E", "256", "x", "true"], 64, "flock: exit code out of range (expected 0 to 255)\n".to_owned()),
        (&["9"], 65, "flock: 9: Bad file descriptor\n".to_owned()),
        (&["x", "nosuch"], 69, "flock: failed to execute nosuch: No such file or directory\n".to_owned()),
        (&["/nosuch/x", "true"], 66, "flock: cannot open lock file /nosuch/x: No such file or directory\n".to_owned()),
        (&["x", "sh", "-c", "exit 200"], 200, String::new()),
        (&["x", "sh", "-c", "kill -9 $$"], 137, String::new()),
    ] {
        let trial = trial(TRIPLOCK, words, 0o022);
        assert_eq!((trial.code, trial.signal), (Some(code), None), "{words:?}: {trial:?}");
        assert_eq!(trial.stderr, message, "{words:?}");
    }
}

#[test]
fn options_are_called_by_the_whole_name_and_the_rest_by_its_end() {
    let named = |name: &str, word: &str| {
        let output = Command::new(TRIPLOCK).arg0(name).arg(word).stdin(Stdio::null()).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let hint = "Try 'flock --help' for more information.\n";
    assert_eq!(named("/opt/bin/flock", "-z"), format!("/opt/bin/flock: invalid option -- 'z'\n{hint}"));
    assert_eq!(named("/opt/bin/flock", "x"), "flock: bad file descriptor: 'x'\n");
    let output = Command::new(TRIPLOCK).args(["flock", "x"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "triplock flock: bad file descriptor: 'x'\n");
    // A name that only ends so is not that name.
    let output = Command::new(TRIPLOCK).arg0("myflock").arg("--version").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("triplock "));
}

#[test]
fn output_that_cannot_be_written_is_told() {
    for program in both("output_that_cannot_be_written_is_told") {
        for words in [&["--version"][..], &["--help"], &["--verbose", "/dev/null", "true"]] {
            let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
            let output = Command::new(program).arg0("flock").args(words).stdout(full).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), &*stderr), (Some(1), "flock: write error: No space left on device\n"));
        }
    }
}

#[test]
fn help_is_one_text_wherever_it_is_asked_for() {
    let text = |words: &[&str]| {
        let output = Command::new(TRIPLOCK).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let help = text(&["flock", "--help"]);
    assert!(
        help.starts_with("Usage:\n triplock flock [options] <file>|<directory> <command> [<argument>...]\n"),
        "{help}"
    );
    assert_eq!(text(&["help", "flock"]).trim_end(), help.trim_end());
    assert!(text(&["--help"]).contains("\n  flock "), "it is among triplock's commands");
    let named = Command::new(TRIPLOCK).arg0("flock").arg("-h").output().unwrap();
    assert_eq!(String::from_utf8(named.stdout).unwrap(), help.replace("triplock flock", "flock"));
}

/// What came of a command line.
#[derive(Debug, PartialEq, Eq)]
struct Trial {
    code: Option<i32>,
    signal: Option<i32>,
    /// In order: the original's own lines come last when they do not go to a terminal.
    stdout: Vec<String>,
    stderr: String,
    files: Vec<(String, u32)>,
}

/// Calls the program `flock`, in a directory that was made for it.
fn trial(program: &str, words: &[&str], umask: u32) -> Trial {
    let dir = tempfile::Builder::new().prefix("triplock-test-").tempdir().unwrap();
    let file = |name: &str, text: &str, mode| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir(dir.path().join("d")).unwrap();
    std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
    file("bad", "#!/nosuch/interpreter\n", 0o755);
    file("plain", "echo plain \"$0\" \"$@\"\n", 0o755);
    file("noexec", "text\n", 0o644);
    let script = format!("umask {umask:o}; exec -a flock \"$0\" \"$@\"");
    let mut command = Command::new("bash");
    command.arg("-c").arg(script).arg(program).args(words).current_dir(dir.path()).stdin(Stdio::null());
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("SHELL", "/bin/sh").env("HOME", dir.path());
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let mut stdout: Vec<_> = stdout.lines().map(without_figures).collect();
    stdout.sort();
    let mut files: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().to_string_lossy().into_owned(), entry.metadata().unwrap().permissions().mode())
        })
        .collect();
    files.sort();
    Trial {
        code: output.status.code(),
        signal: output.status.signal(),
        stdout: stdout.into_iter().map(|line| line.replace(&*dir.path().to_string_lossy(), "HERE")).collect(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        files,
    }
}

/// How long something took differs from run to run.
fn without_figures(line: &str) -> String {
    match line.split_once("took ") {
        Some((before, after)) => {
            let figures: String = after.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            format!("{before}took {figures}")
        }
        None => line.to_owned(),
    }
}

/// Whether util-linux's flock of the version that is followed is here; if not, the test is skipped out loud.
#[track_caller]
pub(crate) fn the_original_is_here(test: &str) -> bool {
    if !machine::has(test, &["flock", "bash"]) {
        return false;
    }
    let version = Command::new("flock").arg("--version").output().expect("flock is installed");
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    if version.contains("util-linux 2.38") {
        return true;
    }
    machine::skip(test, &format!("needs the flock of util-linux 2.38 to compare with; this is {version}"));
    false
}

/// Ours, and the original where it is: what a test says of one must be true of the other.
#[track_caller]
pub(crate) fn both(test: &str) -> Vec<&'static Path> {
    let original = the_original_is_here(test).then_some(Path::new("flock"));
    original.into_iter().chain([Path::new(TRIPLOCK)]).collect()
}
