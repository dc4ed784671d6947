//! Completions, in the shells that read them.

use std::{path::Path, process::Command};

use crate::{machine, sandbox::TRIPLOCK};

/// A line, and all that may be in the place of its last word; the first letters of each lead to it alone.
const CASES: [(&str, &[&str]); 6] = [
    ("triplock ru", &["run"]),
    ("triplock run --pol", &["--policy"]),
    ("triplock run --policy ", &["skip", "wait", "replace"]),
    ("triplock trip re", &["resize", "remove"]),
    ("triplock completions ", &["bash", "zsh", "fish"]),
    // Not race-student, which is no command for people.
    ("triplock rac", &["race"]),
];

fn script(shell: &str, to: &Path) {
    let made = Command::new(TRIPLOCK).args(["completions", shell]).output().unwrap();
    assert!(made.status.success() && made.stderr.is_empty() && !made.stdout.is_empty());
    std::fs::write(to, made.stdout).unwrap();
}

/// What that shell printed for that program in its own language, a line each, sorted.
fn lines(shell: &mut Command) -> Vec<String> {
    let home = tempfile::tempdir().unwrap();
    let said = shell.env("HOME", home.path()).env("XDG_CONFIG_HOME", home.path()).output().unwrap();
    let complaints = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && complaints.is_empty(), "{shell:?}: {} {complaints}", said.status);
    let mut lines: Vec<_> =
        String::from_utf8(said.stdout).unwrap().lines().map(|line| line.trim().to_owned()).collect();
    lines.sort();
    lines
}

fn sorted(words: &[&str]) -> Vec<String> {
    let mut words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
    words.sort();
    words
}

#[test]
fn bash_completes() {
    if !machine::has("bash_completes", &["bash"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("triplock");
    script("bash", &file);
    // What readline does: the words up to the cursor, and the function that `complete` registered.
    let completer = r#"
        source "$1"
        [[ $(complete -p triplock) =~ -F\ ([^ ]+) ]] || exit 1
        read -ra COMP_WORDS <<<"$2"
        [[ $2 == *' ' ]] && COMP_WORDS+=('')
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$2 COMP_POINT=${#2}
        "${BASH_REMATCH[1]}" triplock "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    for (line, expected) in CASES {
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", completer, "bash"]).arg(&file).arg(line);
        let mut offered = lines(&mut bash);
        // It offers options where a word may stand too.
        offered.retain(|word| line.contains(" --") || !word.starts_with('-'));
        assert_eq!(offered, sorted(expected), "{line}");
    }
}

#[test]
fn fish_completes() {
    if !machine::has("fish_completes", &["fish"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("triplock.fish");
    script("fish", &file);
    for (line, expected) in CASES {
        let mut fish = Command::new("fish");
        fish.args([
            "--no-config",
            "-c",
            "source $argv[1]; complete --do-complete $argv[2] | string replace -r '\\t.*' ''; or true",
        ]);
        fish.arg(&file).arg(line);
        assert_eq!(lines(&mut fish), sorted(expected), "{line}");
    }
}

#[test]
fn zsh_completes() {
    if !machine::has("zsh_completes", &["zsh"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    script("zsh", &dir.path().join("_triplock"));
    // zsh completes in its line editor only, so it gets a terminal: keys are typed, and a key of our own writes down
    // what the line has become.
    let driver = r#"
        zmodload zsh/zpty zsh/zselect || exit 1
        zpty z "HOME=$1 TERM=dumb zsh -f -i"
        typed() { zpty -n -w z "$1"; while [[ ! -s $dir/line ]]; do zpty -rt z ignored; zselect -t 1; done; }
        dir=$1
        zpty -w z "PROMPT=; fpath=($dir \$fpath); autoload -Uz compinit; compinit -u -d $dir/dump
            note() { print -r -- \"\$BUFFER\" >$dir/new; mv $dir/new $dir/line; BUFFER= }; zle -N note; bindkey '^Xn' note"
        shift
        for line; do
            rm -f $dir/line
            typed "$line"$'\t\x18n'
            print -r -- "$(<$dir/line)"
        done
        zpty -d z"#;
    for (line, expected) in CASES {
        let (before, begun) = line.rsplit_once(' ').unwrap();
        for word in expected {
            // As much of the word as tells it from the others.
            let others = expected.iter().filter(|other| *other != word);
            let shared = others.map(|other| other.bytes().zip(word.bytes()).take_while(|(a, b)| a == b).count()).max();
            let given = &word[..begun.len().max(shared.map_or(0, |shared| shared + 1))];
            let mut zsh = Command::new("zsh");
            zsh.args(["-f", "-c", driver, "zsh"]).arg(dir.path()).arg(format!("{before} {given}"));
            // (Of an option that takes a value, an equals sign.)
            let mut became = lines(&mut zsh);
            for line in &mut became {
                line.truncate(line.trim_end_matches('=').len());
            }
            assert_eq!(became, [format!("{before} {word}")], "{before} {given}");
        }
    }
}

#[test]
fn another_shell_is_a_usage_error() {
    for words in [&["completions"][..], &["completions", "tcsh"]] {
        let said = Command::new(TRIPLOCK).args(words).output().unwrap();
        let complaint = String::from_utf8_lossy(&said.stderr);
        assert_eq!((said.status.code(), complaint.lines().count()), (Some(64), 1), "{complaint}");
    }
}
