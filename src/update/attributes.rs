//! Extended attributes, access lists among them: those of the old file are to be those of the new one.

use std::{
    ffi::{CStr, CString},
    fs::File,
    path::Path,
};

use rustix::{fs::XattrFlags, io::Errno};

use super::target::failed;
use crate::error::Result;

/// Gives the new file just the attributes of the old one.
pub(super) fn copy(old: &File, new: &File, path: &Path) -> Result<()> {
    let wanted = names(old).map_err(|e| failed("list the attributes of", path, e))?;
    let inherited = names(new).map_err(|e| failed("list the attributes of the successor of", path, e))?;
    // The directory's default access list is on every file that is made in it, and may not be on the old one.
    for name in inherited.iter().filter(|name| !wanted.contains(name) && !is_the_kernels(name)) {
        match rustix::fs::fremovexattr(new, name.as_c_str()) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(errno) => return Err(failed("remove attributes of the successor of", path, errno)),
        }
    }
    for name in wanted.iter().filter(|name| !is_the_kernels(name)) {
        let value = match value(old, name) {
            Ok(value) => value,
            // Removed since it was listed.
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(failed("read the attributes of", path, errno)),
        };
        rustix::fs::fsetxattr(new, name.as_c_str(), &value, XattrFlags::empty())
            .map_err(|e| failed("keep the attributes of", path, e))?;
    }
    Ok(())
}

/// Labels and signatures that the kernel (or its policy) gives a new file by itself; some belong to the content.
fn is_the_kernels(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"security.")
}

fn names(file: &File) -> Result<Vec<CString>, Errno> {
    let list = grow(|buffer| rustix::fs::flistxattr(file, buffer));
    let list = match list {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Vec::new(),
        list => list?,
    };
    Ok(list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| CString::new(name).ok())
        .collect())
}

fn value(file: &File, name: &CStr) -> Result<Vec<u8>, Errno> {
    grow(|buffer| rustix::fs::fgetxattr(file, name, buffer))
}

/// Asks with larger and larger buffers; the kernel gives at most 64 KiB.
fn grow(mut ask: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 512];
    loop {
        match ask(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 128 * 1024 => buffer.resize(buffer.len() * 4, 0),
            Err(errno) => return Err(errno),
        }
    }
}
