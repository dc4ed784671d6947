//! What a crontab says (crontab(5)): environment lines, and command lines with what cron itself does to them.

use std::collections::BTreeMap;

use super::shell::{Variables, name_of};
use crate::schedule;

/// A command that cron starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: usize,
    /// As whom, of a system crontab.
    pub(super) user: Option<String>,
    /// What the shell is given: up to the first `%`, and `\%` is a `%`.
    pub(super) command: String,
    /// What follows an unescaped `%`, which the command gets as its stdin.
    pub(super) stdin: Option<String>,
    /// The environment lines above it.
    pub(super) environment: Variables,
    /// Those of them that only a shell would understand, by their names, with their lines.
    pub(super) unexpanded: BTreeMap<String, (usize, String)>,
    /// Why cron does not understand it, when it is about triplock.
    pub(super) mistake: Option<String>,
}

/// Reads a crontab; `is_user` of a system crontab, each line of which names one: whether there is such a user.
///
/// One by one: each has all variables above it, and together they may be more than there is memory for.
pub(super) fn parse(text: &str, is_user: Option<&dyn Fn(&str) -> bool>) -> impl Iterator<Item = Line> {
    let mut environment = Variables::new();
    let mut unexpanded = BTreeMap::new();
    text.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let number = index + 1;
        if let Some((name, value)) = variable(line) {
            unexpanded.remove(&name);
            if is_for_a_shell(&name, &value) {
                unexpanded.insert(name.clone(), (number, value.clone()));
            }
            environment.insert(name, value);
            return None;
        }
        let fields = if line.starts_with('@') { 1 } else { 5 };
        let mistake = mistake(line, fields, is_user);
        let mut rest = match after_fields(line, fields) {
            None if mistake.is_none() => return None,
            rest => rest.unwrap_or_default(),
        };
        let mut user = None;
        if is_user.is_some() {
            let end = rest.find([' ', '\t']).unwrap_or(rest.len());
            user = Some(rest[..end].to_owned());
            rest = rest[end..].trim_start_matches([' ', '\t']);
        }
        let (command, stdin) = split(rest);
        let (environment, unexpanded) = (environment.clone(), unexpanded.clone());
        Some(Line { number, user, command, stdin, environment, unexpanded, mistake })
    })
}

/// cron takes values as they are written.
fn is_for_a_shell(name: &str, value: &str) -> bool {
    let matters = ["HOME", "PATH"].contains(&name) || name.starts_with("TRIPLOCK_") || name.starts_with("XDG_");
    matters && (value.contains('$') || value.split(':').any(|part| part == "~" || part.starts_with("~/")))
}

fn mistake(line: &str, fields: usize, is_user: Option<&dyn Fn(&str) -> bool>) -> Option<String> {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let is_ours = |word: &&str| name_of(word.trim_matches(['"', '\'', '(', ')'])) == "triplock";
    let first = words.iter().position(is_ours)?;
    if first < fields {
        let count = if first == 1 { "1 field stands".to_owned() } else { format!("{first} fields stand") };
        return Some(format!(
            "{count} before {}, and five are needed: minute, hour, day of month, month, day of week",
            words[first]
        ));
    }
    // cronie takes a minus before the minute, and a range to choose from.
    let is_cronies = line.starts_with('-') || words[..fields].iter().any(|word| word.contains('~'));
    let why = schedule::mistake_in_crontab(&words[..fields].join(" ")).filter(|_| !is_cronies);
    let no_user = || {
        let is_user = is_user.filter(|_| first == fields)?;
        let word = words[first];
        (!is_user(word))
            .then(|| format!("{word} stands where the user belongs; write the user before it, such as root"))
    };
    why.or_else(no_user)
}

/// `NAME = value`, both of which may be quoted.
fn variable(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    let name = unquoted(name.trim());
    if name.is_empty()
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        || name.starts_with(|c: char| c.is_ascii_digit())
    {
        return None;
    }
    Some((name.to_owned(), unquoted(value.trim()).to_owned()))
}

fn unquoted(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}

fn after_fields(mut line: &str, fields: usize) -> Option<&str> {
    for _ in 0..fields {
        let end = line.find([' ', '\t'])?;
        line = line[end..].trim_start_matches([' ', '\t']);
    }
    (!line.is_empty()).then_some(line)
}

fn split(text: &str) -> (String, Option<String>) {
    let mut command = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.as_str().starts_with('%') => command.extend(rest.next()),
            '%' => return (command, Some(rest.as_str().to_owned())),
            c => command.push(c),
        }
    }
    (command, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_crontab_names_users() {
        let text = "# m h dom mon dow user command\nSHELL=/bin/sh\n  A = 'b c' \n\n*/5 * * * *\troot  cd / && x\n\
                    @daily alice y \\% z\nA=d\n1 2 3 4 5 bob date +%F | x\n1 2 3 4 5\n@reboot\n7x=8\n\u{fffd}\u{0}\n";
        let lines: Vec<_> = parse(text, Some(&|_| true)).collect();
        let shown: Vec<_> = lines
            .iter()
            .map(|line| {
                let Line { number, user, command, stdin, environment, .. } = line;
                (*number, user.as_deref().unwrap(), command.as_str(), stdin.as_deref(), environment["A"].as_str())
            })
            .collect();
        assert_eq!(
            shown,
            [
                (5, "root", "cd / && x", None, "b c"),
                (6, "alice", "y % z", None, "b c"),
                (8, "bob", "date +", Some("F | x"), "d"),
            ]
        );
    }

    #[test]
    fn a_users_crontab_does_not() {
        let lines = parse("0 3 * * 1-5 X=1 triplock run a\n@hourly b", None).collect::<Vec<_>>();
        assert_eq!(lines.iter().map(|line| line.command.as_str()).collect::<Vec<_>>(), ["X=1 triplock run a", "b"]);
        assert!(lines.iter().all(|line| line.user.is_none() && line.environment.is_empty()));
    }

    #[test]
    fn a_line_that_cron_does_not_understand_is_told_from_a_strange_one() {
        let mistakes = |text: &str, users: &[&str]| {
            let is_user = |name: &str| users.contains(&name);
            let is_user: Option<&dyn Fn(&str) -> bool> = if users.is_empty() { None } else { Some(&is_user) };
            parse(text, is_user).filter_map(|line| line.mistake).collect::<Vec<_>>().join("|")
        };
        let says = |text: &str, users: &[&str], fragment: &str| {
            let said = mistakes(text, users);
            assert!(said.contains(fragment), "{text}: {said}");
        };
        says("61 2 * * * triplock run a", &[], "minute: ");
        says("@dayly triplock run a", &[], "cron knows no @dayly");
        says("0 2 * * /usr/bin/triplock run a", &[], "4 fields stand before /usr/bin/triplock, and five are needed");
        says("0 2 triplock run", &["root"], "2 fields stand before triplock");
        says("0 2 * * root triplock run a", &["root"], "day of week: ");
        says("0 2 * * * triplock run a", &["root"], "triplock stands where the user belongs");
        says("@daily \"triplock\" run a", &["root"], "\"triplock\" stands where the user belongs");
        for (text, users) in [
            ("0 2 * * * triplock run a\n@reboot triplock run b\n*/5 1-5,7 * JAN mon cd / && triplock run c", &[][..]),
            ("0 2 * * * triplock triplock run a\n0 2 * * * root triplock run a", &["triplock", "root"]),
            ("0 2 * * * root sh -c 'triplock run a'", &["root"]),
            ("-5~10 * * * * triplock run a\n0~30 * * * * triplock run a", &[]),
            // Whatever else is wrong is somebody else's.
            ("61 * * * * dump\n@dayly dump", &[]),
        ] {
            assert_eq!(mistakes(text, users), "", "{text}");
        }
    }

    #[test]
    fn a_value_that_only_a_shell_would_understand_is_known_as_long_as_it_counts() {
        let text = "TRIPLOCK_STATE_DIR=$HOME/st\nMAILTO=$USER\nPATH = \"/bin:~/bin\"\nHOME=/a~b\n@daily a\n\
                    TRIPLOCK_STATE_DIR=/st\n@daily b\n";
        let found: Vec<_> = parse(text, None).map(|line| line.unexpanded.into_iter().collect::<Vec<_>>()).collect();
        let of = |name: &str, line: usize, value: &str| (name.to_owned(), (line, value.to_owned()));
        let path = of("PATH", 3, "/bin:~/bin");
        assert_eq!(found, [vec![path.clone(), of("TRIPLOCK_STATE_DIR", 1, "$HOME/st")], vec![path]]);
    }
}
