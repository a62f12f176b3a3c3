"""What a process came to: a program, or a function in a child of this process."""

import os
import resource
import signal
import subprocess
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 10
"""After which a process hangs."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    code: int
    """The exit code, or minus the number of the signal that ended it."""
    out: str
    err: str
    megabytes: float
    """Its greatest resident memory."""

    def fault(self, most_megabytes: float) -> str | None:
        """Return what no input may do; None if it did not happen."""
        if self.code == -signal.SIGALRM:
            return f"hangs for more than {SECONDS} s"
        if self.code < 0:
            return f"is ended by {signal.Signals(-self.code).name}"
        if self.megabytes > most_megabytes:
            return f"takes {self.megabytes:.0f} MB, more than {most_megabytes:.0f}"
        return None


def run_program(command: Sequence[object], folder: Path, seconds: float = SECONDS) -> Outcome:
    """Run a program, and end it if it takes too long."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        alarm = threading.Timer(seconds, os.kill, (process.pid, signal.SIGALRM))
        alarm.start()
        _, status, usage = os.wait4(process.pid, 0)
        alarm.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)  # so that nobody waits for it again
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return Outcome(process.returncode, *texts, usage.ru_maxrss / 1024)


def run_function(function: Callable[[], str]) -> Outcome:
    """Run a function in a child; 0 where it returns, whose text is the output; 1 where it raises an exception."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code, text = 0, ""
        try:
            text = function()
        except Exception as error:
            code, text = 1, f"{type(error).__name__}: {error}"
        except BaseException:
            code, text = 2, traceback.format_exc()
        os.write(writing, text.encode(errors="replace")[:60000])
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, text if code == 0 else "", text if code != 0 else "", usage.ru_maxrss / 1024)
