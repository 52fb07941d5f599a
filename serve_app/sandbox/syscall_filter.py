"""The system calls that a sandboxed child may make (seccomp), where the kernel and libseccomp are there.

Found by tracing the decoder and the credential reader over good and hostile pictures. All others fail with EPERM, so
that a library may fall back: the reader, for one, does without /proc.
"""

import contextlib
import errno
import mmap
import os
import resource
import sys
from collections.abc import Callable

MEMORY = ("brk", "madvise", "mremap", "munmap")
TIME = ("clock_gettime", "gettimeofday", "time")
SELF = ("futex", "getpid", "getrandom", "gettid", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield")
STREAMS = ("read", "write")  # on the descriptors that are open: nothing opens another
END = ("exit", "exit_group", "restart_syscall")
THREAD_START = ("rseq", "set_robust_list")  # what glibc does at the start of each thread
CLONE_THREAD = 0x10000  # of clone(2): a thread of this process, no process of its own
ALLOWED = (*MEMORY, *TIME, *SELF, *STREAMS, *END)


def syscall_filter(*, threads: bool) -> Callable[[], None]:
    """What restricts this process, and every thread of it, for good; prepared apart, since it opens files.

    `threads`: it may start further ones, under the same restrictions, as the decoder of HEIC does for each picture.
    Does nothing where there is no seccomp: `face-avatar doctor` says whether there is.
    """
    if sys.platform != "linux":
        return lambda: None
    try:
        import pyseccomp  # loads libseccomp.so.2
    except (ImportError, RuntimeError, OSError):
        return lambda: None
    allow, same, masked = pyseccomp.ALLOW, pyseccomp.EQ, pyseccomp.MASKED_EQ
    syscalls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in ALLOWED:
        syscalls.add_rule(allow, name)
    for name in ("mmap", "mprotect"):  # no new machine code
        syscalls.add_rule(allow, name, pyseccomp.Arg(2, masked, mmap.PROT_EXEC, 0))
    # c2pa does without threads where there are none, but not where it may have none. The flags of clone3 are in memory,
    # where a filter cannot look: without it glibc takes clone.
    no_such_call = pyseccomp.ERRNO(errno.ENOSYS)
    syscalls.add_rule(no_such_call, "clone3")
    if threads:
        for name in THREAD_START:
            syscalls.add_rule(allow, name)
        syscalls.add_rule(allow, "clone", pyseccomp.Arg(0, masked, CLONE_THREAD, CLONE_THREAD))
    else:
        syscalls.add_rule(no_such_call, "clone")
    # Its own CPU time only: root could raise the other limits again, and set those of other processes.
    own_cpu_time = (pyseccomp.Arg(0, same, 0), pyseccomp.Arg(1, same, resource.RLIMIT_CPU))
    syscalls.add_rule(allow, "prlimit64", *own_cpu_time)
    syscalls.add_rule(allow, "tgkill", pyseccomp.Arg(0, same, os.getpid()))  # abort()

    def restrict() -> None:
        with contextlib.suppress(OSError):  # a kernel without it, or a container that forbids it
            syscalls.set_attr(pyseccomp.Attr.CTL_TSYNC, 1)
            syscalls.load()

    return restrict


def is_restricted(pid: int) -> bool:
    """Whether a filter of system calls holds for a process. Raises: OSError where there is no such process."""
    with open(f"/proc/{pid}/status") as status:
        return any(line.split() == ["Seccomp:", "2"] for line in status)
