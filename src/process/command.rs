//! A command that runs as execvp(3) would run it: in place of this process, or as its plain child, which shares
//! descriptors, process group, environment and signals with it.
//!
//! The child borrows the parent's memory until it executes (as vfork(2)), so nothing is copied, and a failure to execute
//! is told by writing to it. Every string that it needs is made before; in between, it only makes system calls.
#![allow(unsafe_code)]

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt as _,
    ptr,
    sync::atomic::{AtomicI32, Ordering},
    time::Duration,
};

/// Where a program is looked for without a `$PATH`, as in the GNU C library.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// What the child runs on until it executes.
const STACK: usize = 16 * 1024;

/// A program and its arguments, ready to be executed.
#[derive(Debug)]
pub(crate) struct Command {
    /// The paths to try, in order.
    candidates: Vec<CString>,
    argv: Vec<CString>,
}

/// Why a command could not be run.
#[derive(Debug)]
pub(crate) enum NotRun {
    /// No process could be made for it.
    NoProcess(io::Error),
    /// It cannot be executed.
    NotExecutable(io::Error),
    /// It ended, and nobody can tell how.
    NotWaited(io::Error),
}

/// How it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) how: How,
    /// Of it and the descendants that it waited for.
    pub(crate) user: Duration,
    /// The same.
    pub(crate) system: Duration,
    /// In bytes, of the largest of them.
    pub(crate) peak_memory: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Exited(u8),
    Killed(i32),
}

impl Command {
    /// `words`: its name and its arguments; at least the name.
    pub(crate) fn new(words: &[OsString]) -> io::Result<Self> {
        let path = std::env::var_os("PATH");
        let path = path.as_deref().map_or(DEFAULT_PATH, OsStr::as_bytes);
        let name = words[0].as_bytes();
        let candidates = if name.is_empty() || name.contains(&b'/') {
            vec![CString::new(name)?]
        } else {
            let in_dir = |dir: &[u8]| match dir {
                b"" => CString::new(name),
                dir => CString::new([dir, b"/", name].concat()),
            };
            path.split(|b| *b == b':').map(in_dir).collect::<Result<_, _>>()?
        };
        let argv = words.iter().map(|word| CString::new(word.as_bytes())).collect::<Result<_, _>>()?;
        Ok(Self { candidates, argv })
    }

    /// Becomes the command; returns only when that fails.
    pub(crate) fn replace_this_process(&self) -> io::Error {
        io::Error::from_raw_os_error(self.pointers().execute())
    }

    /// Runs it and waits for its end.
    pub(crate) fn run(&self) -> Result<Ended, NotRun> {
        // Ignored, it would have the kernel bury the child before anybody asks how it ended.
        // SAFETY: the default action; nothing of ours handles this signal.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let child = Child { pointers: self.pointers(), failed: AtomicI32::new(0) };
        let mut stack = Vec::<MaybeUninit<u128>>::with_capacity(STACK / size_of::<u128>());
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the stack grows down from the aligned end of a buffer that nothing else uses; with CLONE_VFORK this
        // thread sleeps until the child has executed or ended, so `child` and the buffer outlive its use of them.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(stack.capacity());
            libc::clone(start, top.cast(), flags, (&raw const child).cast_mut().cast())
        };
        if pid == -1 {
            return Err(NotRun::NoProcess(io::Error::last_os_error()));
        }
        let ended = wait(pid).map_err(NotRun::NotWaited)?;
        match child.failed.into_inner() {
            0 => Ok(ended),
            errno => Err(NotRun::NotExecutable(io::Error::from_raw_os_error(errno))),
        }
    }

    fn pointers(&self) -> Pointers {
        // With room for the shell in front, should it be a script that does not name its interpreter.
        let mut shell_argv = vec![c"/bin/sh".as_ptr(), ptr::null()];
        shell_argv.extend(self.argv.iter().skip(1).map(|word| word.as_ptr()).chain([ptr::null()]));
        let argv = self.argv.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
        Pointers { candidates: self.candidates.iter().map(|path| path.as_ptr()).collect(), argv, shell_argv }
    }
}

/// A [`Command`] as execve(2) wants it; borrows from it.
struct Pointers {
    candidates: Vec<*const libc::c_char>,
    argv: Vec<*const libc::c_char>,
    /// The same for /bin/sh; the second is the script.
    shell_argv: Vec<*const libc::c_char>,
}

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

impl Pointers {
    /// Tries the candidates in order, and gives the error of the whole. Allocates nothing.
    fn execute(&mut self) -> i32 {
        let mut denied = false;
        let mut errno = libc::ENOENT;
        for path in &self.candidates {
            // SAFETY: the strings live in the `Command`, the arrays here, each ended by a null pointer; `environ` is
            // the C library's, and nothing changes the environment meanwhile.
            errno = unsafe {
                libc::execve(*path, self.argv.as_ptr(), environ);
                last_errno()
            };
            if errno == libc::ENOEXEC {
                self.shell_argv[1] = *path;
                // SAFETY: as above.
                errno = unsafe {
                    libc::execve(self.shell_argv[0], self.shell_argv.as_ptr(), environ);
                    last_errno()
                };
            }
            match errno {
                libc::EACCES => denied = true,
                libc::ENOENT | libc::ESTALE | libc::ENOTDIR | libc::ENODEV | libc::ETIMEDOUT => {}
                _ => return errno,
            }
        }
        if denied { libc::EACCES } else { errno }
    }
}

/// What the child is given.
struct Child {
    pointers: Pointers,
    /// The error that kept it from executing; 0 when it did.
    failed: AtomicI32,
}

extern "C" fn start(child: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `Command::run` gives a `Child` and sleeps until this is over; nobody else looks at it meanwhile.
    let child = unsafe { &mut *child.cast::<Child>() };
    let errno = child.pointers.execute();
    child.failed.store(errno, Ordering::Relaxed);
    // SAFETY: ends the child without running what the parent registered for its own end.
    unsafe { libc::_exit(127) }
}

fn wait(pid: libc::pid_t) -> io::Result<Ended> {
    let mut status = 0;
    let mut usage = MaybeUninit::uninit();
    // SAFETY: both are valid for writing.
    while unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) } == -1 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: wait4 succeeded, so it is filled.
    let usage: libc::rusage = unsafe { usage.assume_init() };
    let how = if libc::WIFSIGNALED(status) {
        How::Killed(libc::WTERMSIG(status))
    } else {
        How::Exited(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
    };
    let peak_memory = u64::try_from(usage.ru_maxrss).unwrap_or_default() * 1024;
    Ok(Ended { how, user: duration(usage.ru_utime), system: duration(usage.ru_stime), peak_memory })
}

fn duration(time: libc::timeval) -> Duration {
    let number = |value| u64::try_from(value).unwrap_or_default();
    Duration::from_secs(number(time.tv_sec)) + Duration::from_micros(number(time.tv_usec))
}

/// The thread's errno. (`io::Error::last_os_error` without the detour.)
fn last_errno() -> i32 {
    // SAFETY: a thread's errno is always there; the child's is the parent's, which sleeps.
    unsafe { *libc::__errno_location() }
}
