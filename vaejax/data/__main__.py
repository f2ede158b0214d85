"""Lists the cache of decoded sounds, and makes room in it.

python -m vaejax.data [--keep GIGABYTES] [--cache_dir DIR]
"""

import datetime
import sys
from dataclasses import dataclass
from pathlib import Path

from vaejax import cli
from vaejax.data import cache

DESCRIPTION = (
    "Lists the cache of decoded sounds, the longest unused first. Nothing in it is lost for good: "
    "what is removed is decoded again when a run needs it."
)


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    keep: float | None = None
    """Gigabytes; removes packs, the longest unused first, until no more are left. 0 empties the
    cache. A pack that is being built is never removed."""
    cache_dir: Path | None = None
    """Folder of the cache; by default $VAEJAX_CACHE, $XDG_CACHE_HOME/vaejax or ~/.cache/vaejax."""
    debug: bool = False
    """Show where an error arose."""


def main(argv: list[str]) -> None:
    """Parses the command line, removes and lists."""
    options = cli.parse(Options, Options(), argv, description=DESCRIPTION)
    if options.keep is not None and not 0 <= options.keep < float("inf"):
        print(f"error: --keep {options.keep:g} must be 0 or more gigabytes", file=sys.stderr)
        raise SystemExit(cli.USAGE)
    directory = options.cache_dir or cache.default_cache_dir()
    found = cache.entries(directory)
    total = sum(entry.num_bytes for entry in found)
    for entry in found:
        gone = options.keep is not None and total > options.keep * 1e9 and cache.remove(entry)
        total -= entry.num_bytes if gone else 0
        used = datetime.datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d")
        print(
            f"{entry.num_bytes / 1e9:9.3f} GB  {used}  {entry.num_clips:8,} sounds  {entry.source}"
            + ("  removed" if gone else "")
        )
    print(f"{total / 1e9:.3f} GB in {directory}")


if __name__ == "__main__":
    cli.run(main)
