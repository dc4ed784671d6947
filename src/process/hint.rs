//! Why a command was not found, for the message: the kernel has one word (`ENOENT`) for a program that is not there, for
//! one whose interpreter is not there, and for a line of shell that was taken for a program's name.
//!
//! Looked at only once a start has failed, so that a start that succeeds pays nothing.

use std::{ffi::OsString, fs::File, io::Read as _, os::unix::fs::PermissionsExt as _, path::Path};

use super::program::Program;

/// How much of a script's first line the kernel reads.
const FIRST_LINE: u64 = 256;

/// What a shell does itself: there is no program of that name, or none that would change anything.
const BUILT_IN: [&str; 24] = [
    ".", "alias", "break", "case", "cd", "eval", "exec", "exit", "export", "for", "if", "let", "popd", "pushd", "read",
    "readonly", "set", "shift", "shopt", "source", "trap", "ulimit", "umask", "unset",
];
const OF_SHELL: &[char] = &[' ', '\t', '\n', '|', '&', ';', '<', '>', '(', ')', '$', '`', '"', '\'', '*'];
const UNITS: [&str; 4] = ["s", "m", "h", "d"];

/// What to say of a command that could not be started because something was not found.
pub(crate) fn why_missing(command: &[OsString]) -> String {
    if let Some(missing) = Program::find(command).ok().and_then(|program| missing_interpreter(&program)) {
        return missing;
    }
    let name = command.first().map(|name| name.to_string_lossy()).unwrap_or_default();
    let no_such = "there is no such command";
    if let Some(variable) = assigned(&name) {
        format!("{no_such}; for a variable, `env {variable}=… COMMAND`")
    } else if BUILT_IN.contains(&&*name) || name.contains(OF_SHELL) || name.starts_with("~/") {
        format!("{no_such}; for a line of shell, `sh -c '…'`")
    } else if UNITS.contains(&&*name) {
        format!("{no_such}; a number and its unit are one word: 2{name}")
    } else {
        no_such.to_owned()
    }
}

/// The variable of a word that a shell takes for an assignment.
fn assigned(word: &str) -> Option<&str> {
    let (variable, _) = word.split_once('=')?;
    let is_variable = variable.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && variable.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_variable.then_some(variable)
}

/// What the first candidate that is there wants to be run by. (Were that there, it would have been run.)
fn missing_interpreter(program: &Program) -> Option<String> {
    let head = program.candidates.paths().find_map(head)?;
    if head.starts_with(b"\x7fELF") {
        return Some("the loader that it was linked for is missing: it was built for another system".to_owned());
    }
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
    let interpreter = line.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
    let shown = String::from_utf8_lossy(interpreter).escape_debug().to_string();
    let how = if line.ends_with(b"\r") { "; its lines end as Windows ends them, with \\r: remove that" } else { "" };
    Some(format!("the interpreter that its first line names is missing: {shown}{how}"))
}

/// How an executable file begins.
fn head(path: &Path) -> Option<Vec<u8>> {
    let metadata = path.metadata().ok()?;
    // Whatever else stands there (a pipe, say) is not opened: that might wait.
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return None;
    }
    let mut head = Vec::new();
    File::open(path).ok()?.take(FIRST_LINE).read_to_end(&mut head).ok()?;
    Some(head)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn said(word: &str) -> String {
        why_missing(&[word.into(), "x".into()])
    }

    #[test]
    fn a_slip_is_told_how_it_is_written() {
        let plain = "there is no such command";
        let shell = format!("{plain}; for a line of shell, `sh -c '…'`");
        for word in ["echo hi | wc -l", "triplock-none;true", "cd", "ulimit", "~/none", "a>b"] {
            assert_eq!(said(word), shell, "{word}");
        }
        assert_eq!(said("FOO=bar"), format!("{plain}; for a variable, `env FOO=… COMMAND`"));
        assert_eq!(said("_F1=a b"), format!("{plain}; for a variable, `env _F1=… COMMAND`"));
        assert_eq!(said("h"), format!("{plain}; a number and its unit are one word: 2h"));
        for word in ["triplock-none", "", "./triplock-none", "--x=y", "=x", "1F=x", "/none/cd"] {
            assert_eq!(said(word), plain, "{word}");
        }
        assert_eq!(why_missing(&[]), plain);
    }

    #[test]
    fn a_missing_interpreter_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        let missing = "the interpreter that its first line names is missing: ";
        for (head, expected) in [
            ("#!/none/sh\n", format!("{missing}/none/sh")),
            ("#! /none/sh -e\necho\n", format!("{missing}/none/sh")),
            (
                "#!/bin/sh\r\ntrue\r\n",
                format!("{missing}/bin/sh\\r; its lines end as Windows ends them, with \\r: remove that"),
            ),
            ("#!/none/\u{1b}[31m", format!("{missing}/none/\\u{{1b}}[31m")),
            ("\u{7f}ELF", "the loader that it was linked for is missing: it was built for another system".to_owned()),
            ("echo", "there is no such command".to_owned()),
        ] {
            fs::write(&path, head).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            assert_eq!(said(path.to_str().unwrap()), expected, "{head:?}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(said(path.to_str().unwrap()), "there is no such command", "it is none");
    }
}
