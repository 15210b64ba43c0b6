"""The directory of a store: what lies in it, whether it is ours, whether it is whole.

    app.mq/            0700
      store.json       the marker: format version, store id, settings of the store; written last
      log.mdb(-lock)   what exists (durable)
      log.control      how log.mdb gets to the disk (see control.py)
      open.lock        held while a process opens or leaves
      run/<session>/   what lasts for one boot of the machine and this very log.mdb:
        claims.mdb(-lock)   who holds what
        owners/<id>         one per process: locked, and held open, while it lives
        bells/<id>          one per process: written to, it wakes the process's sleepers
        started/<id>        one per process: which prefetched messages it has handed out (see claims/started.py)

Creation: log.mdb is made as log.mdb.new and renamed, log.control is made, then the marker is written,
synced and renamed. A crash before the marker leaves no accepted message behind,
only a log.mdb that opens and is adopted.

LMDB takes a zero-byte file for a new store, and a truncated one ends in SIGBUS;
`check_data_file` looks at its size and meta pages first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import FrameType

import attrs

from ..checks import LEVELS
from ..errors import NetworkFilesystemWarning, NotSupported, StoreCorrupted, StoreError
from .blocks import sync_directory
from .control import SESSION, Control
from .mounts import network_filesystem
from .pages import DataFile, newest_meta

FORMAT = 8
MIN_STORE_BYTES = 16 << 20
_TO_DO = "restore it from a backup, or save what is whole with mqlite.recover(path, into=...)"


@attrs.frozen(kw_only=True)
class Marker:
    """What `store.json` says."""

    format: int
    store_id: str
    durability: str
    max_store_bytes: int

    def problem(self) -> str:
        """What no marker of this format says; "" when all is well."""
        if type(self.format) is not int or self.format < 1:
            return f"format {self.format!r}"
        if not isinstance(self.store_id, str) or not re.fullmatch("[0-9a-f]{32}", self.store_id):
            return f"store id {self.store_id!r}"
        if self.durability not in LEVELS:
            return f"durability {self.durability!r}"
        if type(self.max_store_bytes) is not int or not MIN_STORE_BYTES <= self.max_store_bytes < 1 << 60:
            return f"max_store_bytes {self.max_store_bytes!r}"
        return ""


@attrs.frozen
class StoreDirectory:
    """The paths of one store. `path` is absolute and has its links resolved."""

    path: str

    @property
    def log(self) -> str:
        """The LMDB file of the log."""
        return os.path.join(self.path, "log.mdb")

    @property
    def control(self) -> str:
        """The file that says how far the log is on the disk."""
        return os.path.join(self.path, "log.control")

    @property
    def front(self) -> str:
        """The file of plain messages that have not reached the log."""
        return os.path.join(self.path, "log.front")

    @property
    def marker(self) -> str:
        """The file that says that this is a store."""
        return os.path.join(self.path, "store.json")

    @property
    def open_lock(self) -> str:
        """The file that is locked by who opens the store; see `locked`."""
        return os.path.join(self.path, "open.lock")

    @property
    def run(self) -> str:
        """What lasts for one boot."""
        return os.path.join(self.path, "run")

    def identity(self) -> tuple[int, int]:
        """Device and inode: the same for every name of the directory."""
        found = os.stat(self.path)
        return found.st_dev, found.st_ino

    # ------------------------------------------------------------------ opening
    @classmethod
    def locate(cls, path: str | os.PathLike[str]) -> StoreDirectory:
        """The directory for `path`, made if missing. Raises StoreError, saying what to do."""
        given = os.fspath(path)
        if not isinstance(given, str) or not given:
            raise StoreError(f"a store's path is a non-empty str, not {given!r}")
        real = os.path.realpath(given)
        if os.path.exists(real) and not os.path.isdir(real):
            raise StoreError(f"{given!r} is a file, but a store is a directory: give a path that is free or a store")
        if not os.path.isdir(os.path.dirname(real)):
            raise StoreError(f"cannot make the store {given!r}: its parent directory does not exist; make it first")
        try:
            os.makedirs(real, mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot make the store {given!r} ({error.strerror}): choose a directory you may write to"
            ) from error
        if not os.access(real, os.R_OK | os.W_OK | os.X_OK):
            raise StoreError(
                f"the store {given!r} is not readable and writable for this user: change its permissions or its path"
            )
        kind = network_filesystem(real)
        if kind is not None:
            warnings.warn(
                f"the store {given!r} lies on a network file system ({kind}), where locks and shared memory are "
                "not reliable: move it to a local disk",
                NetworkFilesystemWarning,
                stacklevel=_levels_to_the_caller(),
            )
        return cls(real)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among all processes in opening, joining for the first time, or leaving."""
        fd = self._open_lock()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _open_lock(self) -> int:
        try:
            return os.open(self.open_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"the store {self.path!r} cannot be opened ({error.strerror}): check its permissions and whether "
                "it still exists"
            ) from error

    def read_marker(self) -> Marker | None:
        """The marker, or None where there is none."""
        try:
            with open(self.marker, encoding="utf-8") as file:
                fields = json.load(file)
            marker = Marker(**{name: fields[name] for name in ("format", "store_id", "durability", "max_store_bytes")})
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(
                f"the marker {self.marker!r} cannot be read ({error.strerror}): check its permissions"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._bad_marker(str(error)) from error
        if type(marker.format) is int and marker.format > FORMAT:
            raise NotSupported(
                f"the store {self.path!r} has format {marker.format}, this version reads up to {FORMAT}: upgrade mqlite"
            )
        problem = marker.problem()
        if problem:
            raise self._bad_marker(problem)
        return marker

    def _bad_marker(self, problem: str) -> StoreCorrupted:
        return StoreCorrupted(f"the marker {self.marker!r} cannot be used ({problem}): restore it from a backup")

    def write_marker(self, marker: Marker) -> None:
        """Write, sync and rename into place."""
        temporary = self.marker + ".new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(attrs.asdict(marker), file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, self.marker)
        self.sync()

    def sync(self, own_name: bool = True) -> None:
        """Make names in the directory durable, and the directory's own name."""
        for path in (self.path, os.path.dirname(self.path)) if own_name else (self.path,):
            sync_directory(path)

    def check_is_ours(self) -> None:
        """Raise StoreError where a directory without marker holds something else."""
        ours = {
            "open.lock",
            "run",
            "store.json",
            "store.json.new",
            "log.control",
            "log.front",
            "log.mdb",
            "log.mdb-lock",
            "log.mdb.new",
            "log.mdb.new-lock",
        }
        strangers = sorted(set(os.listdir(self.path)) - ours)
        if strangers:
            raise StoreError(
                f"{self.path!r} is not a store of mqlite (it holds {strangers[0]!r}): give an empty or new directory"
            )

    # ------------------------------------------------------------------ session
    def is_current(self, control: Control) -> bool:
        """Whether somebody has had this very log file open in this boot, so that memory holds what the disk may not."""
        return control.is_of(self.log, boot_id(), FORMAT)

    def session(self, control: Control, store_id: str, mapped: bool = False) -> str:
        """The folder for this boot and this very log file, made if missing; older ones are removed.

        A restored or copied log.mdb has another inode, and so starts without the
        claims of the one it was copied from; so does another format.
        """
        boot = boot_id()
        if not control.is_of(self.log, boot, FORMAT):
            log = os.stat(self.log)
            key = hashlib.sha256(f"{boot} {store_id} {log.st_dev} {log.st_ino} {FORMAT}".encode())
            control.begin(self.log, boot, FORMAT, int.from_bytes(key.digest()[:8], "big"), mapped)
        control.settle(self.log)
        boot = hashlib.sha256(boot.encode()).hexdigest()[:12]
        name = f"{boot}-{control.words[SESSION]:016x}"
        run = self.run
        os.makedirs(run, mode=0o700, exist_ok=True)
        for other in os.listdir(run):
            if not other.startswith(boot):
                shutil.rmtree(os.path.join(run, other), ignore_errors=True)
        session = os.path.join(run, name)
        for folder in (session, *(os.path.join(session, name) for name in ("owners", "bells", "started"))):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        return session


def _levels_to_the_caller() -> int:
    """The stacklevel of the first frame outside of this package, for a warning made one frame up."""
    package, level = __name__.partition(".")[0] + ".", 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (frame.f_globals.get("__name__", "") + ".").startswith(package):
        frame, level = frame.f_back, level + 1
    return level


def new_store_id() -> str:
    """A name that no other store has."""
    return secrets.token_hex(16)


def check_data_file(path: str) -> None:
    """Raise StoreCorrupted unless `path` holds all pages that its meta pages speak of."""
    with DataFile(path) as file:
        if file.size < 2 * 4096:
            raise StoreCorrupted(f"{path!r} is truncated ({file.size} bytes): {_TO_DO}")
        newest = newest_meta(file)
        if newest is None:
            raise StoreCorrupted(f"{path!r} is not an LMDB file, or its first pages are damaged: {_TO_DO}")
        needed = (newest.last_page + 1) * file.page_size
        if file.size < needed:
            raise StoreCorrupted(f"{path!r} is truncated (it has {file.size} bytes and needs {needed}): {_TO_DO}")


def newest_transaction(path: str) -> int:
    """The transaction of the newer meta page of an LMDB file; 0 where there is none."""
    with DataFile(path) as file:
        newest = newest_meta(file)
    return newest.transaction if newest is not None else 0


def boot_id() -> str:
    """A name for this boot of the machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        asked = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False)
        if asked.returncode == 0 and asked.stdout.strip():
            return asked.stdout.strip()
    raise NotSupported(
        "cannot tell one boot of this machine from another, so claims cannot be kept: use a queue in memory"
    )
