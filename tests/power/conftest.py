"""A stage to record programs on, and an examiner of what power cuts leave, for the tests of one module."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .examiner import Examiner
from .stage import Stage

HERE = Path(__file__).parent
COMPILER = shutil.which("cc")


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    """A folder for recordings and images, in memory if possible: real flushes would only take time."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="power-", dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def stage(work: Path) -> Iterator[Stage]:
    if COMPILER is None or not sys.platform.startswith("linux"):
        pytest.skip("recording what is written and flushed needs Linux and a C compiler (cc)")
    library = work / "recorder.so"
    command = [COMPILER, "-shared", "-fPIC", "-O2", "-o", str(library), str(HERE / "recorder.c"), "-ldl", "-lpthread"]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"recorder.c cannot be compiled here: {built.stderr}")
    stage = Stage(str(library), work)
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def examiner(work: Path) -> Iterator[Examiner]:
    examiner = Examiner(work / "image")
    yield examiner
    examiner.close()
