"""What the records of alternatives share."""

import math
from collections.abc import Callable
from typing import Any

from vaejax.config import Config

LOG_2PI = math.log(2 * math.pi)


def plain(function: Callable) -> Callable:
    """A function that needs nothing but its own arguments, as one that is given the context too."""
    return lambda *arguments: function(*arguments[:-1])


def no_weights(key, config: Config) -> dict[str, Any]:
    """`init` of an alternative that trains nothing."""
    return {}


def always_works(config: Config) -> str | None:
    """`check` of an alternative that goes with all others."""
    return None
