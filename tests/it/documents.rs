//! What the documents say is what the program does.

use std::process::Command;

fn triplock() -> Command {
    Command::new(env!("CARGO_BIN_EXE_triplock"))
}

#[test]
fn the_exit_codes_of_readme_help_and_code_are_one_table() {
    let readme = include_str!("../../README.md");
    let table = triplock::exit::ExitCode::table();
    let indented = table.lines().map(|line| format!("    {line}\n")).collect::<Vec<_>>().concat();
    assert!(readme.contains(&indented), "README.md lacks:\n{indented}");
    let help = triplock().arg("--help").output().unwrap();
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout).unwrap().contains(&triplock::exit::ExitCode::table()));
}

#[test]
fn the_readmes_booking_sells_the_one_seat_once() {
    let readme = include_str!("../../README.md");
    let directory = tempfile::tempdir().unwrap();
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_triplock")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let script = "triplock trip add 1 --seats 1\nfor s in 1 2; do triplock book 1 --student $s & done; wait\ntriplock trip show 1 --bookings";
    for line in script.lines().take(2) {
        assert!(readme.contains(&format!("    {line}\n")), "README.md lacks: {line}");
    }
    let shell = Command::new("sh")
        .args(["-c", script])
        .env("PATH", path)
        .env("TRIPLOCK_STATE_DIR", directory.path())
        .output()
        .unwrap();
    let (said, failed) = (String::from_utf8(shell.stdout).unwrap(), String::from_utf8(shell.stderr).unwrap());
    assert_eq!(said.matches("booked 1 seat for student").count(), 1, "{said}");
    assert_eq!(failed.matches("sold out: no seat left").count(), 1, "{failed}");
    assert!(said.contains("trip 1: 0 of 1 seat left, 1 booking\n"), "{said}");
}

#[test]
fn every_error_of_the_json_contract_has_its_row() {
    let contract = include_str!("../../docs/json.md");
    for error in triplock::Error::KINDS {
        assert!(contract.contains(&format!("| `{error}` |")), "docs/json.md lacks {error}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["trip", "--help"],
        &["trip", "add", "--help"],
        &["book", "-h"],
        &["race", "--help"],
        &["run", "--help"],
        &["run", "-h"],
        &["stop", "--help"],
        &["doctor", "--help"],
        &["update", "--help"],
        &["logs", "--help"],
    ] {
        let said = triplock().args(arguments).output().unwrap();
        assert!(said.status.success() && said.stderr.is_empty() && !said.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn every_key_of_a_job_file_is_in_the_documents() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("j.toml");
    std::fs::write(&file, "[jobs.j]\ncommand = 'true'\nqqqqqqqq = 1\n").unwrap();
    let output = triplock()
        .args(["run", "j", "--config"])
        .arg(&file)
        .env("TRIPLOCK_STATE_DIR", directory.path().join("state"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let (_, known) = said.split_once("known are ").expect("the message lists what is known");
    let keys: Vec<_> = known.trim().split(", ").collect();
    assert!(keys.len() > 20 && keys.contains(&"log_limit"), "{said}");
    let table = include_str!("../../docs/jobs.md");
    let rows: String = table.lines().filter(|line| line.starts_with("| `")).collect();
    for key in keys {
        assert!(rows.contains(&format!("`{key}`")), "docs/jobs.md has no row for {key}");
    }
}
