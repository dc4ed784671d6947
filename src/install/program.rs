//! Whether a scheduler will find what a job starts.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::{error::Error, job::definition::Definition, schedule::problem};

/// What is wrong with the program of a job that is looked for in those directories; `None` when it is there. Where the
/// directories are not known, a bare name is taken to be in one.
pub(super) fn missing(definition: &Definition, search: Option<&str>) -> Option<Error> {
    let program = definition.command.first()?;
    let shown = program.to_string_lossy();
    let why = if Path::new(program).is_absolute() {
        if may_run(Path::new(program)) {
            return None;
        }
        "is not there, or nobody may execute it; correct the path, or put it there first".to_owned()
    } else if shown.contains('/') {
        "depends on the directory in which it is started, and nothing is expanded in a list; write the whole path"
            .to_owned()
    } else {
        let search = search?;
        if search.split(':').any(|directory| may_run(&Path::new(directory).join(program))) {
            return None;
        }
        format!("is not where the scheduler looks ({search}); write its whole path")
    };
    Some(problem(definition, definition.line, &format!("its program {shown} {why}")))
}

fn may_run(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
}
