//! What a crontab says (crontab(5)): environment lines, and command lines with what cron itself does to them.

use super::shell::Variables;

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
}

/// Reads a crontab; `has_user`: each line names a user, as in /etc/crontab.
///
/// One by one: each has all variables above it, and together they may be more than there is memory for.
pub(super) fn parse(text: &str, has_user: bool) -> impl Iterator<Item = Line> {
    let mut environment = Variables::new();
    text.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        if let Some((name, value)) = variable(line) {
            environment.insert(name, value);
            return None;
        }
        let fields = if line.starts_with('@') { 1 } else { 5 };
        let mut rest = after_fields(line, fields)?;
        let mut user = None;
        if has_user {
            let end = rest.find([' ', '\t']).unwrap_or(rest.len());
            user = Some(rest[..end].to_owned());
            rest = rest[end..].trim_start_matches([' ', '\t']);
        }
        let (command, stdin) = split(rest);
        Some(Line { number: index + 1, user, command, stdin, environment: environment.clone() })
    })
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
        let lines: Vec<_> = parse(text, true).collect();
        let shown: Vec<_> = lines
            .iter()
            .map(|line| {
                let Line { number, user, command, stdin, environment } = line;
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
        let lines = parse("0 3 * * 1-5 X=1 triplock run a\n@hourly b", false).collect::<Vec<_>>();
        assert_eq!(lines.iter().map(|line| line.command.as_str()).collect::<Vec<_>>(), ["X=1 triplock run a", "b"]);
        assert!(lines.iter().all(|line| line.user.is_none() && line.environment.is_empty()));
    }
}
