"""Become another program that dies with its parent: `python -I -S tether.py SIGNAL PARENT_PID PROGRAM ARG...`.

A program of its own rather than a `preexec_fn`, because Python code between fork and exec is not safe in a process that
has threads, and a caller with a gRPC channel has. Imports nothing of Seonchak: it runs before every child.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    signal_number, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit("the parent died before its child began")
    os.execvp(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
