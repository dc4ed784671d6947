//! Starting a program as cheaply as the kernel can.
//!
//! `clone(CLONE_VM | CLONE_VFORK)`: the new process borrows our memory until it has become the program, and we sleep until
//! then. fork(2) would copy the page tables, and afterwards every page that either side writes to would fault. What the
//! borrowing asks for:
//!
//! - a stack of its own, since returning from the function that called `clone` would pull ours from under us;
//! - no allocation, no lock, no panic in it: another thread may hold the allocator's lock, and nobody would release it.
//!   So argument vector, environment and every path to try are prepared before;
//! - no signal handler in it, which would run on our memory: every signal is blocked from before the clone until the
//!   handlers that triplock has are gone;
//! - its errno comes back through the shared memory, so that "not found" is known without a pipe.
//!
//! `CLONE_PIDFD` gives the descriptor that means this process and no later one of its number.
#![allow(unsafe_code)]

use std::{
    cell::{Cell, UnsafeCell},
    ffi::{OsString, c_char, c_int, c_void},
    fmt, io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    ptr,
    sync::{Mutex, PoisonError},
};

use rustix::process::Pid;

use super::{
    child::{Child, wait4},
    program::{Program, Strings},
    signals::{Mask, keep_ended_children, remove_handler, set_default},
};
use crate::lock::handled_signals;

const SHELL: &[u8] = b"/bin/sh\0";

/// What to start, and with what.
pub(crate) struct Spawn<'a> {
    pub(crate) program: &'a Program,
    /// Set in its environment, or removed from it, beyond what is in ours.
    pub(crate) environment: &'a [(OsString, Option<OsString>)],
    /// Its standard input; ours when there is none.
    pub(crate) stdin: Option<BorrowedFd<'a>>,
    pub(crate) stdout: Option<BorrowedFd<'a>>,
    pub(crate) stderr: Option<BorrowedFd<'a>>,
    /// Kept open in it, under their own numbers, which are not those of standard input, output and error.
    pub(crate) inherit: &'a [BorrowedFd<'a>],
    /// Whether it leads a process group of its own.
    pub(crate) own_group: bool,
    /// The `cgroup.procs` of the control group to run it in. When the kernel will not have it there it runs in ours, and
    /// [`Child::in_cgroup`] says so.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// The signals that it shall hold back; those that this thread holds back when there is none.
    pub(crate) mask: Option<&'a Mask>,
}

/// Why nothing was started.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// There is no such command.
    NotFound,
    /// It is there, and cannot be executed.
    NotExecutable(io::Error),
    /// The operating system refused before that.
    Failed(io::Error),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("command not found"),
            Self::NotExecutable(error) => write!(f, "cannot execute: {error}"),
            Self::Failed(error) => write!(f, "cannot start a process: {error}"),
        }
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotFound => None,
            Self::NotExecutable(error) | Self::Failed(error) => Some(error),
        }
    }
}

/// Where the new process got to before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    SetUp,
    Execute,
}

/// Everything the new process needs, in memory that it shares with us.
struct Plan<'a> {
    /// The shell, the command's arguments, null. The first two are what a script without `#!` is run by.
    argv: &'a [Cell<*const c_char>],
    envp: *const *const c_char,
    candidates: &'a [*const c_char],
    /// What becomes descriptor 0, 1, 2.
    standard: [Option<c_int>; 3],
    inherit: &'a [BorrowedFd<'a>],
    own_group: bool,
    cgroup: Option<c_int>,
    mask: &'a Mask,
    handled: [c_int; 4],
    // What the new process says.
    failure: Cell<Option<(Stage, c_int)>>,
    in_cgroup: Cell<bool>,
}

impl Spawn<'_> {
    pub(crate) fn start(&self) -> Result<Child, SpawnError> {
        let failed = SpawnError::Failed;
        let mut kept = Vec::new();
        let standard = [(self.stdin, 0), (self.stdout, 1), (self.stderr, 2)];
        let mut sources = [None; 3];
        for (source, (descriptor, target)) in sources.iter_mut().zip(standard) {
            if let Some(descriptor) = descriptor {
                *source = Some(out_of_the_way(descriptor, target, &mut kept).map_err(failed)?);
            }
        }
        let mut extra = Strings::default();
        let envp = environment(self.environment, &mut extra).map_err(failed)?;
        let argv: Vec<Cell<*const c_char>> = std::iter::once(SHELL.as_ptr().cast())
            .chain(self.program.arguments.pointers())
            .chain([ptr::null()])
            .map(Cell::new)
            .collect();
        let candidates: Vec<*const c_char> = self.program.candidates.pointers().collect();
        keep_ended_children();
        let before = Mask::all().apply(libc::SIG_SETMASK).map_err(failed)?;
        let plan = Plan {
            argv: &argv,
            envp: envp.as_ptr(),
            candidates: &candidates,
            standard: sources,
            inherit: self.inherit,
            own_group: self.own_group,
            cgroup: self.cgroup.map(|fd| fd.as_raw_fd()),
            mask: self.mask.unwrap_or(&before),
            handled: handled_signals(),
            failure: Cell::new(None),
            in_cgroup: Cell::new(false),
        };
        let cloned = clone(&plan);
        before.apply(libc::SIG_SETMASK).map_err(failed)?;
        let (pid, pidfd) = cloned.map_err(failed)?;
        if let Some((stage, errno)) = plan.failure.get() {
            // It has ended, or is about to.
            let _ = wait4(pid.as_raw_nonzero().get(), 0);
            return Err(error_of(stage, errno, self.program.in_path));
        }
        Ok(Child { pid, pidfd, in_cgroup: plan.in_cgroup.get() })
    }
}

/// As timeout(1) and env(1) tell 126 from 127.
fn error_of(stage: Stage, errno: c_int, in_path: bool) -> SpawnError {
    let error = io::Error::from_raw_os_error(errno);
    match (stage, errno) {
        (Stage::SetUp, _) => SpawnError::Failed(error),
        (Stage::Execute, libc::ENOENT) => SpawnError::NotFound,
        // An entry of PATH that is no directory holds no command.
        (Stage::Execute, libc::ENOTDIR) if in_path => SpawnError::NotFound,
        (Stage::Execute, _) => SpawnError::NotExecutable(error),
    }
}

/// A descriptor that installing the other two of 0, 1 and 2 does not overwrite.
fn out_of_the_way(descriptor: BorrowedFd<'_>, target: c_int, kept: &mut Vec<OwnedFd>) -> io::Result<c_int> {
    let raw = descriptor.as_raw_fd();
    if raw > 2 || raw == target {
        return Ok(raw);
    }
    let copy = rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?;
    let raw = copy.as_raw_fd();
    kept.push(copy);
    Ok(raw)
}

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// The new process's environment: pointers to our own strings, except to those that are changed.
fn environment(changes: &[(OsString, Option<OsString>)], extra: &mut Strings) -> io::Result<Vec<*const c_char>> {
    for (name, value) in changes {
        if let Some(value) = value {
            extra.push(&[name.as_bytes(), b"=", value.as_bytes()])?;
        }
    }
    let mut pointers = Vec::with_capacity(64);
    // SAFETY: the C library's own, null or an array that ends with a null.
    let mut next = unsafe { environ };
    while !next.is_null() {
        // SAFETY: not past the null that ends the array; nobody changes it (triplock never sets a variable).
        let string = unsafe { *next };
        if string.is_null() {
            break;
        }
        // SAFETY: a C string.
        let bytes = unsafe { std::ffi::CStr::from_ptr(string) }.to_bytes();
        let is_changed =
            |name: &OsString| bytes.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"="));
        if !changes.iter().any(|(name, _)| is_changed(name)) {
            pointers.push(string);
        }
        // SAFETY: it was not the last.
        next = unsafe { next.add(1) };
    }
    pointers.extend(extra.pointers());
    pointers.push(ptr::null());
    Ok(pointers)
}

/// The new process's stack. Static, since that costs the one page that is used; on our own stack the compiler would
/// touch every page of it first.
const STACK_SIZE: usize = 64 * 1024;

#[repr(align(4096))]
struct Stack(UnsafeCell<MaybeUninit<[u8; STACK_SIZE]>>);

// SAFETY: used by whoever holds `ONE_AT_A_TIME` only.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new(MaybeUninit::uninit()));
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn clone(plan: &Plan<'_>) -> io::Result<(Pid, OwnedFd)> {
    // Nothing panics while it is held.
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: c_int = -1;
    // SAFETY: stacks grow downwards on every architecture that we support; the end of ours is aligned to a page. CLONE_VFORK
    // keeps this thread asleep until the new process has left the stack and the plan behind, so both outlive its use
    // of them. It runs `become_program` only, which keeps the rules of this file's header. The fifth argument is where
    // CLONE_PIDFD writes.
    let pid = unsafe {
        let top = STACK.0.get().cast::<u8>().add(STACK_SIZE).cast::<c_void>();
        let plan = ptr::from_ref(plan).cast_mut().cast::<c_void>();
        libc::clone(become_program, top, flags, plan, &raw mut pidfd)
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::Other))?;
    if pidfd < 0 {
        // A kernel that does not know the flag has ignored it.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let _ = wait4(pid.as_raw_nonzero().get(), 0);
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel has no pidfd, which Linux 5.3 brought"));
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The new process. It allocates nothing, takes no lock, and never returns.
extern "C" fn become_program(plan: *mut c_void) -> c_int {
    // SAFETY: `clone` passed a plan that lives on while this runs.
    let plan = unsafe { &*plan.cast::<Plan<'_>>() };
    let failure = match set_up(plan) {
        Ok(()) => (Stage::Execute, execute(plan)),
        Err(errno) => (Stage::SetUp, errno),
    };
    plan.failure.set(Some(failure));
    // SAFETY: ends this process without running anything of ours.
    unsafe { libc::_exit(127) }
}

/// Everything between the clone and the program. The descriptors, dispositions and mask that it changes are its own.
fn set_up(plan: &Plan<'_>) -> Result<(), c_int> {
    for signal in plan.handled {
        remove_handler(signal);
    }
    // Rust's runtime ignores it in us; a program in a pipeline counts on it.
    set_default(libc::SIGPIPE);
    // SAFETY: a system call on integers, which a process of any kind may make.
    if plan.own_group && unsafe { libc::setpgid(0, 0) } != 0 {
        return Err(errno());
    }
    if let Some(procs) = plan.cgroup {
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
    // SAFETY: as above; a valid set.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const plan.mask.0, ptr::null_mut()) } {
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

#[cfg(test)]
mod tests;
