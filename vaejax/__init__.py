"""vaejax: a folder of sounds in, a variational autoencoder trained in JAX, new sounds out."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaejax.checkpoint import Run


def load(workdir: "str | os.PathLike[str]") -> "Run":
    """Loads a run folder: config, weights, prior and what else a sound needs.

    `vaejax.generate` has the pure functions to use it with: `encode`, `decode`, `draw_sound`.

    Raises:
      FileNotFoundError: there is no run in it. ValueError: it is of another version.
    """
    # Imported here: `import vaejax` alone should not start JAX.
    from vaejax import checkpoint

    return checkpoint.load_run(workdir)
