// SPDX-License-Identifier: GPL-2.0-only
//! System calls in the exact form that a scenario needs. Unsafe code of the tests is here, as far as it is not about memory (`absent`,
//! `shared`) or io_uring.

use std::ffi::c_void;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{c_int, sigaction};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

/// Turns a negative result into the error it stands for.
fn checked(result: isize) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

/// recv(2) with flags.
pub fn recv(socket: &impl AsRawFd, buffer: &mut [u8], flags: c_int) -> Result<usize> {
    let (start, length) = (buffer.as_mut_ptr().cast::<c_void>(), buffer.len());
    // SAFETY: `start` and `length` describe `buffer`, which nobody else uses during the call.
    checked(unsafe { libc::recv(socket.as_raw_fd(), start, length, flags) })
}

/// recv(2) with MSG_TRUNC and no buffer: throws away up to `length` bytes.
pub fn discard(socket: &impl AsRawFd, length: usize, flags: c_int) -> Result<usize> {
    let nowhere = std::ptr::null_mut();
    // SAFETY: with MSG_TRUNC the kernel writes nothing for a stream socket.
    checked(unsafe { libc::recv(socket.as_raw_fd(), nowhere, length, flags | libc::MSG_TRUNC) })
}

/// recv(2) into memory that is not mapped.
pub fn recv_nowhere(socket: &impl AsRawFd, length: usize) -> Result<usize> {
    let unmapped = std::ptr::without_provenance_mut(8);
    // SAFETY: page 0 is never mapped (mmap_min_addr), so the kernel answers EFAULT and touches no memory of ours.
    checked(unsafe { libc::recv(socket.as_raw_fd(), unmapped, length, libc::MSG_DONTWAIT) })
}

/// send(2) with flags.
pub fn send(socket: &impl AsRawFd, buffer: &[u8], flags: c_int) -> Result<usize> {
    let (start, length) = (buffer.as_ptr().cast::<c_void>(), buffer.len());
    // SAFETY: `start` and `length` describe `buffer`.
    checked(unsafe { libc::send(socket.as_raw_fd(), start, length, flags) })
}

/// send(2) from memory that is not mapped.
pub fn send_nowhere(socket: &impl AsRawFd, length: usize) -> Result<usize> {
    let unmapped = std::ptr::without_provenance(8);
    // SAFETY: page 0 is never mapped (mmap_min_addr), so the kernel answers EFAULT.
    checked(unsafe { libc::send(socket.as_raw_fd(), unmapped, length, libc::MSG_NOSIGNAL) })
}

/// Memory right behind which nothing is mapped.
#[derive(Debug)]
pub struct Cliff {
    start: *mut c_void,
    length: usize,
}

impl Cliff {
    /// `length` bytes, whole pages, and as many behind them that may not be touched.
    pub fn new(length: usize) -> Result<Self> {
        let (read_write, private) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping disturbs no other.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                2 * length,
                libc::PROT_NONE,
                private,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let cliff = Self { start, length };
        // SAFETY: the first half of the mapping just made.
        checked(unsafe { libc::mprotect(start, length, read_write) } as isize)?;
        Ok(cliff)
    }

    /// Where the last `there` bytes begin.
    fn at(&self, there: usize) -> *mut c_void {
        assert!(there <= self.length);
        self.start.wrapping_byte_add(self.length - there)
    }

    /// The last `there` bytes.
    pub fn last(&mut self, there: usize) -> &mut [u8] {
        // SAFETY: within the readable half, and borrowed from it.
        unsafe { std::slice::from_raw_parts_mut(self.at(there).cast(), there) }
    }

    /// send(2) of `length` bytes, of which only the first `there` are mapped.
    pub fn send(&self, socket: &impl AsRawFd, there: usize, length: usize) -> Result<usize> {
        assert!(length - there <= self.length);
        // SAFETY: the kernel checks the memory it reads; the mapping is ours.
        checked(unsafe {
            libc::send(
                socket.as_raw_fd(),
                self.at(there),
                length,
                libc::MSG_NOSIGNAL,
            )
        })
    }

    /// recv(2) of `length` bytes, of which only the first `there` are mapped.
    pub fn recv(&mut self, socket: &impl AsRawFd, there: usize, length: usize) -> Result<usize> {
        assert!(length - there <= self.length);
        // SAFETY: the kernel checks the memory it writes; the mapping is ours and borrowed by nobody.
        checked(unsafe { libc::recv(socket.as_raw_fd(), self.at(there), length, 0) })
    }
}

impl Drop for Cliff {
    fn drop(&mut self) {
        // SAFETY: our own mapping, no longer borrowed.
        unsafe { libc::munmap(self.start, 2 * self.length) };
    }
}

/// sendmsg(2) with one SO_TIMESTAMPING control message that asks for a software transmit time stamp.
pub fn send_with_timestamp(socket: &impl AsRawFd, buffer: &[u8]) -> Result<usize> {
    send_with_stamps(socket, buffer, libc::SOF_TIMESTAMPING_TX_SOFTWARE)
}

/// The same, and it asks for none: a control message alone makes a message TCP's. Nothing keeps a copy of it, so that TCP may join it with others.
pub fn send_by_tcp(socket: &impl AsRawFd, buffer: &[u8]) -> Result<usize> {
    send_with_stamps(socket, buffer, 0)
}

fn send_with_stamps(socket: &impl AsRawFd, buffer: &[u8], flags: u32) -> Result<usize> {
    let mut part = libc::iovec {
        iov_base: buffer.as_ptr().cast_mut().cast(),
        iov_len: buffer.len(),
    };
    let mut control = [0_u64; 3];
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: `control` is aligned for cmsghdr and has room for one header and a u32 (CMSG_SPACE(4) = 24 bytes).
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SO_TIMESTAMPING;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header).cast::<u32>().write_unaligned(flags);
    }
    // SAFETY: `message` points at `part`, `buffer` and `control`, all alive until the call returns.
    checked(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) })
}

/// recvmsg(2): how many bytes, and whether a time stamp (SO_TIMESTAMP) came with them.
pub fn recv_with_timestamp(socket: &impl AsRawFd, buffer: &mut [u8]) -> Result<(usize, bool)> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = [0_u64; 8];
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: `message` points at `part`, `buffer` and `control`, all alive until the call returns.
    let count = checked(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) })?;
    // SAFETY: the kernel filled `message` in; a header it gives lies within `control`.
    let stamped = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        !header.is_null() && (*header).cmsg_type == libc::SCM_TIMESTAMP
    };
    Ok((count, stamped))
}

/// Has this process allowed at least so many descriptors.
pub fn need_descriptors(count: usize) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = most.max(count as u64);
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// SO_ATTACH_FILTER with a program that lets at most `length` bytes of each packet through (0 drops it).
pub fn attach_filter(socket: &impl AsRawFd, length: u32) -> Result<()> {
    let mut program = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: length,
    }];
    let filter = libc::sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    let (start, length) = ((&raw const filter).cast(), size_of_val(&filter) as u32);
    let socket = socket.as_raw_fd();
    // SAFETY: `start` and `length` describe `filter`, which points at `program`; the kernel copies both.
    checked(unsafe { libc::setsockopt(socket, level, name, start, length) } as isize).map(drop)
}

/// What TCP_INFO says about bytes.
#[derive(Clone, Copy, Debug)]
pub struct ByteCounts {
    /// `tcpi_bytes_sent`.
    pub sent: u64,
    /// `tcpi_bytes_acked`.
    pub acked: u64,
    /// `tcpi_bytes_received`.
    pub received: u64,
}

/// As long as the kernels know, or longer.
type TcpInfo = [u8; 256];

/// TCP_INFO.
pub fn byte_counts(socket: &impl AsRawFd) -> Result<ByteCounts> {
    /// Offsets in `struct tcp_info` (linux/tcp.h), which only grows at its end.
    const ACKED: usize = 120;
    const RECEIVED: usize = 128;
    const SENT: usize = 200;
    let info = tcp_info(socket)?;
    let field = |at: usize| {
        let bytes = info[at..at + 8].try_into().expect("eight bytes");
        u64::from_ne_bytes(bytes)
    };
    Ok(ByteCounts {
        sent: field(SENT),
        acked: field(ACKED),
        received: field(RECEIVED),
    })
}

/// Segments that TCP sent again, of TCP_INFO; at the end that accepted, a SYN-ACK counts as well.
pub fn segments_sent_again(socket: &impl AsRawFd) -> Result<u32> {
    /// `tcpi_total_retrans` in `struct tcp_info`.
    const TOTAL_RETRANS: usize = 100;
    let info = tcp_info(socket)?;
    let bytes = info[TOTAL_RETRANS..TOTAL_RETRANS + 4].try_into();
    Ok(u32::from_ne_bytes(bytes.expect("four bytes")))
}

fn tcp_info(socket: &impl AsRawFd) -> Result<TcpInfo> {
    let mut info: TcpInfo = [0; 256];
    let mut length = size_of_val(&info) as u32;
    let start = info.as_mut_ptr().cast();
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
    let socket = socket.as_raw_fd();
    // SAFETY: `start` and `length` describe `info`.
    let result = unsafe { libc::getsockopt(socket, level, name, start, &raw mut length) };
    checked(result as isize)?;
    Ok(info)
}

/// setsockopt(2) with an int.
pub fn set_option(socket: &impl AsRawFd, level: c_int, name: c_int, value: c_int) -> Result<()> {
    let (start, length) = ((&raw const value).cast(), size_of_val(&value) as u32);
    // SAFETY: `start` and `length` describe `value`.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, start, length) } as isize)
        .map(drop)
}

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct Md5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: c_int,
    key: [u8; 80],
}

/// TCP_MD5SIG: one fixed key for segments from and to `peer`.
pub fn set_md5(socket: &impl AsRawFd, peer: &std::net::SocketAddr) -> Result<()> {
    const KEY: &[u8] = b"tcp-splice";
    let address = socket2::SockAddr::from(*peer);
    let mut request = Md5Sig {
        // SAFETY: SockAddr keeps a whole sockaddr_storage, which is what both sides are.
        address: unsafe { *address.as_ptr().cast::<libc::sockaddr_storage>() },
        flags: 0,
        prefix_length: 0,
        key_length: KEY.len() as u16,
        interface: 0,
        key: [0; 80],
    };
    request.key[..KEY.len()].copy_from_slice(KEY);
    let (start, length) = ((&raw const request).cast(), size_of_val(&request) as u32);
    let socket = socket.as_raw_fd();
    // SAFETY: `start` and `length` describe `request`.
    checked(
        unsafe { libc::setsockopt(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, start, length) }
            as isize,
    )
    .map(drop)
}

/// setsockopt(2) of SO_RCVTIMEO or SO_SNDTIMEO in milliseconds.
pub fn set_timeout(socket: &impl AsRawFd, name: c_int, milliseconds: i64) -> Result<()> {
    let value = libc::timeval {
        tv_sec: milliseconds / 1000,
        tv_usec: milliseconds % 1000 * 1000,
    };
    let (start, length) = ((&raw const value).cast(), size_of_val(&value) as u32);
    let socket = socket.as_raw_fd();
    // SAFETY: `start` and `length` describe `value`.
    checked(unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, name, start, length) } as isize)
        .map(drop)
}

/// FIONREAD: how many bytes can be read now.
pub fn readable_bytes(socket: &impl AsRawFd) -> Result<usize> {
    count(socket, libc::FIONREAD)
}

/// SIOCOUTQ: how many bytes TCP has not been told to have arrived.
pub fn unacknowledged_bytes(socket: &impl AsRawFd) -> Result<usize> {
    count(socket, libc::TIOCOUTQ)
}

fn count(socket: &impl AsRawFd, request: libc::Ioctl) -> Result<usize> {
    let mut count: c_int = 0;
    // SAFETY: both callers' requests write one int.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut count) } as isize)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// connect(2) with AF_UNSPEC: ends the connection and gives a socket that can connect again.
pub fn disconnect(socket: &impl AsRawFd) -> Result<()> {
    // SAFETY: an all-zero sockaddr is valid and means AF_UNSPEC.
    let address: libc::sockaddr = unsafe { std::mem::zeroed() };
    let length = size_of_val(&address) as u32;
    // SAFETY: `address` lives through the call and has `length` bytes.
    checked(unsafe { libc::connect(socket.as_raw_fd(), &raw const address, length) } as isize)
        .map(drop)
}

/// fcntl(2) so that the process gets `signal` whenever `socket` becomes ready.
pub fn signal_when_ready(socket: &impl AsRawFd, signal: c_int) -> Result<()> {
    let socket = socket.as_raw_fd();
    let control = |command: c_int, value: c_int| {
        // SAFETY: these commands take one int.
        checked(unsafe { libc::fcntl(socket, command, value) } as isize)
    };
    control(libc::F_SETOWN, std::process::id() as i32)?;
    control(10 /* F_SETSIG */, signal)?;
    let flags = control(libc::F_GETFL, 0)? as c_int;
    control(libc::F_SETFL, flags | libc::O_ASYNC).map(drop)
}

/// Signals caught by [`catch`] so far.
pub static CAUGHT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count_signal(_signal: c_int) {
    CAUGHT.fetch_add(1, Ordering::SeqCst);
}

/// Counts `signal` in [`CAUGHT`] from now on, with or without SA_RESTART.
pub fn catch(signal: c_int, restart: bool) -> Result<()> {
    // SAFETY: an all-zero sigaction is a valid start.
    let mut action: sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count_signal as extern "C" fn(c_int) as usize;
    action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
    // SAFETY: the handler only adds to an atomic, which is safe in a signal handler.
    checked(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } as isize)
        .map(drop)
}

/// The calling thread's id.
pub fn thread_id() -> i32 {
    // SAFETY: gettid has no arguments and cannot fail.
    unsafe { libc::gettid() }
}

/// Sends `signal` to one thread of this process.
pub fn signal_thread(thread: i32, signal: c_int) -> Result<()> {
    let process = std::process::id() as i32;
    // SAFETY: tgkill takes three ints.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
    checked(result as isize).map(drop)
}

/// Has waits for an epoll set spin for `us` microseconds (EPIOCSPARAMS), and its device put interrupts off meanwhile if it is to `prefer` that.
pub fn busy_poll(epoll: &impl AsRawFd, us: u32, prefer: bool) -> Result<()> {
    // SAFETY: an all-zero epoll_params is valid.
    let mut params: libc::epoll_params = unsafe { std::mem::zeroed() };
    params.busy_poll_usecs = us;
    params.busy_poll_budget = 8;
    params.prefer_busy_poll = prefer.into();
    // SAFETY: the ioctl reads the structure.
    let result = unsafe { libc::ioctl(epoll.as_raw_fd(), libc::EPIOCSPARAMS, &raw const params) };
    checked(result as isize).map(drop)
}

/// Loads the module that `file` has, without parameters.
pub fn load_module(file: &std::fs::File) -> Result<()> {
    let (fd, parameters, flags) = (file.as_raw_fd(), c"".as_ptr(), 0);
    // SAFETY: finit_module reads the string, which ends with a zero and lives for ever.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, fd, parameters, flags) };
    checked(result as isize).map(drop)
}

/// Runs `work` in a forked child, which ends with status 0 if it returns true. Call only while the process has one thread.
pub fn fork(work: impl FnOnce() -> bool) -> Result<nix::unistd::Pid> {
    // SAFETY: the process has one thread, so the child may do what it likes; it leaves by _exit.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => {
            let status = i32::from(!work());
            // SAFETY: _exit is always allowed.
            unsafe { libc::_exit(status) }
        }
    }
}

/// A second descriptor number made out of a raw one that was received from elsewhere.
pub fn adopt(descriptor: RawFd) -> std::net::TcpStream {
    // SAFETY: the descriptor came out of SCM_RIGHTS for us, so nobody else owns it.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(descriptor) }
}

/// Opens a new TUN device of this name, or a TAP device, in the calling thread's network namespace.
pub fn open_tun(name: &str, tap: bool) -> Result<std::fs::File> {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()).take(15) {
        *to = from as libc::c_char;
    }
    let kind = if tap { libc::IFF_TAP } else { libc::IFF_TUN };
    request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    checked(result as isize)?;
    Ok(file)
}

/// Runs `work` in a forked child of a process with other threads. The child is to make system calls and little more: whatever lock another
/// thread held in that moment is held for ever. (The allocator's are not: glibc sees to that.)
pub fn fork_among_threads(work: impl FnOnce()) -> Result<nix::unistd::Pid> {
    // SAFETY: by what the caller promises, the child waits for no lock of a thread that it does not have; it leaves by _exit.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => {
            work();
            // SAFETY: _exit is always allowed.
            unsafe { libc::_exit(0) }
        }
    }
}

/// The process lets others go first; what it forks inherits that.
pub fn be_nice(by: c_int) -> Result<()> {
    // SAFETY: takes ints, and changes this process's priority alone.
    checked(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, by) } as isize).map(drop)
}

/// Threads that are made from now on are not chosen for SIGCHLD, nor is this one. Nobody handles it, but while posix_spawn(3) has it blocked in one thread it
/// is not thrown away, and a call that sleeps in another one is cut short for it (`complete_signal()`).
pub fn hold_sigchld_back() -> Result<()> {
    Ok(SigSet::from(Signal::SIGCHLD).thread_block()?)
}

/// The program gets SIGCHLD, whether or not this thread does.
pub fn let_have_sigchld(command: &mut Command) -> &mut Command {
    let unblock = || Ok(SigSet::from(Signal::SIGCHLD).thread_unblock()?);
    // SAFETY: one system call, which touches nothing that other threads share.
    unsafe { command.pre_exec(unblock) }
}

/// Children that end from now on leave nothing to wait for.
pub fn reap_by_itself() -> Result<()> {
    // SAFETY: ignoring a signal runs no code of ours.
    match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}
