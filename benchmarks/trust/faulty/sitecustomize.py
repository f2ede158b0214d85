"""Counts the writes of the program that Python is about to run, and breaks one of them.

Python imports a module of this name at its start: the folder stands first in PYTHONPATH, and what
is to be done in $VAEJAX_TRUST, as JSON:

    roots    folders whose writes are counted: files opened for writing, bytes written, renames, new
             folders, cuts, fsyncs
    kill_at  number of the write at which the process is killed, half of its bytes written
    sites    a file of places in the code, one a line, whose write has failed before: the first
             other one fails as on a full disk, and is added
    count    a file that gets a byte for each write
    started  a file that is made now, as Python comes to the program

A place is where the program, or else the library that does it, calls what writes. What native code
writes by itself (the arrays of a checkpoint) is not seen.
"""

import builtins
import errno
import io
import json
import os
import signal
import sys
import threading
from types import FrameType

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Arguments of an audit event that are paths.
EVENTS = {"os.rename": 2, "os.mkdir": 1, "os.truncate": 1, "os.link": 2, "os.symlink": 2}


class Breaker:
    """What is counted and what is broken."""

    def __init__(self, plan):
        self.roots = tuple(os.path.realpath(root) + os.sep for root in plan["roots"])
        self.kill_at, self.sites = plan.get("kill_at"), plan.get("sites")
        self.known = set()
        if self.sites:
            with open(self.sites, encoding="utf-8") as file:
                self.known = set(file.read().splitlines())
        self.count = (
            os.open(plan["count"], os.O_WRONLY | os.O_APPEND) if plan.get("count") else None
        )
        self.num, self.fired = 0, False
        self.lock, self.busy = threading.Lock(), threading.local()

    def holds(self, path):
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.roots)

    def reach(self, what, path, tear=lambda: None):
        """Comes before a write to a path; `tear` does half of it."""
        if getattr(self.busy, "now", False) or not self.holds(path):
            return
        self.busy.now = True
        try:
            with self.lock:
                self.num += 1
                if self.count is not None:
                    os.write(self.count, b".")
                if self.num == self.kill_at:
                    tear()
                    os.kill(os.getpid(), signal.SIGKILL)
                if not self.sites or self.fired:
                    return
                place = f"{what} at {_place()}"
                if place in self.known:
                    return
                self.fired = True
                file = os.open(self.sites, os.O_WRONLY | os.O_APPEND)
                os.write(file, f"{place}\n".encode())
                os.close(file)
                tear()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))
        finally:
            self.busy.now = False


def _place():
    """The two innermost lines of the program, or else the innermost one of a library."""
    own: list[str] = []
    library: str | None = None
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and len(own) < 2:
        name = frame.f_code.co_filename
        if name.startswith(ROOT + os.sep) and not name.startswith(os.path.dirname(__file__)):
            own.append(f"{os.path.relpath(name, ROOT)}:{frame.f_lineno}")
        elif library is None and "site-packages" in name:
            library = f"{name.rpartition('site-packages' + os.sep)[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return " < ".join(own) or library or "Python"


def install(breaker):
    """Puts the breaker before everything that writes."""

    def audit(event, args):
        if event == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & WRITING:
                breaker.reach("open", path)
        elif event in EVENTS:
            for path in args[: EVENTS[event]]:
                if breaker.holds(path):
                    breaker.reach(event, path)
                    break

    class File(io.FileIO):
        path = ""

        def write(self, data):
            view = memoryview(data).cast("B")

            def tear():
                super(File, self).write(view[: len(view) // 2])

            breaker.reach("write", self.path, tear)
            return super().write(view)

    plain = io.open

    def broken(
        file,
        mode="r",
        buffering=-1,
        encoding=None,
        errors=None,
        newline=None,
        closefd=True,
        opener=None,
    ):
        path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else file
        if not set(mode) & set("wax+") or not breaker.holds(path):
            return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        raw.path = path
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in mode else io.BufferedWriter
        buffered = kind(raw, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)
        text.mode = mode  # type: ignore[misc]
        return text

    def before(name, what):
        function = getattr(os, name)

        def wrapped(handle, *args):
            path = os.readlink(f"/proc/self/fd/{handle}") if isinstance(handle, int) else None
            breaker.reach(what, path)
            return function(handle, *args)

        setattr(os, name, wrapped)

    before("fsync", "fsync")
    before("write", "write")
    builtins.open = io.open = broken
    sys.addaudithook(audit)


if "VAEJAX_TRUST" in os.environ:
    wanted = json.loads(os.environ["VAEJAX_TRUST"])
    install(Breaker(wanted))
    if "started" in wanted:
        os.close(os.open(wanted["started"], os.O_CREAT | os.O_WRONLY))
