//! Starting a program as cheaply as the kernel can.
//!
//! `clone(CLONE_VM | CLONE_VFORK)`: the new process borrows our memory until it has become the program, and we sleep until
//! then. fork(2) would copy the page tables, and afterwards every page that either side writes to would fault. What the
//! borrowing asks for:
//!
//! - a stack of its own, since returning from the function that called `clone` would pull ours from under us;
//! - no allocation, no lock, no panic in it: another thread may hold the allocator's lock, and nobody would release it.
//!   So argument vector, environment and every path to try are prepared before;
//! - no signal handler in it, which would run on our memory: while triplock has handlers, every signal is blocked from
//!   before the clone until they are gone;
//! - its errno comes back through the shared memory, so that "not found" is known without a pipe.
//!
//! `CLONE_PIDFD` gives the descriptor that means this process and no later one of its number; who only sleeps until the
//! child's end ([`Spawn::run`]) needs none. [`Spawn::become_it`] does the same without the clone.
//!
//! Into a control group it is born where the kernel can do that ([`super::clone3`]), and moves itself before the program
//! otherwise.
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

use rustix::{fs::OFlags, process::Pid};

use super::{
    child::{Child, Ended, wait},
    clone3,
    program::{Program, Strings},
    signals::{Mask, keep_ended_children},
};
use crate::lock::handled_signals;

mod plan;

use plan::{Plan, Stage};

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
    /// Whether the kernel kills it when the thread ends that starts it: what nobody watches over any more must not go on.
    pub(crate) dies_with_us: bool,
    /// The directory of the control group to run it in. When the kernel will not have it there it runs in ours, and
    /// [`Child::in_cgroup`] says so.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// The signals that it shall hold back; those that this thread holds back when there is none.
    pub(crate) mask: Option<&'a Mask>,
}

/// Why nothing was started.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// There is no such command.
    NotFound(io::Error),
    /// It is there, and cannot be executed.
    NotExecutable(io::Error),
    /// The operating system refused before that.
    Failed(io::Error),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(_) => f.write_str("command not found"),
            Self::NotExecutable(error) => write!(f, "cannot execute: {error}"),
            Self::Failed(error) => write!(f, "cannot start a process: {error}"),
        }
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotFound(error) | Self::NotExecutable(error) | Self::Failed(error) => Some(error),
        }
    }
}

impl<'a> Spawn<'a> {
    /// A child that has all as we have it: environment, descriptors, process group, signals.
    pub(crate) fn plain(program: &'a Program) -> Self {
        Self {
            program,
            environment: &[],
            stdin: None,
            stdout: None,
            stderr: None,
            inherit: &[],
            own_group: false,
            dies_with_us: false,
            cgroup: None,
            mask: None,
        }
    }

    /// Starts it, to be watched over.
    pub(crate) fn start(&self) -> Result<Child, SpawnError> {
        let (pid, pidfd, in_cgroup) = self.begin(libc::CLONE_PIDFD)?;
        let Some(pidfd) = pidfd else {
            // A kernel that does not know the flag has ignored it.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let _ = wait(pid);
            let missing = "this kernel has no pidfd, which Linux 5.3 brought";
            return Err(SpawnError::Failed(io::Error::new(io::ErrorKind::Unsupported, missing)));
        };
        Ok(Child { pid, pidfd, in_cgroup })
    }

    /// Starts it, and sleeps until it has ended. The inner error: it ran, and nobody can tell how it ended.
    pub(crate) fn run(&self) -> Result<io::Result<Ended>, SpawnError> {
        let (pid, ..) = self.begin(0)?;
        Ok(wait(pid))
    }

    /// Becomes it. Returns only to say why that failed; this process has then been prepared for it in vain.
    pub(crate) fn become_it(&self) -> SpawnError {
        match self.planned(&[], self.mask, |plan| plan.carry_out()) {
            Ok((stage, errno)) => error_of(stage, errno, self.program.in_path),
            Err(error) => error,
        }
    }

    /// The new process, its descriptor if `flags` asked for that, and whether it is in the control group.
    fn begin(&self, flags: c_int) -> Result<(Pid, Option<OwnedFd>, bool), SpawnError> {
        let failed = SpawnError::Failed;
        let handled = handled_signals();
        let before =
            if handled.is_empty() { None } else { Some(Mask::all().apply(libc::SIG_SETMASK).map_err(failed)?) };
        let cloned = self.planned(&handled, self.mask.or(before.as_ref()), |plan| {
            let cloned = match self.cgroup {
                None => clone(plan, flags),
                Some(cgroup) => clone_into(cgroup, plan, flags),
            };
            (cloned, plan.failure.get(), plan.in_cgroup.get())
        });
        if let Some(before) = before {
            before.apply(libc::SIG_SETMASK).map_err(failed)?;
        }
        let (cloned, failure, in_cgroup) = cloned?;
        let (pid, pidfd) = cloned.map_err(failed)?;
        if let Some((stage, errno)) = failure {
            // It has ended, or is about to.
            let _ = wait(pid);
            return Err(error_of(stage, errno, self.program.in_path));
        }
        Ok((pid, pidfd, in_cgroup))
    }

    /// Hands the plan to `go`, and lives as long as that takes.
    fn planned<T>(
        &self,
        handled: &[c_int],
        mask: Option<&Mask>,
        go: impl FnOnce(&mut Plan<'_>) -> T,
    ) -> Result<T, SpawnError> {
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
        let changed = match self.environment {
            [] => None,
            changes => Some(environment(changes, &mut extra).map_err(failed)?),
        };
        let argv: Vec<Cell<*const c_char>> = std::iter::once(SHELL.as_ptr().cast())
            .chain(self.program.arguments.pointers())
            .chain([ptr::null()])
            .map(Cell::new)
            .collect();
        let candidates: Vec<*const c_char> = self.program.candidates.pointers().collect();
        keep_ended_children();
        Ok(go(&mut Plan {
            argv: &argv,
            // SAFETY: the C library's own; nobody changes it (triplock never sets a variable).
            envp: changed.as_ref().map_or(unsafe { environ }, Vec::as_ptr),
            candidates: &candidates,
            standard: sources,
            inherit: self.inherit,
            own_group: self.own_group,
            dies_with_us: self.dies_with_us,
            procs: None,
            mask,
            handled,
            failure: Cell::new(None),
            in_cgroup: Cell::new(false),
        }))
    }
}

/// As timeout(1) and env(1) tell 126 from 127.
fn error_of(stage: Stage, errno: c_int, in_path: bool) -> SpawnError {
    let error = io::Error::from_raw_os_error(errno);
    match (stage, errno) {
        (Stage::SetUp, _) => SpawnError::Failed(error),
        (Stage::Execute, libc::ENOENT) => SpawnError::NotFound(error),
        // An entry of PATH that is no directory holds no command.
        (Stage::Execute, libc::ENOTDIR) if in_path => SpawnError::NotFound(error),
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

/// Makes the new process; with `CLONE_PIDFD` among the flags also its descriptor, where the kernel has those.
fn clone(plan: &Plan<'_>, flags: c_int) -> io::Result<(Pid, Option<OwnedFd>)> {
    // Nothing panics while it is held.
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | flags;
    let mut pidfd: c_int = -1;
    // SAFETY: stacks grow downwards on every architecture that we support; the end of ours is aligned to a page. CLONE_VFORK
    // keeps this thread asleep until the new process has left the stack and the plan behind, so both outlive its use
    // of them. It runs `become_program` only, which keeps the rules of this file's header. The fifth argument is where
    // CLONE_PIDFD writes.
    let pid = unsafe {
        let top = STACK.0.get().cast::<u8>().add(STACK_SIZE).cast::<c_void>();
        libc::clone(cloned, top, flags, address(plan), &raw mut pidfd)
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    started(pid, pidfd)
}

/// Starts it as a member of that control group.
fn clone_into(cgroup: BorrowedFd<'_>, plan: &mut Plan<'_>, flags: c_int) -> io::Result<(Pid, Option<OwnedFd>)> {
    let born = {
        let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the stack is that long, its end aligned to a page, and ours while the lock is held; the rest as in `clone`.
        unsafe { clone3::into_cgroup(cgroup, (STACK.0.get().cast(), STACK_SIZE), become_program, address(plan)) }
    };
    if let Ok((pid, pidfd)) = born {
        plan.in_cgroup.set(true);
        return started(pid, pidfd);
    }
    // Whatever it was: if it had nothing to do with the group or the call, the older call says it again.
    let writable = OFlags::WRONLY | OFlags::CLOEXEC;
    let procs = rustix::fs::openat(cgroup, "cgroup.procs", writable, rustix::fs::Mode::empty()).ok();
    plan.procs = procs.as_ref().map(std::os::fd::AsRawFd::as_raw_fd);
    clone(plan, flags)
}

/// As the argument of the new process.
fn address(plan: &Plan<'_>) -> *mut c_void {
    ptr::from_ref(plan).cast_mut().cast()
}

/// What a clone gave; a negative descriptor is none.
fn started(pid: libc::pid_t, pidfd: c_int) -> io::Result<(Pid, Option<OwnedFd>)> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::Other))?;
    // SAFETY: a new descriptor that nobody else has.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok((pid, pidfd))
}

extern "C" fn cloned(plan: *mut c_void) -> c_int {
    become_program(plan)
}

/// The new process. It allocates nothing, takes no lock, and never returns.
extern "C" fn become_program(plan: *mut c_void) -> ! {
    // SAFETY: `clone` or `clone_into` passed a plan that lives on while this runs.
    let plan = unsafe { &*plan.cast::<Plan<'_>>() };
    plan.failure.set(Some(plan.carry_out()));
    // SAFETY: ends this process without running anything of ours.
    unsafe { libc::_exit(127) }
}

#[cfg(test)]
mod tests;
