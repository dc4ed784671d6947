//! A user of this machine, as the name service knows it.

use std::{fs, path::PathBuf, process::Command};

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    /// The groups, the first one first.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: PathBuf,
}

impl Account {
    /// The user of that name (or number).
    pub(crate) fn of(name: &str) -> Option<Self> {
        // getent(1) asks the directories of users too that /etc/passwd knows nothing of.
        let asked = answer("getent", &["passwd", "--", name]).and_then(|line| Self::read(&line));
        let mut account = asked.or_else(|| Self::listed(name))?;
        let groups = answer("id", &["-G", "--", &account.name]).unwrap_or_default();
        account.groups.extend(groups.split_whitespace().filter_map(|group| group.parse::<u32>().ok()));
        Some(account)
    }

    /// The same, if /etc/passwd has it; with its first group alone.
    pub(crate) fn listed(name: &str) -> Option<Self> {
        let list = fs::read_to_string("/etc/passwd").ok()?;
        let is_meant = |line: &&str| {
            let mut fields = line.split(':');
            fields.next() == Some(name) || fields.nth(1) == Some(name)
        };
        list.lines().find(is_meant).and_then(Self::read)
    }

    /// Whoever runs this.
    pub(crate) fn own() -> Option<Self> {
        Self::of(&rustix::process::geteuid().as_raw().to_string())
    }

    fn read(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.trim_end().split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        Some(Self { name: name.to_owned(), uid, groups: vec![gid], home: home.into() })
    }
}

/// Whether there is such a group.
pub(super) fn is_group(name: &str) -> bool {
    let is_listed = || {
        let list = fs::read_to_string("/etc/group").unwrap_or_default();
        list.lines().any(|line| line.split(':').next() == Some(name))
    };
    answer("getent", &["group", "--", name]).is_some() || is_listed()
}

fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_name_and_by_number() {
        let root = Account::of("root").unwrap();
        assert_eq!((root.uid, root.groups[0]), (0, 0));
        assert_eq!(Account::of("0").unwrap(), root);
        assert_eq!(Account::listed("root").unwrap().home, root.home);
        assert_eq!(Account::of("no-such-user-here"), None);
        assert_eq!(Account::of("--help"), None);
        assert!(is_group("root") && !is_group("no-such-group-here"));
    }
}
