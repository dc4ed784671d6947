//! Damage, planted files, full disks and bad input: each has its exit code and one line that says what to do, and
//! nothing is lost.

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt as _, symlink},
    },
    path::Path,
    process::Command,
};

use rustix::fs::{FileType, Mode};
use serde_json::Value;

use crate::{
    ledger::{self, Ledger, State},
    machine,
    mount::SmallDisk,
    sandbox::{Answer, Invocation, Sandbox, TRIPLOCK},
};

/// A trip with three bookings, and their answers.
fn three_bookings() -> (Sandbox, Vec<Answer>) {
    let sandbox = Sandbox::new().trip("1", 100);
    let answers = ["1", "2", "3"].map(|student| sandbox.book("1", student).request(student).succeeds());
    (sandbox, answers.into())
}

/// The next commands just work and everything answered is there.
#[track_caller]
fn recovers(sandbox: &Sandbox, mut answers: Vec<Answer>) -> Ledger {
    answers.push(sandbox.book("1", "next").succeeds());
    for answer in &answers[..3] {
        let id = answer.request_id.as_deref().expect("the first three have ids");
        answer.is_replayed_by(&sandbox.book("1", id).request(id).succeeds());
    }
    sandbox.book("1", "1").refused(4);
    answers.push(sandbox.cancel("1", "2").succeeds());
    sandbox.has_no_litter();
    let ledger = ledger::judge(sandbox.state_dir(), "1");
    ledger.holds(&answers);
    assert_eq!(ledger.bookings.keys().map(String::as_str).collect::<Vec<_>>(), ["1", "3", "next"]);
    ledger
}

/// It fails with that code, and no file changes.
#[track_caller]
fn is_left_alone(sandbox: &Sandbox, invocation: Invocation, code: i32) -> Value {
    // Who asked last stands in the lock file: that note is no state.
    let state = |sandbox: &Sandbox| {
        let mut files = sandbox.contents();
        files.retain(|(name, _)| name != "1.lock" && name != "2.lock");
        files
    };
    let before = state(sandbox);
    let error = invocation.fails(code);
    let after = state(sandbox);
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after), "files came or went: {error}");
    for ((name, was), (_, is)) in before.iter().zip(&after) {
        assert!(was == is, "{name} was changed: {error}");
    }
    error
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_torn_tail_is_healed() {
    let tails: [&[u8]; 5] = [
        b"{\"revision\":5,\"event\":\"booked\",\"stud",
        &[0; 170],
        &[0; 9000],
        b"{\"revision\":5,\"event\":\"booked\",\"student\":\"x\"}\n",
        b"\n",
    ];
    for tail in tails {
        let (sandbox, answers) = three_bookings();
        edit(&sandbox.trips("1.jsonl"), |bytes| bytes.extend_from_slice(tail));
        let ledger = recovers(&sandbox, answers);
        assert!(ledger.generation > 1, "a bad tail is copied away, never cut");
    }
}

#[test]
fn a_batch_without_its_last_line_is_a_torn_tail() {
    let (sandbox, answers) = three_bookings();
    let before = fs::read(sandbox.trips("1.jsonl")).unwrap();
    let state = fs::read(sandbox.trips("1.json")).unwrap();
    let batch = "{\"student\":\"a\"}\n{\"student\":\"b\"}\n";
    sandbox.triplock(["book", "1", "--batch", "-"]).stdin(batch).run().exits(0);
    let ledger = fs::read(sandbox.trips("1.jsonl")).unwrap();
    // As if the power had gone after the first lines of the batch.
    let lines = ledger[before.len()..].split_inclusive(|b| *b == b'\n').count();
    if lines > 1 {
        let last = ledger[..ledger.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        fs::write(sandbox.trips("1.jsonl"), &ledger[..last]).unwrap();
        fs::write(sandbox.trips("1.json"), state).unwrap();
        recovers(&sandbox, answers);
    }
}

#[test]
fn a_missing_empty_or_stale_state_or_index_is_made_anew() {
    for file in ["1.json", "1.idx"] {
        for damage in ["missing", "empty", "nul", "garbled", "half"] {
            let (sandbox, answers) = three_bookings();
            let path = sandbox.trips(file);
            let bytes = fs::read(&path).unwrap_or_default();
            match damage {
                "missing" => drop(fs::remove_file(&path)),
                "empty" => fs::write(&path, []).unwrap(),
                "nul" => fs::write(&path, vec![0; bytes.len()]).unwrap(),
                "garbled" => fs::write(&path, bytes.iter().map(|b| b ^ 0x15).collect::<Vec<_>>()).unwrap(),
                _ => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
            }
            sandbox.show("1").shows_seats_left(97);
            recovers(&sandbox, answers);
        }
    }
}

#[test]
fn a_stale_state_is_brought_up_to_date() {
    let sandbox = Sandbox::new().trip("1", 100);
    let mut answers = vec![sandbox.book("1", "1").request("1").succeeds()];
    let stale = fs::read(sandbox.trips("1.json")).unwrap();
    answers.extend(["2", "3"].map(|student| sandbox.book("1", student).request(student).succeeds()));
    fs::write(sandbox.trips("1.json"), stale).unwrap();
    recovers(&sandbox, answers);
}

#[test]
fn leftover_temporary_files_do_no_harm() {
    let (sandbox, answers) = three_bookings();
    for suffix in ["new", "heal", "reindex"] {
        fs::write(sandbox.trips(&format!("1.{suffix}")), b"left behind").unwrap();
    }
    // A bad tail and no index, so that everything is made anew.
    edit(&sandbox.trips("1.jsonl"), |bytes| bytes.extend([0; 50]));
    fs::remove_file(sandbox.trips("1.reindex")).unwrap();
    recovers(&sandbox, answers);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    for file in ["1.json", "1.jsonl"] {
        let (sandbox, _) = three_bookings();
        edit(&sandbox.trips(file), |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            let newer = text.replacen("\"format\":1,", "\"format\":2,", 1);
            assert_ne!(text, newer, "{file} names its format");
            *bytes = seal_first_line(&newer).into_bytes();
        });
        let mut asks = vec![sandbox.book("1", "7"), sandbox.cancel("1", "1"), sandbox.add("1", 5)];
        if file == "1.json" {
            // A look reads the state alone.
            asks.push(sandbox.show("1"));
        }
        for ask in asks {
            let error = is_left_alone(&sandbox, ask, 78);
            assert!(error["message"].as_str().unwrap().contains(file), "{error}");
        }
    }
}

/// The text with the checksum of its first line made right again.
fn seal_first_line(text: &str) -> String {
    let (line, rest) = text.split_once('\n').expect("a line");
    let line = line.trim_end();
    let body = &line[..line.len() - 18];
    format!("{body},\"crc\":\"{:08x}\"}}\n{rest}", crc32fast::hash(body.as_bytes()))
}

#[test]
fn a_ledger_that_lost_durable_bytes_is_refused_and_left_alone() {
    type Damage = fn(&Sandbox, &mut Vec<u8>, usize);
    let damages: [(&str, Damage); 5] = [
        ("cut below durable", |_, bytes, line| bytes.truncate(line + 20)),
        ("cut at a line's end below durable", |_, bytes, line| bytes.truncate(line)),
        ("a byte changed", |_, bytes, line| bytes[line + 30] ^= 1),
        ("the last newline lost", |_, bytes, _| *bytes.last_mut().unwrap() = 0),
        ("a byte changed, and no state", |sandbox, bytes, line| {
            bytes[line + 30] ^= 1;
            fs::remove_file(sandbox.trips("1.json")).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let (sandbox, _) = three_bookings();
        // The second line: intact ones follow that saw it on disk.
        let line = usize::try_from(Ledger::read(sandbox.state_dir(), "1").end_of(1)).unwrap();
        edit(&sandbox.trips("1.jsonl"), |bytes| damage(&sandbox, bytes, line));
        let size = fs::metadata(sandbox.trips("1.jsonl")).unwrap().len();
        for ask in [sandbox.book("1", "7"), sandbox.cancel("1", "1"), sandbox.book("1", "1").request("1")] {
            let error = is_left_alone(&sandbox, ask, 65);
            let message = error["message"].as_str().unwrap();
            assert!(error["path"].as_str().unwrap().ends_with("1.jsonl"), "{what}: {error}");
            let offset = error["offset"].as_u64().unwrap_or_else(|| panic!("{what}: no offset: {error}"));
            assert!(offset <= size, "{what}: {error}");
            assert!(message.contains("1.jsonl") && message.contains(&format!("byte {offset}")), "{what}: {error}");
        }
    }
}

#[test]
fn planted_links_fifos_and_directories_are_refused() {
    for file in ["1.lock", "1.jsonl", "1.json", "1.sync"] {
        for plant in ["link", "dangling link", "fifo", "directory"] {
            let (sandbox, _) = three_bookings();
            let path = sandbox.trips(file);
            let elsewhere = sandbox.path("elsewhere");
            fs::rename(&path, &elsewhere).unwrap();
            let content = fs::read(&elsewhere).unwrap();
            match plant {
                "link" => symlink(&elsewhere, &path).unwrap(),
                "dangling link" => symlink(sandbox.path("nowhere"), &path).unwrap(),
                "fifo" => {
                    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
                }
                _ => fs::create_dir(&path).unwrap(),
            }
            // The syncing lock is asked for when the line is written already, and so nobody can say what will stand.
            let code = if file == "1.sync" { 74 } else { 65 };
            let error = sandbox.book("1", "7").fails(code);
            assert!(error["message"].as_str().unwrap().contains(file), "{plant}: {error}");
            assert_eq!(fs::read(&elsewhere).unwrap(), content, "the link was followed");
            assert!(!sandbox.path("nowhere").exists(), "the link was followed");
        }
    }
}

#[test]
fn a_state_directory_that_is_a_file_is_refused() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.state_dir(), b"a file").unwrap();
    sandbox.add("1", 1).fails(73);
    sandbox.book("1", "7").fails(73);
    let below = Sandbox::new();
    fs::write(below.path("file"), b"a file").unwrap();
    let state = below.path("file").join("state");
    below.with_state(state).add("1", 1).fails(73);
}

#[test]
fn a_world_writable_state_directory_is_refused() {
    let (sandbox, _) = three_bookings();
    fs::set_permissions(sandbox.state_dir(), fs::Permissions::from_mode(0o777)).unwrap();
    is_left_alone(&sandbox, sandbox.book("1", "7"), 77);
}

/// For root permission checks do not count, so the program runs as nobody, from a place that nobody may enter.
#[test]
fn a_foreign_or_unwritable_state_directory_is_refused() {
    let test = "foreign and unwritable state directories";
    if !machine::is_root() {
        let sandbox = Sandbox::new();
        fs::create_dir(sandbox.state_dir()).unwrap();
        fs::set_permissions(sandbox.state_dir(), fs::Permissions::from_mode(0o500)).unwrap();
        sandbox.add("1", 1).fails(77);
        machine::skip(test, "needs root, to make a foreign directory");
        return;
    }
    if !machine::has(test, &["setpriv", "chown"]) {
        return;
    }
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let (sandbox, _) = three_bookings();
    let binary = sandbox.path("triplock");
    fs::copy(TRIPLOCK, &binary).unwrap();
    for (path, mode) in [(sandbox.path("."), 0o755), (binary.clone(), 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let book = |state: &Path| {
        let mut command = Command::new(nobody[0]);
        command.args(&nobody[1..]).arg(&binary).arg("--json").arg("--state-dir").arg(state);
        let output = command.args(["trip", "add", "2", "--seats", "1"]).output().unwrap();
        let error: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        assert_eq!(output.status.code(), Some(77), "{output:?}");
        assert_eq!(error["exit_code"], 77);
    };
    // Root's, closed to everybody else; root's, open for reading; and one that would have to be made in root's.
    book(sandbox.state_dir());
    fs::set_permissions(sandbox.state_dir(), fs::Permissions::from_mode(0o755)).unwrap();
    book(sandbox.state_dir());
    book(&sandbox.path("missing"));
    // Its own, but unwritable.
    let own = sandbox.path("own");
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o500)).unwrap();
    assert!(Command::new("chown").arg("65534:65534").arg(&own).status().unwrap().success());
    book(&own);
    // Root does not trust nobody's directory either.
    Sandbox::new().with_state(own).add("1", 1).fails(77);
}

/// The disk is full, then it is not.
fn full_disk(options: &str, exhaust: impl Fn(&SmallDisk), relieve: impl Fn(&SmallDisk)) {
    let test = format!("a full disk ({options})");
    if !machine::may_mount(&test) {
        return;
    }
    let disk = SmallDisk::new(options);
    let sandbox = Sandbox::new().with_state(disk.point().join("state")).trip("1", 1000);
    let mut answers = vec![sandbox.book("1", "before").request("before").succeeds()];
    exhaust(&disk);
    let mut unanswered = Vec::new();
    for student in 0.. {
        let id = student.to_string();
        let finished = sandbox.book("1", &id).request(&id).run();
        match finished.code() {
            Some(0) => answers.push(finished.succeeds()),
            Some(code @ (71 | 73 | 74)) => {
                finished.fails(code);
                unanswered.push(id);
            }
            _ => finished.complain("expected an answer, or one line of error and 71, 73 or 74"),
        }
        assert!(student < 2000, "the disk does not get full");
        if unanswered.len() == 5 {
            break;
        }
    }
    Ledger::read(sandbox.state_dir(), "1").holds(&answers);
    sandbox.show("1").run().exits(0);
    relieve(&disk);
    answers.extend(unanswered.iter().map(|id| sandbox.book("1", id).request(id).succeeds()));
    sandbox.has_no_litter();
    let ledger = ledger::judge(sandbox.state_dir(), "1");
    ledger.holds(&answers);
    assert_eq!(ledger.bookings.len(), answers.len());
}

#[test]
fn a_full_disk_loses_nothing() {
    full_disk("size=64k", SmallDisk::fill, SmallDisk::free);
    full_disk("size=1m", SmallDisk::fill, SmallDisk::free);
}

#[test]
fn a_disk_without_inodes_loses_nothing() {
    let spare = |disk: &SmallDisk, n: usize| disk.point().join(format!("spare-{n}"));
    full_disk(
        "size=1m,nr_inodes=20",
        |disk| {
            let mut n = 0;
            while fs::File::create(spare(disk, n)).is_ok() {
                n += 1;
            }
            // The spare state file gives its inode back before a fresh one is made, so take that as well.
            let taken = disk.point().join("state/trips/1.new");
            if fs::remove_file(taken).is_ok() {
                fs::File::create(spare(disk, n)).unwrap();
            }
        },
        |disk| (0..20).for_each(|n| drop(fs::remove_file(spare(disk, n)))),
    );
}

#[test]
fn a_full_disk_at_the_first_booking_leaves_nothing_half_made() {
    if !machine::may_mount("a full disk at the first booking") {
        return;
    }
    for pages in 0..8 {
        let disk = SmallDisk::new("size=1m");
        let sandbox = Sandbox::new().with_state(disk.point().join("state"));
        // The last pages go one by one.
        disk.fill();
        let filler = fs::OpenOptions::new().write(true).open(disk.point().join("filler")).unwrap();
        filler.set_len(filler.metadata().unwrap().len() - pages * 4096).unwrap();
        drop(filler);
        let first = sandbox.add("1", 10).request("add").run();
        if !matches!(first.code(), Some(0 | 71 | 73 | 74)) {
            first.complain("expected an answer, 71, 73 or 74");
        }
        disk.free();
        assert_eq!(sandbox.add("1", 10).request("add").succeeds().outcome, "added");
        let answer = sandbox.book("1", "7").succeeds();
        sandbox.has_no_litter();
        ledger::judge(sandbox.state_dir(), "1").holds([&answer]);
    }
}

#[test]
fn a_booking_stands_though_nobody_can_read_the_answer() {
    let sandbox = Sandbox::new().trip("1", 2);
    let (reader, writer): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for (student, finished) in [
        ("7", sandbox.book("1", "7").request("7").stdout(writer).run()),
        ("8", sandbox.book("1", "8").request("8").stdout(full).run()),
    ] {
        if finished.code().is_none_or(|code| code == 101) || finished.stderr.contains("panicked") {
            finished.complain("expected an ordinary end");
        }
        assert!(sandbox.book("1", student).request(student).succeeds().replayed);
    }
    assert_eq!(ledger::judge(sandbox.state_dir(), "1").bookings.len(), 2);
}

#[test]
fn bad_names_are_refused_before_anything_is_made() {
    let sandbox = Sandbox::new();
    let long = "x".repeat(1000);
    for name in ["/", "a/b", "..", "../x", ".", "🚌", "", "a b", "x\ny", &long] {
        sandbox.triplock(["trip", "add", name, "--seats", "1"]).fails(64);
        sandbox.triplock(["book", name, "--student", "7"]).fails(64);
        sandbox.triplock(["book", "1", "--student", name]).fails(64);
        sandbox.triplock(["book", "1", "--student", "7", "--request-id", name]).fails(64);
    }
    assert!(!sandbox.state_dir().join("trips").exists(), "something was made: {:?}", sandbox.files());
}

#[test]
fn bad_numbers_of_seats_are_refused() {
    let sandbox = Sandbox::new().trip("1", 5);
    for seats in ["0", "-1", "18446744073709551616", "4294967296", "1.5", "", "x"] {
        for command in [&["trip", "add", "2"][..], &["book", "1", "--student", "7"], &["trip", "resize", "1"]] {
            let ask = sandbox.triplock(command).arg("--seats").arg(seats);
            is_left_alone(&sandbox, ask, 64);
        }
    }
    for wait in ["-1", "x", "1e9", "nan"] {
        is_left_alone(&sandbox, sandbox.book("1", "7").wait(wait), 64);
    }
    assert_eq!(State::read(sandbox.state_dir(), "1").revision, 1);
}

#[test]
fn a_batch_with_a_bad_third_line_books_nothing() {
    let (sandbox, _) = three_bookings();
    let bad_lines = [
        "{\"student\":\"c\"",
        "nonsense",
        "[]",
        "{}",
        "{\"student\":\"c\",\"seats\":0}",
        "{\"student\":\"c\",\"seats\":-1}",
        "{\"student\":\"c\",\"seats\":18446744073709551616}",
        "{\"student\":\"../c\"}",
        "{\"student\":\"a\\u0000b\"}",
        "{\"student\":\"c\",\"request_id\":\"\"}",
    ];
    for bad in bad_lines {
        let batch = format!("{{\"student\":\"a\"}}\n{{\"student\":\"b\",\"seats\":2}}\n{bad}\n{{\"student\":\"d\"}}\n");
        let file = sandbox.path("batch");
        fs::write(&file, &batch).unwrap();
        let from_file = sandbox.triplock(["book", "1", "--batch"]).arg(&file);
        let from_stdin = sandbox.triplock(["book", "1", "--batch", "-"]).stdin(batch);
        for ask in [from_file, from_stdin] {
            let error = is_left_alone(&sandbox, ask, 65);
            assert_eq!(error["line"], 3, "{bad}: {error}");
            assert!(error["message"].as_str().unwrap().contains("line 3"), "{bad}: {error}");
        }
    }
    is_left_alone(&sandbox, sandbox.triplock(["book", "1", "--batch", "/no/such/file"]), 66);
}

#[test]
fn the_four_kinds_of_no_differ() {
    let sandbox = Sandbox::new().trip("1", 2);
    assert_eq!(sandbox.book("1", "7").seats(3).refused(3).outcome, "sold_out");
    sandbox.book("1", "7").succeeds();
    assert_eq!(sandbox.book("1", "7").refused(4).outcome, "already_booked");
    assert_eq!(sandbox.cancel("1", "8").refused(4).outcome, "no_booking");
    assert_eq!(sandbox.add("1", 2).refused(4).outcome, "trip_exists");
    sandbox.book("1", "8").request("id").succeeds();
    assert_eq!(sandbox.book("1", "9").request("id").refused(4).outcome, "request_id_reused");
    assert_eq!(sandbox.triplock(["trip", "resize", "1", "--seats", "1"]).refused(4).outcome, "below_booked");
    assert_eq!(sandbox.book("2", "7").fails(66)["error"], "no_such_trip");
    let lock = sandbox.hold_lock("1.lock");
    assert_eq!(sandbox.book("1", "9").arg("-n").fails(75)["error"], "busy");
    drop(lock);
    sandbox.triplock(["trip", "remove", "1"]).succeeds();
    assert_eq!(sandbox.book("1", "7").fails(66)["error"], "no_such_trip");
}

#[test]
fn a_lost_ledger_is_damage_and_no_fresh_start() {
    let (sandbox, _) = three_bookings();
    fs::remove_file(sandbox.trips("1.jsonl")).unwrap();
    let before = sandbox.contents();
    let commands =
        [sandbox.show("1"), sandbox.triplock(["trip", "list"]), sandbox.book("1", "new"), sandbox.add("1", 5)];
    for command in commands {
        let error = command.fails(65);
        assert!(error["path"].as_str().unwrap().ends_with("1.jsonl"), "{error}");
        assert!(error["message"].as_str().unwrap().contains("missing"), "{error}");
    }
    // But for the lock file's note, which says who looked last.
    let rest = |contents: Vec<(String, Vec<u8>)>| -> Vec<_> {
        contents.into_iter().filter(|(name, _)| !name.ends_with("1.lock")).collect()
    };
    assert_eq!(rest(sandbox.contents()), rest(before), "something was changed");
}

#[test]
fn one_bad_trip_does_not_hide_the_others() {
    let (sandbox, _) = three_bookings();
    let sandbox = sandbox.trip("0", 1).trip("2", 1);
    fs::write(sandbox.trips("1.json"), "").unwrap();
    fs::write(sandbox.trips("1.jsonl"), "garbage\n").unwrap();
    let listed = sandbox.triplock(["trip", "list"]).run();
    assert_eq!(listed.code(), Some(65), "{listed:?}");
    let trips: Vec<Value> = listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(trips.iter().map(|trip| trip["trip"].as_str().unwrap()).collect::<Vec<_>>(), ["0", "2"]);
}

#[test]
fn looking_makes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.triplock(["trip", "list"]).run().exits(0);
    sandbox.show("1").fails(66);
    sandbox.book("1", "7").fails(66);
    assert!(!sandbox.state_dir().exists());
}
