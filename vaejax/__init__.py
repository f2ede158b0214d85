"""vaejax: a folder of sounds in, a variational autoencoder trained in JAX, new sounds out.

- To play a trained run: `load`, which gives a `vaejax.synthesizer.Synthesizer`.
- The loss, for one example: `vaejax.objective`, `elbo` first. The model: `vaejax.models`.
- What the model sees of a sound, and back: `vaejax.features`. Phases: `vaejax.signal.phase`.
- The training step: `vaejax.train.step`. From a key to a sound: `vaejax.sampling.generate`.
- Every setting with its default: `vaejax.config`.
"""

# Not that of `typing`, whose import takes long: a signal is to find the scripts' handlers in place.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from vaejax.synthesizer import Synthesizer


def load(workdir: "str | os.PathLike[str]") -> "Synthesizer":
    """Loads a run folder, to play it: `sample`, `draw`, `encode`, `decode`, `morph` and `read`.

    It has the fields of `vaejax.run.load.Run` too: config, weights, prior and what else a sound
    needs. `vaejax.sampling.generate` has the pure JAX functions of one example.

    Raises:
      FileNotFoundError: there is no run in it.
      ValueError: it is of another version.
    """
    # Imported here: `import vaejax` alone should not start JAX.
    from vaejax import synthesizer

    return synthesizer.load(workdir)
