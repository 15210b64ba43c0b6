"""A disk that always takes equally long to flush: a store in memory, and a sleep in the place of each flush.

On a shared disk a flush takes from 0.1 to 5 ms, as the neighbours please, and what a commit costs besides cannot be seen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("flush_cost.c")
MEMORY = "/dev/shm"
WANTED = "FLUSH_MICROSECONDS"


def run_with(microseconds: int, program: list[str]) -> int:
    """Run a program whose flushes take so long, and return how it ended. Needs a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        print("--flush needs a C compiler (cc)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        library = os.path.join(folder, "flush_cost.so")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, str(SOURCE), "-ldl"], check=True)
        environment = {**os.environ, WANTED: str(microseconds), "LD_PRELOAD": library}
        return subprocess.run([sys.executable, *program], env=environment).returncode
