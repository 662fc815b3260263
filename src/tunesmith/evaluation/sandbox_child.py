"""The inside of the sandbox: gives up every right it can, then runs one program. Started by `sandbox.py`, stdlib only.

Three fences, each enforced by the Linux kernel and inherited by whatever the program starts: resource limits; Landlock
(https://docs.kernel.org/userspace-api/landlock.html), which lets it write in its own folder only; and a seccomp filter
(https://docs.kernel.org/userspace-api/seccomp_filter.html), which refuses sockets, new processes and signals.
Reading files stays allowed, since a program needs its libraries; without a network it can tell nobody.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys

FENCED = 77
"""Exit status that says a fence could not be set up; nothing was run then."""

MOST_ANSWER_BYTES = 4_096
"""Fits into a pipe, so that writing it never waits."""

_ARCHITECTURES = {
    # AUDIT_ARCH value; clone, clone3; numbers of the refused calls, in the order of the comment below
    "x86_64": (
        0xC000003E,
        56,
        435,
        # socket socketpair connect fork vfork execve execveat ptrace process_vm_readv/_writev io_uring_setup kill tkill
        # pidfd_send_signal chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat bpf mount
        (41, 53, 42, 57, 58, 59, 322, 101, 310, 311, 425, 62, 200, 424, 90, 91, 268, 452, 92, 93, 94, 260, 321, 165),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        435,
        # as above; this architecture has only the newer calls
        (198, 199, 203, 221, 281, 117, 270, 271, 425, 129, 130, 424, 52, 53, 452, 54, 55, 280, 40),
    ),
}

_CLONE_THREAD = 0x10000
_LANDLOCK_WRITES = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))  # write, remove and make, ABI 1
_LANDLOCK_REFER, _LANDLOCK_TRUNCATE = 1 << 13, 1 << 14  # ABI 2 and 3


def main() -> None:
    """Read `{"program", "seconds", "memory_bytes", "secret"}` from standard input; run; on success print the secret.

    After it comes what the program has left in its global `answer`.
    """
    task = json.load(sys.stdin)
    answer = os.dup(1)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _limit(task["seconds"], task["memory_bytes"])
        _check(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")  # PR_SET_NO_NEW_PRIVS
        _drop_capabilities(libc)
        _landlock(libc, ".")
        _seccomp(libc)
    except (OSError, KeyError, ValueError) as error:
        os.write(answer, str(error).encode())
        os._exit(FENCED)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    program = {"__name__": "__main__"}
    exec(compile(task["program"], "program", "exec"), program)  # noqa: S102  # the point of a sandbox
    left = program.get("answer", "")
    os.write(answer, f"{task['secret']}\n{left if isinstance(left, str) else ''}".encode()[:MOST_ANSWER_BYTES])
    os._exit(0)


def _limit(seconds: int, memory_bytes: int) -> None:
    for what, limit in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 16 * 2**20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Root without capabilities is a user like any other."""
    version_3 = struct.pack("Ii", 0x20080522, 0)
    _check(libc.capset(version_3, bytes(24)), "capabilities")


def _landlock(libc: ctypes.CDLL, folder: str) -> None:
    abi = libc.syscall(444, None, 0, 1)
    _check(abi, "Landlock (Linux 5.13 or newer)")
    handled = _LANDLOCK_WRITES | (_LANDLOCK_REFER if abi >= 2 else 0) | (_LANDLOCK_TRUNCATE if abi >= 3 else 0)
    rules = libc.syscall(444, struct.pack("Q", handled), 8, 0)
    _check(rules, "Landlock")
    for path in (folder, os.devnull):
        allowed = handled if path == folder else handled & ((1 << 1) | _LANDLOCK_TRUNCATE)
        beneath = struct.pack("=Qi", allowed, os.open(path, os.O_PATH))
        _check(libc.syscall(445, rules, 1, beneath, 0), "Landlock")
    _check(libc.syscall(446, rules, 0), "Landlock")


def _seccomp(libc: ctypes.CDLL) -> None:
    """A classic BPF program over (call number, architecture, arguments); refused calls fail with EPERM."""
    architecture, clone, clone3, refused = _ARCHITECTURES[platform.machine()]
    load, equal, greater, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow, eperm, enosys = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026
    filters = [
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, architecture),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # the call's number
        (greater, 0, 1, 0x40000000),  # the x32 calls of x86-64, under other numbers
        (give, 0, 0, eperm),
        (equal, 0, 1, clone3),  # its flags are out of a filter's sight; the C library falls back to clone
        (give, 0, 0, enosys),
    ]
    for number in refused:
        filters += [(equal, 0, 1, number), (give, 0, 0, eperm)]
    filters += [
        (equal, 0, 3, clone),
        (load, 0, 0, 16),  # its flags: a thread may start, a process may not
        (any_bit, 1, 0, _CLONE_THREAD),
        (give, 0, 0, eperm),
        (give, 0, 0, allow),
    ]
    code = b"".join(struct.pack("HBBI", *each) for each in filters)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(filters), ctypes.addressof(buffer))
    _check(libc.prctl(22, 2, program, 0, 0), "seccomp")  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
