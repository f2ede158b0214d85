"""What a family of densities over z is made of."""

from collections.abc import Callable
from typing import NamedTuple


class Family(NamedTuple):
    """Densities of one kind, fitted to posteriors: means and variances, [num_clips, latent_dim]."""

    kind: type
    """A NamedTuple of arrays, which is what a run folder stores of a density; no two families share
    the names of its fields. One field is means [num, latent_dim]: a density moves with them."""
    fit: Callable
    """(means, variances, size, seed) -> a density of one size."""
    fit_sizes: Callable
    """(means, variances, max_components, seed) -> pairs of a size and the density fitted with it,
    of every size that so many sounds allow."""
    draw: Callable
    """(key, density, temperature []) -> z [latent_dim] and the component [] int32 it is from."""
    make_log_density: Callable
    """density -> a function of latents [num, latent_dim] to log p(z), [num] nats."""
    judge: Callable | None = None
    """(density, latents) -> the same, on the host, where there is a quicker way than to compile."""
    among: Callable | None = None
    """(density, rows) -> that of some of its sounds alone; None for a Gaussian."""
