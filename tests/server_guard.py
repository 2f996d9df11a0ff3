"""Ends a server of the tests with the process that started it, however that ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_WATCH = """
import os, shutil, signal, sys, time
pids = [int(line) for line in sys.stdin]  # until the process that writes them is gone
if 0 not in pids:
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.kill(pids[-1], number)
            for _ in range(50):
                os.kill(pids[-1], 0)
                time.sleep(0.1)
        except (IndexError, ProcessLookupError):  # it was not started, or is gone
            break
    shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class ServerGuard:
    """A process that waits for the end of this one: then it ends a server and deletes a folder.

    Exit handlers do not run when a test run is terminated.

    Args:
        folder: The server's; None: nothing is deleted.
    """

    def __init__(self, folder: Path | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WATCH, folder or ""],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the test run
        )

    def watch(self, pid: int) -> None:
        """End the process `pid` from now on, and no other one."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{pid}\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """There is nothing to end any more."""
        self.watch(0)
        self._process.communicate()
