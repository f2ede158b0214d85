"""Ctrl-C, SIGTERM and SIGHUP, from a script's first line to its last.

While a script imports and prepares, a signal ends it at once, since an exception out of nowhere may
be swallowed by whoever catches everything, or meet foreign code that cannot bear it. All that is
written meanwhile is whole or not there. While there is something to save, `Requests` notes the
signal instead.
"""

# As little as can be: until the handlers are in place, Python answers a signal with a traceback.
import os
import signal
import sys

INTERRUPTED = 130
# A closed terminal sends the last one; Windows has none.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def end_at_once() -> None:
    """From now on a signal ends the process: one line, exit code 130."""
    _install(_end)


_raised = False


def raise_them() -> None:
    """From now on a signal raises KeyboardInterrupt, where it ended the process until now."""
    if signal.getsignal(signal.SIGINT) is _end:
        _install(_raise)


def check() -> None:
    """Raises the KeyboardInterrupt of a signal anew, for one that somebody has swallowed."""
    if _raised:
        raise KeyboardInterrupt


class Requests:
    """Signals ask to stop; a second one insists, and does what it did before."""

    def __init__(self) -> None:
        self.requested = False
        self._before = _install(self._handle)

    def restore(self) -> None:
        """Leaves the signals to whom they belonged before: a notebook lives on after training."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if self.requested:
            before = self._before[number]
            (before if callable(before) else signal.default_int_handler)(number, frame)
        self.requested = True
        _say(b"\nstopping after this step; once more to stop without saving\n")


def _install(handler) -> dict:
    """Sets the handler of all signals; those of before."""
    before = {}
    for number in SIGNALS:
        # nohup has the closed terminal ignored.
        if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
            continue
        try:
            before[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread
            continue
    return before


def _raise(number, frame) -> None:
    global _raised
    _raised = True
    raise KeyboardInterrupt


def _end(number, frame) -> None:
    # Not imported here: it may be just half-way through its import.
    for name in list(getattr(sys.modules.get("vaejax.files"), "unfinished", ())):
        try:
            os.unlink(name)
        except OSError:
            continue
    _say(b"\ninterrupted\n")
    os._exit(INTERRUPTED)


def _say(text: bytes) -> None:
    # Not print: the bar may be writing to the same stream just now. The terminal may be gone.
    try:  # noqa: SIM105
        os.write(2, text)
    except OSError:
        pass
