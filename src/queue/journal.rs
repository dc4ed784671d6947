//! Requests on disk before they are answered: `LANE.queue/requests-UID`, a line each.
//!
//! A run's own file ([`super::lane_queue`]) is made without a sync: to make a new file durable costs several times what
//! appending to an old one does, and `queue add` would take half as long again. So the request is appended here too, and this is
//! what is synced. After a power cut a run may be in the ledger and its file missing or empty; `resume` makes it again from
//! here, and `retry` finds here what a run was to do that was cut off.
//!
//! Like the files, it is its maker's alone: what a user's runs do stands in that user's file, and only that user restores
//! from it. It begins anew when nothing stands in the lane and it is worth it; one that never gets there is copied when it is
//! large, without the lines of what has started.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::unix::fs::FileExt as _,
};

use super::{Queue, Request, pending::Pending};
use crate::{
    dir::{Access, Dir, stat_file},
    error::{Error, Result},
    job::RunId,
};

/// One that is not larger, in bytes, is not emptied: that costs more than a sync.
const SMALL: u64 = 256 * 1024;

/// One that is larger, in bytes, is copied.
const LARGE: u64 = 16 * 1024 * 1024;

/// Appends a request, whose file is there already; to be synced by the caller. The caller has `NAME.commit`. `waiting`: how many
/// stand in the lane.
pub(super) fn append(queue: &Queue, request: &Request, waiting: u64) -> Result<File> {
    let dir = &queue.dir;
    let name = name();
    let path = || dir.path_of(&name);
    let (file, mut size) = match open(dir, &name, Access::ReadWrite)? {
        Some(file) => {
            let size = stat_file(&file).map_err(|e| Error::io("stat", path(), e))?.size;
            (file, size)
        }
        None => {
            let file = dir.create_private(&name)?;
            // A line in a file without a name is lost.
            dir.sync()?;
            (file, 0)
        }
    };
    if waiting == 0 && size > SMALL {
        file.set_len(0).map_err(|e| Error::io("empty", path(), e))?;
        size = 0;
    }
    // A power cut may have torn the end of the last one.
    let line = [b"\n", &request.line()[..]].concat();
    if is_to_be_copied(size, size + line.len() as u64) {
        return copy(queue, &name);
    }
    if let Err(e) = file.write_all_at(&line, size) {
        // Should that fail too, there is a torn end, which is no line.
        let _ = file.set_len(size);
        return Err(Error::cannot_create(path(), e));
    }
    Ok(file)
}

/// When it grows past 16 MiB, 32, 64 …: where most of it still waits, the next time is far.
fn is_to_be_copied(before: u64, after: u64) -> bool {
    let step = |size: u64| (size / LARGE).checked_ilog2();
    step(before) != step(after)
}

/// A new one, with what this user has in the lane.
fn copy(queue: &Queue, name: &str) -> Result<File> {
    let fresh = format!("{name}.new");
    let mut file = queue.dir.create_private(&fresh)?;
    for pending in queue.pending()? {
        // Another user's is in another.
        let Ok(Some(request)) = Request::of(queue, pending) else { continue };
        file.write_all(&request.line()).map_err(|e| Error::cannot_create(queue.dir.path_of(&fresh), e))?;
    }
    file.sync_data().map_err(|e| Error::io("sync", queue.dir.path_of(&fresh), e))?;
    queue.dir.rename(&fresh, name)?;
    queue.dir.sync()?;
    Ok(file)
}

/// Makes the files again of those runs whose file is missing or torn, as far as this user queued them.
pub(super) fn restore(queue: &Queue, lost: &[Pending]) -> Result<()> {
    for request in requests(queue)? {
        if let Some(pending) = lost.iter().find(|pending| Pending::from(request.place()) == **pending) {
            // One that was recorded to have lost its process would take the place of the new one again.
            queue.dir.unlink(&Pending { is_left: true, ..*pending }.file_name())?;
            request
                .write(&queue.dir, &pending.file_name())?
                .sync_data()
                .map_err(|e| Error::io("sync", queue.dir.path_of(&pending.file_name()), e))?;
        }
    }
    queue.dir.sync()
}

/// What that run was to do, if this user queued it and it is not long ago.
pub(super) fn find(queue: &Queue, run: RunId, ticket: u64) -> Result<Option<Request>> {
    Ok(requests(queue)?.into_iter().find(|request| request.run == run && request.ticket == ticket))
}

fn requests(queue: &Queue) -> Result<Vec<Request>> {
    let name = name();
    let Some(mut file) = open(&queue.dir, &name, Access::Read)? else { return Ok(Vec::new()) };
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(|e| Error::io("read", queue.dir.path_of(&name), e))?;
    // A power cut leaves torn lines, or NULs.
    Ok(text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// Only that of this user is believed, whoever made one of that name.
fn open(dir: &Dir, name: &str, access: Access) -> Result<Option<File>> {
    match dir.open_private(name, access)? {
        Some((_, owner)) if owner != rustix::process::geteuid().as_raw() => {
            Err(Error::Denied { path: dir.path_of(name), why: "another user made it; remove it".to_owned() })
        }
        opened => Ok(opened.map(|(file, _)| file)),
    }
}

fn name() -> String {
    format!("requests-{}", rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dir::StateDir, job::Options};

    /// The queue of a lane in which nothing was.
    fn lane() -> (tempfile::TempDir, Queue) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path(), false).unwrap();
        let queue = Queue::make(&state, &"a".parse().unwrap()).unwrap();
        (directory, queue)
    }

    /// Puts a request into a lane as `add` does, but for the ledger.
    fn put(queue: &Queue, run: u64) -> Request {
        let mut request = Request::here(queue.name(), &["true".into()], Options::default()).unwrap();
        request.placed(RunId(run), (1 << 51) + run);
        request.write(&queue.dir, &Pending::from(request.place()).file_name()).unwrap();
        append(queue, &request, run).unwrap();
        request
    }

    #[test]
    fn a_request_behind_a_torn_one_is_whole() {
        let (_directory, queue) = lane();
        put(&queue, 1);
        let path = queue.dir.path_of(&name());
        let length = std::fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(length - 20).unwrap();
        let second = put(&queue, 2);
        let lost = Pending::from(second.place());
        // Its process had been recorded as gone before the cut.
        let left = Pending { is_left: true, ..lost };
        queue.dir.rename(&lost.file_name(), &left.file_name()).unwrap();
        std::fs::write(queue.dir.path_of(&left.file_name()), "").unwrap();
        restore(&queue, &[lost]).unwrap();
        queue.mark_live(lost).unwrap();
        assert_eq!(Request::of(&queue, lost).unwrap(), Some(second));
    }

    #[test]
    fn one_that_grows_large_is_copied_without_what_has_started() {
        let (_directory, queue) = lane();
        let path = queue.dir.path_of(&name());
        let [started, waits] = [1, 2].map(|run| put(&queue, run));
        queue.dir.unlink(&Pending::from(started.place()).file_name()).unwrap();
        // Of years.
        File::options().write(true).open(&path).unwrap().set_len(LARGE - 1).unwrap();
        let newest = put(&queue, 3);
        assert_eq!(std::fs::read(&path).unwrap(), [waits.line(), newest.line()].concat());
        // What is lost is made again from the copy.
        let lost = [&waits, &newest].map(|request| Pending::from(request.place()));
        for pending in lost {
            queue.dir.unlink(&pending.file_name()).unwrap();
        }
        restore(&queue, &lost).unwrap();
        assert_eq!(lost.map(|pending| Request::of(&queue, pending).unwrap().unwrap()), [waits, newest]);
        // The next copy is far.
        assert!(!is_to_be_copied(LARGE, 2 * LARGE - 1) && is_to_be_copied(2 * LARGE - 1, 2 * LARGE));
    }
}
