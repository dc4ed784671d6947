//! `clone3(CLONE_INTO_CGROUP)` (Linux 5.7): a process that is born in a control group.
//!
//! One that writes itself into `cgroup.procs` moves, and a move waits until no process of the whole system is in the middle
//! of a fork, exec or exit: milliseconds, while its parent sleeps. A birth waits for nobody, and no instruction of the new
//! process runs outside of the group.
//!
//! The C library has no function for it. Its `clone` cannot pass a group, and `clone3` through `syscall` would come back
//! twice to the same caller: with memory in common and a stack of its own, the new process would return to an address
//! that its stack does not hold. So the few instructions after the call are ours: the old process goes on, the new one calls
//! the function that it is for, which never comes back.
#![allow(unsafe_code)]

use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::BorrowedFd,
};

/// What the new process runs.
pub(super) type Entry = extern "C" fn(*mut c_void) -> !;

/// Starts a process in the control group of that directory, with memory shared, and sleeps until it has executed a program
/// or ended: its pid and pidfd. An error has started nothing. It says that a container's filter does not let the call through
/// (ENOSYS, EPERM), that there is no code for this architecture (ENOSYS) or the kernel is older (ENOSYS, EINVAL, E2BIG), that
/// the group will not have us (EACCES, EBADF, EBUSY, ENODEV, EOPNOTSUPP), or what clone(2) would say too.
///
/// # Safety
///
/// The stack is as long as said, its end is aligned to 16 bytes, and nobody else uses it. With that argument, `entry` keeps
/// the rules for a process that shares our memory (see [`super::spawn`]).
pub(super) unsafe fn into_cgroup(
    cgroup: BorrowedFd<'_>,
    (stack, stack_size): (*mut c_void, usize),
    entry: Entry,
    argument: *mut c_void,
) -> io::Result<(libc::pid_t, c_int)> {
    // SAFETY: the caller's promises.
    unsafe { imp::into_cgroup(cgroup, (stack, stack_size), entry, argument) }
}

#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), target_pointer_width = "64"))]
mod imp {
    use std::{arch::asm, ffi::c_long, os::fd::AsRawFd as _};

    use super::{BorrowedFd, Entry, c_int, c_void, io};

    /// 2^33: it does not fit the C library's type for flags.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

    /// The kernel's `struct clone_args` up to the field that Linux 5.7 brought. All zero is a valid one.
    #[derive(Default)]
    #[repr(C, align(8))]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }

    pub(super) unsafe fn into_cgroup(
        cgroup: BorrowedFd<'_>,
        (stack, stack_size): (*mut c_void, usize),
        entry: Entry,
        argument: *mut c_void,
    ) -> io::Result<(libc::pid_t, c_int)> {
        let unusable = |_| io::Error::from_raw_os_error(libc::EBADF);
        let mut pidfd: c_int = -1;
        let arguments = Arguments {
            flags: CLONE_INTO_CGROUP
                | u64::from((libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD).unsigned_abs()),
            pidfd: (&raw mut pidfd).expose_provenance() as u64,
            exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
            // Its lowest address: unlike clone(2), this call adds the length.
            stack: stack.expose_provenance() as u64,
            stack_size: stack_size as u64,
            cgroup: u64::try_from(cgroup.as_raw_fd()).map_err(unusable)?,
            ..Arguments::default()
        };
        // SAFETY: the arguments are a valid structure of the size that is passed, which the kernel reads before it
        // returns; it writes one int, where it was told. The rest is the caller's promise.
        let result = unsafe { clone3(&arguments, entry, argument) };
        match libc::pid_t::try_from(result) {
            Ok(pid) if pid > 0 => Ok((pid, pidfd)),
            _ => Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL))),
        }
    }

    /// The call itself: a pid, or an error's negative number. In the new process it never returns: nothing that the
    /// compiler made after these instructions expects to run there, on another stack. The shared memory may have changed
    /// meanwhile, which an `asm!` without `nomem` lets the compiler know.
    ///
    /// # Safety
    ///
    /// As [`super::into_cgroup`] and `clone3` itself ask for.
    #[cfg(target_arch = "x86_64")]
    unsafe fn clone3(arguments: &Arguments, entry: Entry, argument: *mut c_void) -> c_long {
        let result;
        // SAFETY: `syscall` itself overwrites rax, rcx and r11 only; everything else that the old process had it has
        // still, since the jump skips the rest, and it pushes nothing. The new process has the same registers but an
        // empty stack of its own, which `call` finds aligned as the ABI wants it. Neither rbx nor rbp, which the compiler
        // keeps for itself, is named or changed here; what the function does with them is the new process's own copy.
        unsafe {
            asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "mov rdi, r12",
                "call r13",
                "ud2",
                "2:",
                inlateout("rax") libc::SYS_clone3 => result,
                in("rdi") arguments,
                in("rsi") size_of::<Arguments>(),
                in("r12") argument,
                in("r13") entry,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result
    }

    /// See the other.
    ///
    /// # Safety
    ///
    /// As there.
    #[cfg(target_arch = "aarch64")]
    unsafe fn clone3(arguments: &Arguments, entry: Entry, argument: *mut c_void) -> c_long {
        let result;
        // SAFETY: `svc` itself overwrites x0 only; everything else that the old process had, its link register too, it has
        // still, since the branch skips the rest. The new process has the same registers but an empty stack of its own,
        // aligned as the ABI wants it. Neither x19 nor x29, which the compiler keeps for itself, is named or changed here.
        unsafe {
            asm!(
                "svc #0",
                "cbnz x0, 2f",
                "mov x0, x9",
                "blr x10",
                "brk #1",
                "2:",
                inlateout("x0") arguments => result,
                in("x1") size_of::<Arguments>(),
                in("x8") libc::SYS_clone3,
                in("x9") argument,
                in("x10") entry,
                options(nostack),
            );
        }
        result
    }
}

#[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), target_pointer_width = "64")))]
mod imp {
    use super::{BorrowedFd, Entry, c_int, c_void, io};

    pub(super) unsafe fn into_cgroup(
        _: BorrowedFd<'_>,
        _: (*mut c_void, usize),
        _: Entry,
        _: *mut c_void,
    ) -> io::Result<(libc::pid_t, c_int)> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::UnsafeCell,
        fs::File,
        os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
    };

    use rustix::event::{PollFd, PollFlags};

    use super::*;
    use crate::process::{Cgroup, Status, alone::alone, child::wait4, wait_for};

    /// What the new process read of `/proc/self/cgroup`, before anything else.
    type Seen = UnsafeCell<[u8; 1024]>;

    extern "C" fn look(seen: *mut c_void) -> ! {
        // SAFETY: system calls on a constant and on memory of that length, which the sleeping parent passed; and the end of
        // this process.
        unsafe {
            let file = libc::open(c"/proc/self/cgroup".as_ptr(), libc::O_RDONLY);
            libc::read(file, seen, size_of::<Seen>());
            libc::_exit(7)
        }
    }

    fn born_in(cgroup: BorrowedFd<'_>) -> io::Result<String> {
        let mut stack = vec![0_u128; 4096];
        let seen: Seen = UnsafeCell::new([0; 1024]);
        // SAFETY: memory of that length, aligned to 16 bytes throughout, which is ours; `look` makes system calls only.
        let (pid, pidfd) = unsafe {
            let stack = (stack.as_mut_ptr().cast(), size_of_val(&*stack));
            into_cgroup(cgroup, stack, look, seen.get().cast())
        }?;
        assert_eq!(wait4(pid, 0).unwrap().unwrap().1.status, Status::Exited(7));
        // SAFETY: a new descriptor that nobody else has.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        assert_eq!(
            wait_for(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap(),
            1,
            "it means the one that ended"
        );
        Ok(String::from_utf8_lossy(&seen.into_inner()).trim_end_matches('\0').to_owned())
    }

    #[test]
    fn its_first_instruction_runs_in_the_group() {
        alone("process::clone3::tests::its_first_instruction_runs_in_the_group", || {
            assert!(born_in(File::open("/").unwrap().as_fd()).is_err(), "not a group");
            let Some(cgroup) = Cgroup::try_make("birth") else {
                eprintln!("SKIPPED: no control group is to be had here (none delegated, or not writable)");
                return;
            };
            let name = cgroup.path().file_name().unwrap().to_str().unwrap();
            match born_in(cgroup.as_fd()) {
                Ok(seen) => {
                    let line = seen.lines().find(|line| line.starts_with("0::")).unwrap();
                    assert!(line.ends_with(&format!("/{name}")), "{seen}");
                }
                // A kernel that made the group knows the call: a filter, or no code for this architecture.
                Err(e) if [Some(libc::ENOSYS), Some(libc::EPERM)].contains(&e.raw_os_error()) => {
                    eprintln!("SKIPPED: nobody can be born in a group here ({e})");
                }
                Err(e) => panic!("{e}"),
            }
        });
    }
}
