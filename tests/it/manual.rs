//! The manual pages: readable without a complaint, complete, and about the same commands as everything else.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use crate::{
    machine,
    sandbox::{Finished, Sandbox, TRIPLOCK},
};

/// All pages, in that directory; their names.
fn write_pages(dir: &Path) -> Vec<String> {
    let sandbox = Sandbox::new();
    let done = sandbox.triplock(["man", "--dir"]).arg(dir).run();
    done.exits(0);
    let done: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(done["dir"], dir.to_str().unwrap());
    let names = done["pages"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    let mut there: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    let mut sorted: Vec<String> = Clone::clone(&names);
    sorted.sort();
    assert_eq!(there, sorted, "files besides the pages");
    names
}

fn man(words: &[&str]) -> Finished {
    Sandbox::new().triplock(["man"].iter().chain(words)).in_text().run()
}

/// The words under `Commands:` of a `--help`.
fn commands(words: &[&str]) -> Vec<String> {
    let help = Command::new(TRIPLOCK).args(words).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let names = list.lines().take_while(|line| !line.is_empty());
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Every command that `--help` names and that has no commands of its own, as in `trip add`.
fn leaves(of: &[&str]) -> BTreeSet<String> {
    let mut leaves = BTreeSet::new();
    for command in commands(of) {
        let path: Vec<_> = of.iter().copied().chain([&*command]).collect();
        let below = self::leaves(&path);
        leaves.extend(if below.is_empty() { [path.join(" ")].into() } else { below });
    }
    leaves
}

#[test]
fn no_reader_complains_about_a_page() {
    let test = "no_reader_complains_about_a_page";
    if !machine::has(test, &["man", "mandoc", "lexgrog"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for page in write_pages(dir.path()) {
        let path = dir.path().join(&page);
        let name = page.strip_suffix(".1").unwrap();
        // At two widths: what does not fit is one of the warnings.
        for width in ["72", "100"] {
            let read =
                Command::new("man").args(["--warnings", "-l"]).arg(&path).env("MANWIDTH", width).output().unwrap();
            let complaints = String::from_utf8_lossy(&read.stderr);
            assert!(read.status.success() && complaints.is_empty(), "man {page}: {complaints}");
        }
        let lint = Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&path).output().unwrap();
        assert!(lint.status.success(), "mandoc {page}: {}", String::from_utf8_lossy(&lint.stdout));
        let found = Command::new("lexgrog").arg(&path).output().unwrap();
        let found = String::from_utf8_lossy(&found.stdout);
        assert!(found.contains(&format!("\"{name} - ")), "lexgrog {page}: {found}");
    }
}

#[test]
fn readme_help_and_manual_name_the_same_commands() {
    let leaves = leaves(&[]);
    assert!(leaves.contains("run") && leaves.contains("trip add") && !leaves.contains("trip"), "{leaves:?}");

    let dir = tempfile::tempdir().unwrap();
    let pages: BTreeSet<_> = write_pages(dir.path()).into_iter().collect();
    let groups = leaves.iter().filter_map(|leaf| leaf.split_once(' ')).map(|(group, _)| group.to_owned());
    let expected: BTreeSet<_> = leaves.iter().cloned().chain(groups).map(|name| format!("triplock-{name}.1")).collect();
    let expected: BTreeSet<_> =
        expected.iter().map(|name| name.replace(' ', "-")).chain(["triplock.1".to_owned()]).collect();
    assert_eq!(pages, expected, "the manual's pages, and those of --help");

    // The first column of the README's tables of commands: code, the command first.
    let readme = include_str!("../../README.md");
    let tables = readme.split("| command | what it does |\n").skip(1);
    let rows = tables.flat_map(|table| table.lines().take_while(|line| line.starts_with('|')).skip(1));
    let mut named = BTreeSet::new();
    for row in rows {
        // (`\|` is a bar of the text's own.)
        let cell = row.trim_start_matches('|').replace("\\|", "/").split('|').next().unwrap().to_owned();
        for code in cell.split('`').skip(1).step_by(2) {
            let begins = |leaf: &&String| code == **leaf || code.starts_with(&format!("{leaf} "));
            let leaf = leaves.iter().find(begins).unwrap_or_else(|| panic!("README.md has `{code}`, --help does not"));
            named.insert(leaf.clone());
        }
    }
    assert_eq!(named, leaves, "README.md's tables, and --help");
}

#[test]
fn a_page_has_every_option_of_its_help() {
    for leaf in leaves(&[]) {
        let words: Vec<_> = leaf.split(' ').collect();
        let help = Command::new(TRIPLOCK).args(&words).arg("--help").output().unwrap();
        let page = man(&words);
        page.exits(0);
        let plain = page.stdout.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
        let help = String::from_utf8(help.stdout).unwrap();
        let options =
            help.split(|c: char| c.is_whitespace() || ",;:.`)".contains(c)).filter(|word| word.starts_with("--"));
        let mut count = 0;
        for option in options.filter(|option| option.len() > 2) {
            assert!(plain.contains(option), "triplock-{}(1) lacks {option}", words.join("-"));
            count += 1;
        }
        assert!(count >= 5, "{leaf} --help has its options");
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
            let line = if section.contains(' ') { format!(".SH \"{section}\"") } else { format!(".SH {section}") };
            assert!(page.stdout.lines().any(|there| there == line), "triplock-{} has no {section}", words.join("-"));
        }
    }
}

#[test]
fn the_programs_page_has_the_table_of_exit_codes_and_says_where_things_are() {
    let page = man(&[]);
    page.exits(0);
    let plain = page.stdout.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
    for code in triplock::exit::ExitCode::ALL {
        let item = format!(".TP\n{}\n{}\n", code.code(), code.meaning());
        assert!(plain.contains(&item), "triplock(1) lacks:\n{item}");
    }
    for place in
        ["TRIPLOCK_STATE_DIR", "TRIPLOCK_CONFIG", "TRIPLOCK_HELD", "/var/lib/triplock", "/etc/triplock/jobs.d/"]
    {
        assert!(plain.contains(place), "triplock(1) lacks {place}");
    }
}

#[test]
fn one_page_is_what_its_file_is() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made/on/the/way");
    write_pages(&made);
    for (words, file) in
        [(&[][..], "triplock.1"), (&["run"], "triplock-run.1"), (&["trip", "add"], "triplock-trip-add.1")]
    {
        assert_eq!(man(words).stdout, fs::read_to_string(made.join(file)).unwrap(), "{file}");
    }
    // Again, over what is there.
    fs::write(made.join("triplock-run.1"), "old").unwrap();
    write_pages(&made);
    assert!(fs::read_to_string(made.join("triplock-run.1")).unwrap().contains(".SH NAME"));
}

#[test]
fn the_date_is_the_one_that_a_package_gives() {
    let page = |seconds: &str| {
        let page = Command::new(TRIPLOCK).args(["man", "run"]).env("SOURCE_DATE_EPOCH", seconds).output().unwrap();
        String::from_utf8(page.stdout).unwrap()
    };
    assert!(page("1700000000").contains(".TH TRIPLOCK-RUN 1 2023-11-14 \"triplock "));
    // What is no date is no reason to print none.
    let built = page("yesterday");
    assert!(built.contains(".TH TRIPLOCK-RUN 1 20"), "{built}");
}

#[test]
fn bad_input_is_one_line_that_says_what_to_do() {
    let sandbox = Sandbox::new();
    let unknown = sandbox.triplock(["man", "trip", "sell"]).run().fails(64);
    let message = unknown["message"].as_str().unwrap();
    assert!(message.contains("trip sell") && message.contains("--help"), "{message}");
    sandbox.triplock(["man", "race-student"]).run().fails(64);
    sandbox.triplock(["man", "run", "--dir", "/tmp"]).run().fails(64);

    let file = sandbox.path("file");
    fs::write(&file, "mine").unwrap();
    let error = sandbox.triplock(["man", "--dir"]).arg(&file).run().fails(73);
    assert_eq!(error["path"], file.to_str().unwrap());
    let in_the_way = sandbox.path("dir");
    fs::create_dir_all(in_the_way.join("triplock-run.1")).unwrap();
    let error = sandbox.triplock(["man", "--dir"]).arg(&in_the_way).run().fails(73);
    assert_eq!(error["path"], in_the_way.join("triplock-run.1").to_str().unwrap());
    let litter = fs::read_dir(&in_the_way)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().starts_with(".trip"));
    assert_eq!(litter.count(), 0);
}
