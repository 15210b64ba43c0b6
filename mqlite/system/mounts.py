"""Which file system a path lies on: whether it is a network's, and whether a block that it set aside stays."""

from __future__ import annotations

import os
import re

NETWORK_FILESYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "afs",
        "9p",
        "fuse.sshfs",
        "glusterfs",
        "fuse.glusterfs",
        "ceph",
        "lustre",
        "afpfs",
        "webdav",
        "davfs",
    }
)


#: Those that write over a block where it is, so that one set aside is there when it is needed. Others copy on write.
_KEEP_BLOCKS = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs"})


def keeps_blocks(path: str, mounts: str = "/proc/self/mounts") -> bool:
    """Whether a page of a file that has a block can always be written, however full the disk is."""
    return filesystem(path, mounts) in _KEEP_BLOCKS


def network_filesystem(path: str, mounts: str = "/proc/self/mounts") -> str | None:
    """The type of the network file system that holds `path`, or None for a local one."""
    kind = filesystem(path, mounts)
    return kind if kind in NETWORK_FILESYSTEMS else None


def filesystem(path: str, mounts: str = "/proc/self/mounts") -> str:
    """The type of the file system that holds `path`.

    Reads the kernel's mount table (Linux); elsewhere the answer is empty.
    """
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as table:
            lines = [line.split() for line in table]
    except OSError:
        return ""
    real = os.path.realpath(path)
    best, kind = -1, ""
    for fields in lines:
        if len(fields) < 3:
            continue
        mountpoint = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]).rstrip("/")
        inside = real == mountpoint or real.startswith(mountpoint + "/")
        if inside and len(mountpoint) >= best:
            best, kind = len(mountpoint), fields[2]
    return kind
