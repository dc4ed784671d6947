//! `update FILE -- FILTER`: a file that many processes change, one at a time and each as a whole.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{CWD, Mode, XattrFlags},
    process::Signal,
};
use serde_json::Value;

use crate::{
    machine,
    mount::SmallDisk,
    sandbox::{Invocation, Sandbox, eventually},
};

/// A sandbox with a file to update, alone in its directory.
struct Place {
    sandbox: Sandbox,
    file: PathBuf,
}

impl Place {
    fn new(content: &[u8]) -> Self {
        Self::of(Sandbox::new(), content)
    }

    fn of(sandbox: Sandbox, content: &[u8]) -> Self {
        let file = sandbox.path("files/file");
        fs::create_dir(sandbox.path("files")).unwrap();
        fs::write(&file, content).unwrap();
        Self { sandbox, file }
    }

    fn update(&self, options: &[&str], filter: &str) -> Invocation {
        let update = self.sandbox.triplock(["update"]).arg(&self.file);
        let update = options.iter().fold(update, Invocation::arg);
        update.arg("--").arg("sh").arg("-c").arg(filter)
    }

    #[track_caller]
    fn holds(&self, content: &[u8]) {
        let found = fs::read(&self.file).unwrap();
        assert!(found == content, "expected {:?}, found {:?}", shown(content), shown(&found));
    }

    /// The file is alone in its directory.
    #[track_caller]
    fn has_no_litter(&self) {
        assert_eq!(names(self.file.parent().unwrap()), ["file"]);
    }

    #[track_caller]
    fn is_untouched_when(&self, options: &[&str], filter: &str, code: i32) {
        let before = (fs::read(&self.file).unwrap(), fs::metadata(&self.file).unwrap().ino());
        self.update(options, filter).run().exits(code);
        assert!(before == (fs::read(&self.file).unwrap(), fs::metadata(&self.file).unwrap().ino()), "it was touched");
        self.has_no_litter();
    }

    /// Waits until the filter has said that it runs.
    #[track_caller]
    fn eventually_exists(&self, name: &str) {
        eventually("the filter runs", || self.sandbox.path(name).exists());
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

fn message(error: &Value) -> &str {
    error["message"].as_str().unwrap_or_default()
}

#[test]
fn a_counter_by_200_processes_ends_at_200() {
    let place = Place::new(b"0\n");
    let updates: Vec<_> = (0..200).map(|_| place.update(&[], "read n; echo $((n + 1))").start()).collect();
    for update in updates {
        update.finish().exits(0);
    }
    place.holds(b"200\n");
    place.has_no_litter();
    let locks = names(&place.sandbox.state_dir().join("files"));
    assert!(locks.len() == 1 && Path::new(&locks[0]).extension().is_some_and(|suffix| suffix == "lock"), "{locks:?}");
}

#[test]
fn killed_at_any_moment_it_leaves_the_old_or_the_new() {
    const LINES: usize = 2000;
    let page = |version: u32| format!("version {version}\n").repeat(LINES).into_bytes();
    let place = Place::new(&page(0));
    let next = "exec 2>/dev/null; while read word n; do echo version $((n + 1)); done";
    let mut version = 0;
    let mut replaced = 0;
    for round in 0..60 {
        let update = place.update(&[], next).start();
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..40_000)));
        update.kill();
        update.finish();
        // Whole, whatever moment it was; an orphaned filter changes nothing any more.
        let found = fs::read(&place.file).unwrap();
        if found != page(version) {
            version += 1;
            replaced += 1;
            assert!(found == page(version), "round {round}: neither the old nor the new: {}", shown(&found));
        }
    }
    place.update(&[], next).run().exits(0);
    place.holds(&page(version + 1));
    place.has_no_litter();
    assert!(replaced < 60, "none was killed in time");
}

#[test]
fn only_a_filter_that_succeeds_changes_the_file() {
    let place = Place::new(b"old");
    place.is_untouched_when(&[], "echo new; exit 3", 3);
    place.is_untouched_when(&[], "echo new; kill -SEGV $$", 128 + 11);
    place.is_untouched_when(&[], "echo new; kill -KILL $$", 128 + 9);
    let no_such = place.sandbox.triplock(["update"]).arg(&place.file).arg("--").arg("no-such-filter").fails(127);
    assert_eq!(no_such["error"], "no_such_command");
    place.sandbox.triplock(["update"]).arg(&place.file).arg("--").arg(&place.file).fails(126);
    place.holds(b"old");
    place.has_no_litter();
    place.sandbox.triplock(["update"]).arg(&place.file).fails(125);
}

#[test]
fn whatever_the_filter_prints_is_the_content() {
    let place = Place::new(b"old");
    for (filter, content) in [
        ("cat; printf ' no newline'", &b"old no newline"[..]),
        ("cat >/dev/null", b""),
        ("cat; printf 'a\\000b\\377'", b"a\0b\xff"),
        // It does not read, or closes its input at once.
        ("exec <&-; echo closed", b"closed\n"),
        ("echo unread", b"unread\n"),
        // Reading and writing in any order wedges nobody.
        ("head -c 100000000 /dev/zero; cat", &[&vec![0; 100_000_000][..], b"unread\n"].concat()),
        ("tail -c 7", b"unread\n"),
    ] {
        place.update(&[], filter).run().exits(0);
        place.holds(content);
    }
    place.has_no_litter();
}

#[test]
fn the_filter_knows_its_lock_and_sees_what_the_shell_shows() {
    let place = Place::new(b"old");
    let run =
        place.update(&[], "echo $TRIPLOCK_FENCE $TRIPLOCK_LOCK_FILE $TRIPLOCK_STATE_DIR $TRIPLOCK_HELD; echo seen >&2");
    let run = run.run();
    assert_eq!(run.exits(0).stderr, "seen\n");
    let text = fs::read_to_string(&place.file).unwrap();
    let words: Vec<_> = text.split_whitespace().collect();
    let lock = &names(&place.sandbox.state_dir().join("files"))[0];
    let state = place.sandbox.state_dir().display().to_string();
    let entry = format!("files/{}:1", lock.strip_suffix(".lock").unwrap());
    assert_eq!(words, ["1", &format!("{state}/files/{lock}"), &state, &entry]);
}

#[test]
fn mode_owner_and_attributes_are_kept() {
    let place = Place::new(b"old");
    for mode in [0o640, 0o444, 0o7755, 0o600] {
        fs::set_permissions(&place.file, fs::Permissions::from_mode(mode)).unwrap();
        place.update(&[], "cat; echo more").run().exits(0);
        assert_eq!(fs::metadata(&place.file).unwrap().permissions().mode() & 0o7777, mode);
    }
    match rustix::fs::setxattr(&place.file, "user.note", b"kept", XattrFlags::empty()) {
        Ok(()) => {
            place.update(&[], "cat; echo more").run().exits(0);
            let mut value = [0; 16];
            let length = rustix::fs::getxattr(&place.file, "user.note", &mut value).unwrap();
            assert_eq!(&value[..length], b"kept");
        }
        Err(e) => machine::skip("update::mode_owner_and_attributes_are_kept", &format!("no attributes here: {e}")),
    }
}

#[test]
fn a_file_of_somebody_else_keeps_its_owner_or_stays() {
    let test = "update::a_file_of_somebody_else_keeps_its_owner_or_stays";
    if !machine::is_root() {
        return machine::skip(test, "needs root, to be several users");
    }
    if !machine::has(test, &["setpriv"]) {
        return;
    }
    let place = Place::of(Sandbox::new().for_all_users(), b"old");
    std::os::unix::fs::chown(&place.file, Some(4001), Some(4002)).unwrap();
    fs::set_permissions(&place.file, fs::Permissions::from_mode(0o4666)).unwrap();
    place.update(&[], "echo new").run().exits(0);
    let now = fs::metadata(&place.file).unwrap();
    assert_eq!((now.uid(), now.gid(), now.mode() & 0o7777), (4001, 4002, 0o4666));

    let state = place.sandbox.path("theirs");
    let theirs = Place { sandbox: place.sandbox.with_state(&state), file: place.file };
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(4003), Some(4003)).unwrap();
    fs::set_permissions(theirs.file.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
    let other = ["setpriv", "--reuid=4003", "--regid=4003", "--clear-groups", "--"];
    let refused = theirs.update(&[], "echo newer").under(other).fails(125);
    assert!(message(&refused).contains("belongs to user 4001 and group 4002"), "{refused}");
    theirs.holds(b"new\n");
    theirs.has_no_litter();

    fs::set_permissions(theirs.file.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let refused = theirs.update(&[], "echo newer").under(other).fails(125);
    assert!(message(&refused).contains("cannot create"), "a directory that it may not write to: {refused}");
    theirs.holds(b"new\n");
}

#[test]
fn what_is_no_regular_file_with_one_name_is_refused() {
    let place = Place::new(b"old");
    let path = |name: &str| place.sandbox.path(name);
    std::os::unix::fs::symlink(&place.file, path("symlink")).unwrap();
    fs::create_dir(path("directory")).unwrap();
    rustix::fs::mknodat(CWD, path("fifo"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    fs::write(path("named"), b"old").unwrap();
    fs::hard_link(path("named"), path("again")).unwrap();
    for (file, why) in [
        ("symlink", "is a symbolic link"),
        ("directory", "is a directory"),
        ("fifo", "is a fifo"),
        ("named", "has 2 names"),
        ("missing", "insist with --create"),
        ("no-such-directory/file", "no-such-directory"),
        ("directory/", "names no file"),
        ("directory/..", "names no file"),
    ] {
        for create in [false, true] {
            if create && file == "missing" {
                continue;
            }
            let refused = place.sandbox.triplock(["update"]).arg(path(file));
            let refused = if create { refused.arg("--create") } else { refused };
            let refused = refused.arg("--").arg("sh").arg("-c").arg("echo ran >&2").fails(125);
            assert!(message(&refused).contains(why), "{file}: {refused}");
        }
    }
    for file in ["/dev/null", "/"] {
        place.sandbox.triplock(["update", file, "--", "cat"]).fails(125);
    }
    assert!(rustix::fs::lstat(path("symlink")).is_ok_and(|stat| stat.st_mode & 0o170_000 == 0o120_000));
    place.holds(b"old");
    place.has_no_litter();
}

#[test]
fn a_missing_file_is_made_when_that_is_wanted() {
    let place = Place::new(b"old");
    fs::remove_file(&place.file).unwrap();
    let umask = |mask: &str| ["sh".to_owned(), "-c".to_owned(), format!("umask {mask}; exec \"$0\" \"$@\"")];
    place.update(&["--create"], "cat; exit 4").run().exits(4);
    assert!(names(place.file.parent().unwrap()).is_empty());
    place.update(&["--create"], "cat; umask").under(umask("027")).run().exits(0);
    place.holds(b"0027\n");
    assert_eq!(fs::metadata(&place.file).unwrap().permissions().mode() & 0o7777, 0o640);
    place.update(&["--create"], "cat; echo more").run().exits(0);
    place.holds(b"0027\nmore\n");
    place.has_no_litter();
    // Somebody else makes it meanwhile.
    fs::remove_file(&place.file).unwrap();
    let script = format!("echo theirs > {}; echo ours", place.file.display());
    place.update(&["--create"], &script).fails(125);
    place.holds(b"theirs\n");
    place.has_no_litter();
}

#[test]
fn a_file_that_changed_meanwhile_is_not_overwritten() {
    let place = Place::new(b"old\n");
    let file = place.file.display();
    for (edit, now) in [
        (format!("echo theirs >> {file}"), &b"old\ntheirs\n"[..]),
        (format!("echo other > {file}.new; mv {file}.new {file}"), b"other\n"),
        (format!("touch -d 2001-01-01 {file}"), b"other\n"),
    ] {
        let refused = place.update(&[], &format!("cat; {edit}; echo ours")).fails(125);
        assert!(message(&refused).contains("was changed by somebody"), "{refused}");
        place.holds(now);
        place.has_no_litter();
    }
    place.update(&[], &format!("cat; rm {file}")).fails(125);
    assert!(names(place.file.parent().unwrap()).is_empty());
}

#[test]
fn a_leftover_process_that_still_writes_is_noticed() {
    let place = Place::new(b"old\n");
    // A moment is fine.
    place.update(&[], "(sleep 0.2; echo late) & echo early").run().exits(0);
    place.holds(b"early\nlate\n");
    let pid = place.sandbox.path("pid");
    let refused =
        place.update(&[], &format!("sleep 60 2>/dev/null & echo $! > {}; echo new", pid.display())).fails(125);
    assert!(message(&refused).contains("still has its output open"), "{refused}");
    place.holds(b"early\nlate\n");
    place.has_no_litter();
    let pid = fs::read_to_string(pid).unwrap().trim().parse().ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_full_disk_loses_nothing() {
    let test = "update::a_full_disk_loses_nothing";
    if !machine::may_mount(test) {
        return;
    }
    let disk = SmallDisk::new("size=1m,nr_inodes=8");
    let sandbox = Sandbox::new();
    let content = vec![b'x'; 100_000];
    let file = disk.point().join("file");
    fs::write(&file, &content).unwrap();
    let place = Place { sandbox, file };
    disk.fill();
    let failed = place.update(&[], "cat").run();
    assert!(failed.code() != Some(0), "cat cannot have written");
    place.holds(&content);
    assert_eq!(names(disk.point()), ["file", "filler"]);
    disk.free();
    // No inode for the new file.
    let mut fillers = 0;
    while File::create(disk.point().join(format!("filler{fillers}"))).is_ok() {
        fillers += 1;
    }
    assert_eq!(place.update(&[], "cat").fails(125)["error"], "cannot_create");
    place.holds(&content);
}

#[test]
fn an_update_within_its_own_filter_is_refused() {
    let place = Place::new(b"old\n");
    let link = place.sandbox.path("link");
    std::os::unix::fs::symlink(place.file.parent().unwrap(), &link).unwrap();
    let again = |file: &Path| {
        let state = place.sandbox.state_dir().display().to_string();
        format!("{} --state-dir {state} update {} -- cat", env!("CARGO_BIN_EXE_triplock"), file.display())
    };
    for file in [place.file.clone(), link.join("file")] {
        let nested = place.update(&[], &again(&file)).run();
        assert!(nested.exits(125).stderr.contains("would never end"), "{}", nested.stderr);
        place.holds(b"old\n");
    }
    // Another file is another lock.
    let other = place.sandbox.path("other");
    fs::write(&other, b"other\n").unwrap();
    place.update(&[], &format!("{}; cat", again(&other))).run().exits(0);
    // A daemon that merely inherited the variable waits as everybody does.
    let held = place.sandbox.path("held");
    place.update(&[], &format!("echo $TRIPLOCK_HELD > {}; cat", held.display())).run().exits(0);
    let held = fs::read_to_string(held).unwrap();
    let running = place.update(&[], &format!("touch {}; sleep 0.5; cat", place.sandbox.path("runs").display())).start();
    place.eventually_exists("runs");
    let environment = [
        "env".to_owned(),
        format!("TRIPLOCK_HELD={}", held.trim()),
        format!("TRIPLOCK_STATE_DIR={}", place.sandbox.state_dir().display()),
    ];
    place.update(&[], "cat; echo daemon").under(environment).run().exits(0);
    running.finish().exits(0);
    place.holds(b"old\ndaemon\n");
}

#[test]
fn a_file_that_is_being_updated_is_busy() {
    let place = Place::new(b"old\n");
    let (runs, go) = (place.sandbox.path("runs"), place.sandbox.path("go"));
    let script = format!(
        "touch {}; while ! [ -e {} ] && [ $((i += 1)) -lt 6000 ]; do sleep 0.01; done; cat; echo first",
        runs.display(),
        go.display()
    );
    let first = place.update(&[], &script).start();
    place.eventually_exists("runs");
    let busy = place.update(&["-n"], "echo second").fails(75);
    assert_eq!((busy["error"].as_str(), busy["holder"]["fence"].as_u64()), (Some("busy"), Some(1)), "{busy}");
    place.update(&["-n", "-E", "9"], "echo second").fails(9);
    let waited = place.update(&["-w", "0.2", "--conflict-exit-code", "0"], "echo second").run();
    assert!(waited.exits(0).took >= Duration::from_millis(200));
    place.holds(b"old\n");
    let waiting = place.update(&["-w", "60"], "cat; echo second").start();
    fs::write(&go, "").unwrap();
    first.finish().exits(0);
    waiting.finish().exits(0);
    place.holds(b"old\nfirst\nsecond\n");
    for (option, value) in [("-w", "x"), ("-E", "256"), ("--time-limit", "0"), ("--time-limit", "-1")] {
        place.update(&[option, value], "cat").fails(125);
    }
    place.update(&["-n", "-w", "1"], "cat").fails(125);
}

#[test]
fn the_lock_lives_as_long_as_an_orphaned_filter() {
    let place = Place::new(b"old\n");
    let (runs, go) = (place.sandbox.path("runs"), place.sandbox.path("go"));
    let script = format!(
        "exec 2>/dev/null; touch {}; while ! [ -e {} ] && [ $((i += 1)) -lt 6000 ]; do sleep 0.01; done; echo orphan",
        runs.display(),
        go.display()
    );
    let first = place.update(&[], &script).start();
    place.eventually_exists("runs");
    first.kill();
    first.finish();
    place.update(&["-n"], "echo second").fails(75);
    fs::write(&go, "").unwrap();
    place.update(&[], "cat; echo second").run().exits(0);
    place.holds(b"old\nsecond\n");
    place.has_no_litter();
}

#[test]
fn limits_and_signals_end_the_filter_and_change_nothing() {
    let place = Place::new(b"old\n");
    place.is_untouched_when(&["--time-limit", "0.1"], "echo new; sleep 60", 124);
    // Whatever it answers then.
    place.is_untouched_when(&["--time-limit", "0.1"], "trap 'exit 0' TERM; echo new; sleep 60 & wait", 124);
    place.is_untouched_when(&["--time-limit", "0.1", "-k", "0.1"], "trap '' TERM; echo new; sleep 60", 137);
    for (signal, filter, code) in [
        (Signal::TERM, "sleep 60", 143),
        (Signal::INT, "sleep 60", 130),
        (Signal::HUP, "sleep 60", 129),
        (Signal::TERM, "trap 'echo partial; exit 0' TERM; sleep 60 & wait", 143),
    ] {
        let runs = place.sandbox.path("runs");
        let update = place.update(&[], &format!("touch {}; echo new; {filter}", runs.display())).start();
        place.eventually_exists("runs");
        fs::remove_file(&runs).unwrap();
        // The trap is set a moment later.
        std::thread::sleep(Duration::from_millis(100));
        update.signal(signal);
        update.finish().exits(code);
        place.holds(b"old\n");
        place.has_no_litter();
    }
}

#[test]
fn names_of_any_length_and_bytes() {
    let place = Place::new(b"old\n");
    let directory = place.sandbox.path("odd");
    fs::create_dir(&directory).unwrap();
    let bytes: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\n '\"");
    for name in [bytes, "x".repeat(255).as_ref(), "-n".as_ref(), "...".as_ref()] {
        let file = directory.join(name);
        fs::write(&file, b"old").unwrap();
        place.sandbox.triplock(["update"]).arg(&file).arg("--").arg("tr").arg("o").arg("0").run().exits(0);
        assert_eq!(fs::read(&file).unwrap(), b"0ld");
        fs::remove_file(&file).unwrap();
    }
    assert!(names(&directory).is_empty());
}
