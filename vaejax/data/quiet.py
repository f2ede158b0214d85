"""Keeps what decoders write to the terminal by themselves away from it.

libmpg123 writes notes on damaged files to file descriptor 2, from whichever thread decodes.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

# As libmpg123's lines begin, and some that belong to them.
NOTES = re.compile(
    rb"^(?:\[.*libmpg123.*\]|(?:Note|Warning): |\s*$).*\n?", re.MULTILINE | re.IGNORECASE
)

_lock = threading.Lock()
_users = 0
_restore = contextlib.ExitStack()


@contextlib.contextmanager
def decoders() -> Iterator[None]:
    """Drops the decoders' notes while it lasts; all else that went to the descriptor comes after.

    Python's own stderr is not held up. May be entered by several threads at once.
    """
    global _users
    with _lock:
        if _users == 0:
            try:
                _redirect()
            except OSError:  # no terminal, or no room for what would go to it
                _restore.close()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _restore.close()


def _redirect() -> None:
    terminal = os.dup(2)
    _restore.callback(os.close, terminal)
    held = _restore.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    _restore.callback(_pass_on, held, terminal)
    _restore.callback(os.dup2, terminal, 2)
    stream = sys.stderr
    with contextlib.suppress(AttributeError, OSError, io.UnsupportedOperation):
        stream.flush()
        if stream.fileno() == 2:
            # Python's messages go on to the terminal.
            own = os.fdopen(
                os.dup(terminal), "w", encoding=stream.encoding, errors=stream.errors, buffering=1
            )
            _restore.callback(_give_back, stream, own)
            sys.stderr = own
    os.dup2(held.fileno(), 2)


def _give_back(stream, own) -> None:
    if sys.stderr is own:
        sys.stderr = stream
    with contextlib.suppress(OSError):
        own.close()


def _pass_on(held, terminal: int) -> None:
    """Writes what is not a decoder's note to where it was meant to go."""
    held.seek(0)
    rest = NOTES.sub(b"", held.read())
    with contextlib.suppress(OSError):
        os.write(terminal, rest)
