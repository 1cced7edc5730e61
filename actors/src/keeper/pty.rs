//! Opens a terminal and starts a program on it: the only place of the keeper that needs `unsafe`.
//!
//! The pty is opened and sized with portable-pty. The program is started the way `posix_spawn` does it, `clone` (or
//! `clone3`, which begins in a cgroup: moving there later waits for the whole machine, milliseconds) with
//! `CLONE_VM | CLONE_VFORK` on a stack of its own, and not with portable-pty's `spawn_command`, which forks the whole
//! address space, lists `/dev/fd` and loses the error of `exec`. Written out here it can do what `posix_spawn` cannot:
//! enter a cgroup before the program's first instruction, restore limits, and say exactly which step failed. The cost
//! does not depend on the number of shells or the size of the process.
//!
//! The pty's writer of portable-pty is never taken: dropping it would type an end-of-file into the shell.

use std::ffi::{CString, NulError, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use portable_pty::{MasterPty, PtyPair, PtySize, native_pty_system};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource, Rlimit};
use rustix::termios::{InputModes, OptionalActions};

use super::types::{Status, Usage};

/// The child's stack between `clone` and `exec`: it runs a handful of system calls.
const CHILD_STACK: usize = 64 << 10;
/// `clone3` begins in a cgroup; the C library's crate has it in a type that is too narrow.
#[cfg(target_arch = "x86_64")]
const CLONE_INTO_CGROUP: u64 = 1 << 33;
/// The highest signal number.
const LAST_SIGNAL: c_int = 64;
/// The length of the kernel's signal set, in bytes.
const SIGNAL_SET: usize = 8;

/// A terminal of which we hold the outer end.
pub(super) struct Pty {
    master: Box<dyn MasterPty + Send>,
}

impl std::fmt::Debug for Pty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pty").field("fd", &self.master.as_raw_fd()).finish_non_exhaustive()
    }
}

fn size(columns: u16, rows: u16) -> PtySize {
    PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 }
}

impl Pty {
    /// Opens a terminal; non-blocking and close-on-exec at our end, UTF-8 aware at the other.
    ///
    /// # Errors
    /// What the system says when it has no pty or descriptor left.
    pub(super) fn open(columns: u16, rows: u16) -> io::Result<OpenPty> {
        let pair = native_pty_system().openpty(size(columns, rows)).map_err(|error| {
            // portable-pty has flattened the cause into text by now; `errno` is still the one of `openpty`.
            let cause = io::Error::last_os_error();
            io::Error::new(cause.kind(), format!("{error:#}"))
        })?;
        let pty = OpenPty { pair };
        rustix::io::ioctl_fionbio(pty.fd()?, true)?;
        let mut modes = rustix::termios::tcgetattr(pty.fd()?)?;
        // Else Backspace in cooked mode erases one byte of a character.
        modes.input_modes |= InputModes::IUTF8;
        rustix::termios::tcsetattr(pty.fd()?, OptionalActions::Now, &modes)?;
        Ok(pty)
    }

    /// Our end.
    pub(super) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        borrow(&*self.master)
    }

    /// Sets the size; the foreground process group is told by the kernel.
    pub(super) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        self.master.resize(size(columns, rows)).map_err(|error| io::Error::other(format!("{error:#}")))
    }

    /// The foreground process group.
    pub(super) fn foreground(&self) -> Option<Pid> {
        self.master.process_group_leader().and_then(Pid::from_raw)
    }
}

fn borrow(master: &(dyn MasterPty + Send)) -> io::Result<BorrowedFd<'_>> {
    let fd = master.as_raw_fd().ok_or(io::ErrorKind::Unsupported)?;
    // SAFETY: portable-pty keeps the descriptor open as long as `master` lives, which the result borrows.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Both ends of a terminal, between opening it and starting a program on it.
pub(super) struct OpenPty {
    pair: PtyPair,
}

impl OpenPty {
    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        borrow(&*self.pair.master)
    }

    /// Gives up the other end, now that a program holds it.
    pub(super) fn into_ours(self) -> Pty {
        Pty { master: self.pair.master }
    }
}

/// A program that is ready to be started: everything that needs memory is done before the child exists.
pub(super) struct Launch {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    cwd: CString,
}

/// Which step of a start failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    Clone,
    Session,
    Terminal,
    Cgroup,
    Directory,
    Program,
}

/// Why a program was not started.
#[derive(Debug)]
pub(super) struct LaunchError {
    pub(super) step: Step,
    pub(super) source: io::Error,
}

/// A process that was started.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
}

impl Launch {
    /// Prepares `program`, which is a path; `argv` includes the program's own name.
    ///
    /// # Errors
    /// When one of the texts holds a NUL.
    pub(super) fn new(
        program: &Path,
        argv: &[&str],
        environment: &[(String, String)],
        cwd: &str,
    ) -> Result<Self, NulError> {
        use std::os::unix::ffi::OsStrExt;
        Ok(Self {
            program: CString::new(program.as_os_str().as_bytes())?,
            arguments: argv.iter().map(|text| CString::new(*text)).collect::<Result<_, _>>()?,
            environment: environment
                .iter()
                .map(|(name, value)| CString::new(format!("{name}={value}")))
                .collect::<Result<_, _>>()?,
            cwd: CString::new(cwd)?,
        })
    }

    /// Starts the program as the leader of a new session on the terminal, in the cgroup whose directory is given.
    /// It gets exactly its environment, the terminal as 0, 1 and 2 and no other descriptor, no ignored and no blocked
    /// signal, and `open_files` as its soft limit of open files. Returns when it has been executed, or has failed to.
    ///
    /// # Errors
    /// The step that failed; no process is left then.
    pub(super) fn start(
        &self,
        pty: &OpenPty,
        cgroup: Option<BorrowedFd<'_>>,
        open_files: Option<u64>,
    ) -> Result<Child, LaunchError> {
        let tty = pty
            .pair
            .master
            .tty_name()
            .and_then(|path| {
                use std::os::unix::ffi::OsStringExt;
                CString::new(path.into_os_string().into_vec()).ok()
            })
            .ok_or(LaunchError { step: Step::Terminal, source: io::ErrorKind::NotFound.into() })?;
        let pointers = |texts: &[CString]| -> Vec<*const c_char> {
            texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&self.arguments), pointers(&self.environment));
        let present = rustix::process::getrlimit(Resource::Nofile);
        let wanted = open_files.map(|soft| Rlimit { current: Some(soft), maximum: present.maximum });
        let mut plan = Plan {
            program: self.program.as_ptr(),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            cwd: self.cwd.as_ptr(),
            tty: tty.as_ptr(),
            cgroup: -1,
            limit: wanted.map(|limit| libc::rlimit {
                rlim_cur: limit.current.unwrap_or(libc::RLIM_INFINITY),
                rlim_max: limit.maximum.unwrap_or(libc::RLIM_INFINITY),
            }),
            failed: None,
        };
        let (pid, pidfd) = split(&mut plan, cgroup)?;
        let child = Child { pid, pidfd };
        match plan.failed {
            None => Ok(child),
            Some((step, errno)) => {
                // It has ended or is about to; blocks for no longer than that.
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
                Err(LaunchError { step, source: io::Error::from_raw_os_error(errno) })
            }
        }
    }
}

/// Makes the child, which runs [`child_main`] and has executed the program or ended when this returns.
fn split(plan: &mut Plan, cgroup: Option<BorrowedFd<'_>>) -> Result<(Pid, OwnedFd), LaunchError> {
    let failed = |step, source| LaunchError { step, source };
    let mut stack: Vec<u128> = Vec::with_capacity(CHILD_STACK / size_of::<u128>());
    let mut pidfd: c_int = -1;
    let _blocked = SignalsBlocked::new();
    let mut pid = None;
    #[cfg(target_arch = "x86_64")]
    if let Some(cgroup) = cgroup {
        // SAFETY: as below.
        pid = unsafe { split_into(cgroup, plan, &mut stack, &mut pidfd) };
    }
    let mut entrance = None;
    if pid.is_none()
        && let Some(cgroup) = cgroup
    {
        // Not possible there: the child moves there by itself.
        let opened = rustix::fs::openat(cgroup, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let opened = entrance.insert(opened.map_err(|error| failed(Step::Cgroup, error.into()))?);
        plan.cgroup = opened.as_raw_fd();
    }
    let pid = match pid {
        Some(pid) => pid,
        // SAFETY: the child runs `child_main` on `stack`, which is large enough, 16-aligned and outlives it: `CLONE_VFORK`
        // suspends this thread until the child has executed the program or ended. It shares our memory but writes only
        // to its stack, `plan.failed` and `errno`, takes no lock and allocates nothing. All signals are blocked, so that
        // no handler runs in it before the dispositions are reset.
        None => unsafe {
            libc::clone(
                child_main,
                stack.as_mut_ptr().add(stack.capacity()).cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD,
                std::ptr::from_mut(plan).cast(),
                &raw mut pidfd,
            )
        },
    };
    if pid < 0 {
        return Err(failed(Step::Clone, io::Error::last_os_error()));
    }
    let pid = Pid::from_raw(pid).ok_or_else(|| failed(Step::Clone, io::ErrorKind::Other.into()))?;
    // SAFETY: `CLONE_PIDFD` has put a fresh descriptor there, which nobody else owns.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Makes the child in `cgroup` from its first instruction on; nothing where the system cannot do that (before Linux 5.7, or
/// where it is not allowed).
///
/// # Safety
/// As for `clone` in [`split`], which see.
#[cfg(target_arch = "x86_64")]
unsafe fn split_into(
    cgroup: BorrowedFd<'_>,
    plan: &mut Plan,
    stack: &mut Vec<u128>,
    pidfd: &mut c_int,
) -> Option<libc::pid_t> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
    // SAFETY: plain data, for which all zero means "not asked for".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(flags.cast_unsigned()) | CLONE_INTO_CGROUP;
    arguments.pidfd = std::ptr::from_mut(pidfd) as u64;
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    arguments.stack = stack.as_mut_ptr() as u64;
    arguments.stack_size = (stack.capacity() * size_of::<u128>()) as u64;
    arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    let result: i64;
    // SAFETY: the C library has no function for this call. The child begins behind the instruction with the same registers
    // and a stack of its own, and calls `child_main`, which does not return: it executes or ends. The parent goes on at 2.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") std::ptr::from_mut(plan),
            in("r13") child_main as extern "C" fn(*mut c_void) -> c_int,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    libc::pid_t::try_from(result).ok().filter(|pid| *pid > 0)
}

/// What the child needs, all of it prepared: it may not allocate.
struct Plan {
    program: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    cwd: *const c_char,
    tty: *const c_char,
    /// Where it writes itself into, to move to a cgroup; -1 when it need not.
    cgroup: RawFd,
    limit: Option<libc::rlimit>,
    /// The child's only way to speak: the step that failed, and its `errno`.
    failed: Option<(Step, c_int)>,
}

/// What the child does between `clone` and `exec`.
extern "C" fn child_main(plan: *mut c_void) -> c_int {
    // SAFETY: `Launch::start` passes its `Plan`, which lives until this process has executed or ended, and does not
    // touch it meanwhile. Only system calls that are safe between fork and exec are made; their pointers are into
    // `Plan` or to values of this frame.
    unsafe {
        let plan = &mut *plan.cast::<Plan>();
        let mut fail = |step| {
            plan.failed = Some((step, *libc::__errno_location()));
            libc::_exit(127)
        };
        if libc::setsid() < 0 {
            fail(Step::Session);
        }
        // The first terminal that a session leader opens becomes its controlling terminal.
        let tty = libc::open(plan.tty, libc::O_RDWR | libc::O_CLOEXEC);
        if tty < 0 || libc::ioctl(tty, libc::TIOCSCTTY, 0) < 0 {
            fail(Step::Terminal);
        }
        for fd in 0..3 {
            if tty != fd && libc::dup2(tty, fd) < 0 {
                fail(Step::Terminal);
            }
        }
        if tty < 3 && libc::fcntl(tty, libc::F_SETFD, 0) < 0 {
            fail(Step::Terminal);
        }
        if plan.cgroup >= 0 && libc::write(plan.cgroup, c"0".as_ptr().cast(), 1) != 1 {
            fail(Step::Cgroup);
        }
        if let Some(limit) = &plan.limit {
            libc::setrlimit(libc::RLIMIT_NOFILE, limit);
        }
        if libc::chdir(plan.cwd) < 0 {
            fail(Step::Directory);
        }
        // Ours are close-on-exec all; this is for what a library opened without. An older kernel does not have it.
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        // The kernel's `struct sigaction` (at most four words), all zero: the default. By the raw call, because the C
        // library keeps two signals to itself, which may be inherited as ignored all the same. KILL and STOP fail.
        let default = [0_u64; 4];
        for signal in 1..=LAST_SIGNAL {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), SIGNAL_SET);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        libc::execve(plan.program, plan.argv, plan.envp);
        fail(Step::Program)
    }
}

/// All signals blocked in this thread until it is dropped.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> Self {
        // SAFETY: both sets are initialised by the calls before they are read.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            Self(before)
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set is the one that was in force before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

/// Reaps a child of ours that has ended: how, and what it used. `None` while it runs.
///
/// # Errors
/// What `wait4` says: `ECHILD` when somebody else has reaped it.
pub(super) fn reap(pid: Pid) -> io::Result<Option<(Status, Usage)>> {
    let mut status = 0;
    // SAFETY: both results are values of this frame, and plain data for which all zero is valid.
    let (reaped, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid.as_raw_nonzero().get(), &mut status, libc::WNOHANG, &mut usage), usage)
    };
    match reaped {
        0 => Ok(None),
        reaped if reaped < 0 => Err(io::Error::last_os_error()),
        _ => {
            let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
            let used = Usage {
                cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
                memory_peak: u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10,
            };
            let status = if libc::WIFSIGNALED(status) {
                Status::Signalled { signal: libc::WTERMSIG(status) }
            } else {
                Status::Exited { code: libc::WEXITSTATUS(status) }
            };
            Ok(Some((status, used)))
        }
    }
}

/// The length of what the descriptor of [`signals`] gives for each signal; it begins with the signal's number.
pub(super) const SIGNAL_INFO: usize = size_of::<libc::signalfd_siginfo>();

/// A descriptor that becomes readable when a child has ended or this process is asked to; `SIGCHLD` and `SIGTERM` are
/// blocked in this thread from now on.
///
/// # Errors
/// What the system says when it has no descriptor left.
pub(super) fn signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised before it is read; the descriptor is fresh and ours.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// A child of this process that has ended and was not reaped yet; it is left as it is.
pub(super) fn ended_child() -> Option<Pid> {
    // SAFETY: `info` is a value of this frame, and plain data for which all zero is valid; `si_pid` is what `waitid`
    // fills in, and zero when there is none.
    let pid = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_ALL, 0, &mut info, look) < 0 {
            return None;
        }
        info.si_pid()
    };
    Pid::from_raw(pid)
}

/// Closes every descriptor from 3 on. For the very beginning of a process, when nothing of ours is open.
pub(super) fn close_inherited() {
    // SAFETY: the caller has opened nothing yet, so nobody owns what is closed.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

/// Splits the process in two; `true` in the new one.
///
/// # Errors
/// What the system says when it has no process left.
pub(super) fn fork() -> io::Result<bool> {
    // SAFETY: the caller is `process::run`, before the process has a second thread, so that no lock is held for ever.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(program: &str, argv: &[&str], cwd: &str) -> Result<(Child, Pty), LaunchError> {
        let pty = Pty::open(80, 24).expect("a pty");
        let launch = Launch::new(Path::new(program), argv, &[], cwd).expect("no NUL");
        let child = launch.start(&pty, None, None)?;
        Ok((child, pty.into_ours()))
    }

    fn wait(child: &Child) -> Status {
        let mut fds = [rustix::event::PollFd::new(&child.pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).expect("poll");
        reap(child.pid).expect("ours").expect("it has ended").0
    }

    #[test]
    fn exit_codes_and_signals_are_true() {
        for (script, status) in [
            ("exit 0", Status::Exited { code: 0 }),
            ("exit 7", Status::Exited { code: 7 }),
            ("kill -TERM $$", Status::Signalled { signal: 15 }),
        ] {
            let (child, _pty) = start("/bin/sh", &["sh", "-c", script], "/").expect("started");
            assert_eq!(wait(&child), status, "{script}");
        }
    }

    #[test]
    fn a_failed_start_says_which_step_and_leaves_no_process() {
        for (program, cwd, step, kind) in [
            ("/does/not/exist", "/", Step::Program, io::ErrorKind::NotFound),
            ("/etc/passwd", "/", Step::Program, io::ErrorKind::PermissionDenied),
            ("/bin/sh", "/does/not/exist", Step::Directory, io::ErrorKind::NotFound),
        ] {
            let error = start(program, &["x"], cwd).expect_err("it cannot start");
            assert_eq!((error.step, error.source.kind()), (step, kind));
        }
        assert!(rustix::process::wait(rustix::process::WaitOptions::NOHANG).is_err(), "no child is left");
    }
}
