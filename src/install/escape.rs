//! Paths as words of a unit and of a crontab, and those that can be none.

use std::path::Path;

/// The program of an `ExecStart=`: systemd takes no quotes, backslashes or control characters there, however escaped.
pub(super) fn program_in_unit(path: &Path) -> Result<String, String> {
    let text = in_utf8(path)?;
    match text.chars().find(|c| c.is_control() || "'\"\\".contains(*c)) {
        Some(bad) => Err(format!("holds {bad:?}, which systemd allows in no program's path; {ELSEWHERE}")),
        None => Ok(quoted(&text.replace('%', "%%"))),
    }
}

/// A word of a unit.
pub(super) fn word_in_unit(path: &Path) -> Result<String, String> {
    let text = in_utf8(path)?;
    let mut word = String::new();
    for c in text.chars() {
        match c {
            '%' => word.push_str("%%"),
            '\\' | '"' => word.extend(['\\', c]),
            '\n' => word.push_str("\\n"),
            '\t' => word.push_str("\\t"),
            c if c.is_control() => return Err(format!("holds {c:?}, which systemd does not allow; {ELSEWHERE}")),
            c => word.push(c),
        }
    }
    Ok(quoted(&word))
}

const ELSEWHERE: &str = "move it, or give a path without that";

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("\"{word}\"") }
}

/// A word of a shell's command line.
pub(crate) fn word_in_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A word of a crontab's command. To cron a `%` ends the command, in quotes as well, unless a backslash stands before
/// it; and Debian's cron makes one backslash of two, which cronie does not.
pub(super) fn word_in_crontab(path: &Path) -> Result<String, String> {
    let text = in_utf8(path)?;
    if let Some(bad) = text.chars().find(|c| c.is_control()) {
        return Err(format!("holds {bad:?}, which no line of a crontab can; {ELSEWHERE}"));
    }
    if text.contains(r"\\") || text.contains(r"\%") {
        return Err(format!(r"holds a backslash before \ or %, which cron programs read differently; {ELSEWHERE}"));
    }
    Ok(word_in_shell(text).replace('%', r"\%"))
}

fn in_utf8(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("is not UTF-8, which the files of a scheduler are; {ELSEWHERE}"))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    use super::*;

    #[test]
    fn what_can_be_written_is_and_the_rest_is_refused() {
        let unit = |path: &str| word_in_unit(Path::new(path));
        assert_eq!(unit("/usr/bin/triplock").unwrap(), "/usr/bin/triplock");
        assert_eq!(unit("/a b").unwrap(), "\"/a b\"");
        assert_eq!(unit("/100%").unwrap(), "/100%%");
        assert_eq!(unit("/a\"\\\n").unwrap(), r#""/a\"\\\n""#);
        assert!(unit("/a\x07").is_err());
        let program = |path: &str| program_in_unit(Path::new(path));
        assert_eq!(program("/a b/100%").unwrap(), "\"/a b/100%%\"");
        for bad in ["/a'", "/a\"", "/a\\", "/a\n"] {
            assert!(program(bad).is_err(), "{bad}");
        }
        let cron = |path: &str| word_in_crontab(Path::new(path));
        assert_eq!(cron("/100%/it's").unwrap(), r"'/100\%/it'\''s'");
        assert_eq!(cron(r"/a\b").unwrap(), r"'/a\b'");
        for bad in ["/a\n", r"/a\\b", r"/a\%"] {
            assert!(cron(bad).is_err(), "{bad}");
        }
        let bytes = Path::new(OsStr::from_bytes(b"/\xff"));
        assert!(program_in_unit(bytes).is_err() && word_in_unit(bytes).is_err() && word_in_crontab(bytes).is_err());
    }
}
