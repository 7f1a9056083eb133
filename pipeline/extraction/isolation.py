"""Removing a process's access to the network, and its right to write to disks, where the kernel permits it.

This uses Linux namespaces. A process needs no root rights for it since Linux 5.12, but an administrator can forbid user
namespaces, and many containers do.
"""

import ctypes
import os
import struct
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000  # linux/sched.h
MOUNT_SETATTR = 442  # the number of the system call, on every architecture
AT_FDCWD, AT_RECURSIVE = -100, 0x8000  # linux/fcntl.h
MOUNT_ATTR_RDONLY, MS_PRIVATE = 0x1, 1 << 18  # linux/mount.h


def isolate_this_process() -> bool:
    """Remove the network from this process and those that it starts, and make all disks read-only for them.

    Returns False if the kernel refuses any part of it. It refuses all of it for a process with more than one thread.
    """
    libc = ctypes.CDLL(None)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET):
        return False
    # The process stays the user that it was. The kernel wants setgroups forbidden before it takes a map of groups.
    maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    try:
        for name, text in maps.items():
            Path("/proc/self", name).write_text(text)
    except OSError:  # reading files works without these maps
        return False
    read_only = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY, 0, MS_PRIVATE, 0)
    return not libc.syscall(
        MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.c_char_p(read_only), ctypes.c_size_t(len(read_only))
    )
