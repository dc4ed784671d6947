//! What the new process does until it is the program, and all that it needs for that, prepared.
//!
//! It runs on its parent's memory while that sleeps, so nothing here allocates, locks or panics; see [`super`].
#![allow(unsafe_code)]

use std::{
    cell::Cell,
    ffi::{c_char, c_int},
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use crate::process::{
    signals::{Mask, remove_handler, restore_the_file_limit, set_default},
    startup,
};

/// Everything the new process needs, in memory that it shares with us.
pub(super) struct Plan<'a> {
    /// The shell, the command's arguments, null. The first two are what a script without `#!` is run by.
    pub(super) argv: &'a [Cell<*const c_char>],
    pub(super) envp: *const *const c_char,
    pub(super) candidates: &'a [*const c_char],
    /// What becomes descriptor 0, 1, 2.
    pub(super) standard: [Option<c_int>; 3],
    pub(super) inherit: &'a [BorrowedFd<'a>],
    pub(super) own_group: bool,
    /// Whether it is killed when we end.
    pub(super) dies_with_us: bool,
    /// The `cgroup.procs` of the group to move to.
    pub(super) procs: Option<c_int>,
    /// Not to be set when there is none.
    pub(super) mask: Option<&'a Mask>,
    /// The signals that triplock has a handler for.
    pub(super) handled: &'a [c_int],
    // What the new process says.
    pub(super) failure: Cell<Option<(Stage, c_int)>>,
    pub(super) in_cgroup: Cell<bool>,
}

/// Where the new process got to before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    SetUp,
    Execute,
}

impl Plan<'_> {
    /// Makes this process the program; returns only to say what failed.
    pub(super) fn carry_out(&self) -> (Stage, c_int) {
        match set_up(self) {
            Ok(()) => (Stage::Execute, execute(self)),
            Err(errno) => (Stage::SetUp, errno),
        }
    }
}

/// Everything between the clone and the program. The descriptors, dispositions and mask that it changes are those of the
/// process that becomes it.
fn set_up(plan: &Plan<'_>) -> Result<(), c_int> {
    for signal in plan.handled {
        remove_handler(*signal);
    }
    // Rust's runtime ignores it in us. A program in a pipeline counts on it, unless our caller ignores it too.
    restore_the_file_limit();
    if !startup::ignored_broken_pipes() {
        set_default(libc::SIGPIPE);
    }
    // SAFETY: a system call on integers, which a process of any kind may make.
    if plan.own_group && unsafe { libc::setpgid(0, 0) } != 0 {
        return Err(errno());
    }
    // SAFETY: as above. (Forgotten by the kernel when the program is one with other rights than ours.)
    if plan.dies_with_us && unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(errno());
    }
    if let Some(procs) = plan.procs {
        // SAFETY: as above, and one byte of a constant. A 0 means the process that writes it.
        plan.in_cgroup.set(unsafe { libc::write(procs, b"0".as_ptr().cast(), 1) } == 1);
    }
    for (source, target) in plan.standard.iter().zip(0..) {
        match *source {
            Some(source) if source == target => keep_open(source)?,
            // SAFETY: as above.
            Some(source) if unsafe { libc::dup2(source, target) } < 0 => return Err(errno()),
            _ => {}
        }
    }
    for descriptor in plan.inherit {
        keep_open(descriptor.as_raw_fd())?;
    }
    let Some(mask) = plan.mask else { return Ok(()) };
    // SAFETY: as above; a valid set.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask.0, ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(errno),
    }
}

/// Tries the candidates as execvp(3) does, and returns only to say why none would do.
fn execute(plan: &Plan<'_>) -> c_int {
    let mut why = libc::ENOENT;
    for candidate in plan.candidates {
        // SAFETY: null-terminated arrays of C strings that were prepared before.
        let errno = unsafe {
            libc::execve(*candidate, plan.argv.as_ptr().add(1).cast(), plan.envp);
            errno()
        };
        match errno {
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {
                // That one of them may not be executed says more than that another is not there.
                if why != libc::EACCES {
                    why = errno;
                }
            }
            libc::EACCES => why = libc::EACCES,
            libc::ENOEXEC => {
                // A script without `#!` is the shell's.
                plan.argv[1].set(*candidate);
                // SAFETY: as above; the shell is the first argument, the script the second.
                unsafe {
                    libc::execve(plan.argv[0].get(), plan.argv.as_ptr().cast(), plan.envp);
                }
                return self::errno();
            }
            other => return other,
        }
    }
    why
}

fn keep_open(descriptor: c_int) -> Result<(), c_int> {
    // SAFETY: changes a flag of our copy of the descriptor.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(errno()),
    }
}

fn errno() -> c_int {
    // SAFETY: always a valid pointer. It is the sleeping parent's errno too, which nobody reads until then.
    unsafe { *libc::__errno_location() }
}
