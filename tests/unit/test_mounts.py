"""Which file system holds a path, by the kernel's mount table."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mqlite.system.mounts import NETWORK_FILESYSTEMS, network_filesystem


@pytest.fixture
def mounts(tmp_path: Path) -> str:
    table = tmp_path / "mounts"
    table.write_text(
        "/dev/sda / ext4 rw 0 0\n"
        "server:/x /no/such/net nfs4 rw 0 0\n"
        "//server/y /no/such/net/windows cifs rw 0 0\n"
        "/dev/sdb /no/such/net/local xfs rw 0 0\n"
        "server:/z /no/such/with\\040space nfs rw 0 0\n"
        "server:/t /no/such/with\\011tab nfs rw 0 0\n"
        "me@host: /no/such/ssh fuse.sshfs rw 0 0\n"
        "tmpfs /no/such/over nfs rw 0 0\n"
        "tmpfs /no/such/over tmpfs rw 0 0\n"
        "broken\n"
        "\n"
    )
    return str(table)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/app.mq", None),
        ("/no/such/net", "nfs4"),
        ("/no/such/net/app.mq", "nfs4"),
        ("/no/such/net/deep/er/app.mq", "nfs4"),
        ("/no/such/network/app.mq", None),
        ("/no/such/net/windows/app.mq", "cifs"),
        ("/no/such/net/local/app.mq", None),
        ("/no/such/with space/app.mq", "nfs"),
        ("/no/such/with\ttab/app.mq", "nfs"),
        ("/no/such/ssh/app.mq", "fuse.sshfs"),
        ("/no/such/over/app.mq", None),
    ],
)
def test_the_innermost_and_latest_mount_decides(mounts: str, path: str, kind: str | None) -> None:
    assert network_filesystem(path, mounts) == kind


def test_a_link_is_followed(mounts: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/no/such/net/app.mq")
    assert network_filesystem(str(link), mounts) == "nfs4"


def test_a_network_file_system_at_the_root_is_seen(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text("server:/ / nfs rw 0 0\n")
    assert network_filesystem("/home", str(table)) == "nfs"


def test_without_a_mount_table_nothing_is_said() -> None:
    assert network_filesystem("/home", "/no/such/table") is None


def test_this_directory_s_own_table_can_be_read() -> None:
    assert network_filesystem(os.getcwd()) in {None, *NETWORK_FILESYSTEMS}
