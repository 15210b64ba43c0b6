"""Which file system a path lies on, so that network file systems can be warned about."""

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


def network_filesystem(path: str, mounts: str = "/proc/self/mounts") -> str | None:
    """The type of the network file system that holds `path`, or None for a local one.

    Reads the kernel's mount table (Linux); elsewhere the answer is None.
    """
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as table:
            lines = [line.split() for line in table]
    except OSError:
        return None
    real = os.path.realpath(path)
    best, kind = -1, ""
    for fields in lines:
        if len(fields) < 3:
            continue
        mountpoint = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]).rstrip("/")
        inside = real == mountpoint or real.startswith(mountpoint + "/")
        if inside and len(mountpoint) >= best:
            best, kind = len(mountpoint), fields[2]
    return kind if kind in NETWORK_FILESYSTEMS else None
