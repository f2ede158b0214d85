"""A loaded run as an instrument: functions of arrays, for notebooks and other programs.

    run = vaejax.load("runs/default")
    waveforms = run.sample(jax.random.key(0), 16)  # [16, num_samples]

They are what `sample.py` calls: sound i of `sample(jax.random.key(seed), num)` is sound i of
`sample.py --seed seed`, before it is rounded for a file. Each is compiled at its first call and
stays so. Arrays come and go in NumPy, in batches of any size; to differentiate or to build on, take
`vaejax.codec.encode` and `decode`, which are pure JAX for one example.
"""

import os
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import codec
from vaejax.config import Config
from vaejax.features import conditions
from vaejax.keys import Keys
from vaejax.latent.priors import PRIORS, Prior
from vaejax.run.load import Run, load_run
from vaejax.sampling import conditioned, densities, encoding, generate, plans, sequences
from vaejax.sampling.sequences import CLIP, Form


class Synthesizer(Run):
    """A `Run` that plays. Waveforms are mono float32 at `run.config.data.sample_rate` Hz, and
    `run.config.data.num_samples` long; latents have `run.config.latent_dim` values."""

    __slots__ = ()

    def sample(
        self,
        key,
        num: int,
        *,
        temperature: float = 1.0,
        prior: str = "aggregate",
        label: str | None = None,
        pitch: float | None = None,
    ) -> np.ndarray:
        """New sounds: `decode` of `draw`.

        Args:
          key: as of `jax.random.key`; sound i is a function of (run, key, i) and of the options.
          num: sounds, at least 1.
          temperature: spread of the draws, >= 0; below 1 nearer to what is typical.
          prior: `aggregate`, where the training sounds lie; `standard`, the objective's own,
            N(0, I) unless it was learned; or a name of `latent.priors.PRIORS`, fitted anew.
          label: draw from the region of the training sounds of this folder instead; a model that
            is told labels is told it.
          pitch: MIDI number that the model is told, if it is one that is told pitches.

        Returns:
          [num, num_samples], peak at `run.config.sound.peak_db`.
        Raises:
          ValueError: num < 1, a negative temperature, a label that the run does not know, or a
            pitch for a model that cannot be told one.
        """
        condition = self._conditioning(label, pitch)
        z = self.draw(key, num, temperature=temperature, prior=prior, label=label, pitch=pitch)
        if condition is None:
            return self.decode(z)
        return self._sounds(z, conditioned.facts_for(self, condition, key)(np.arange(num)))

    def draw(
        self,
        key,
        num: int,
        *,
        temperature: float = 1.0,
        prior: str = "aggregate",
        label: str | None = None,
        pitch: float | None = None,
    ) -> np.ndarray:
        """Latents [num, latent_dim] of new sounds; for the options see `sample`."""
        if num < 1:
            raise ValueError(f"num={num} must be at least 1")
        if temperature < 0:
            raise ValueError(f"temperature={temperature} must not be negative")
        if prior not in (known := ("aggregate", "standard", *PRIORS)):
            raise ValueError(f"prior={prior!r} must be one of {', '.join(known)}")
        density: Prior
        if (condition := self._conditioning(label, pitch)) is not None:
            condition.facts(self)  # whether it can be told
            density = densities.conditioned(self, label)
        elif label is None:
            density = densities.prior_density(self, prior)
        else:
            density = densities.label_density(self, label)
        draw = generate.make_drawer()
        return generate.in_chunks(
            lambda indices: draw(density, key, indices, jnp.float32(temperature)),
            np.arange(num, dtype=np.uint32),
            generate.chunk_size(),
        )

    def encode(self, waveform) -> tuple[np.ndarray, np.ndarray]:
        """Where sounds lie in the latent.

        Args:
          waveform: [num_samples] for one, or [num, num_samples]; at any level, it is scaled to a
            peak of 1 first, as the training sounds were. `read` makes one of a file.

        Returns:
          mean, logvar: of the Gaussian posterior, [latent_dim] each for one, or [num, latent_dim];
          logvar is the natural logarithm of the variance.
        Raises:
          ValueError: another length, or samples that are not finite.
        """
        clips, one = self._batch(waveform, "waveform", self.config.data.num_samples)
        peak = np.abs(clips).max(1, keepdims=True)
        mean, logvar = encoding.encode_clips(self, clips / np.where(peak > 0, peak, 1))
        return (mean[0], logvar[0]) if one else (mean, logvar)

    def decode(self, z, *, label: str | None = None, pitch: float | None = None) -> np.ndarray:
        """The sounds that latents stand for, phase recovery included.

        Args:
          z: [latent_dim] for one, or [num, latent_dim].
          label, pitch: what the model is told of all of them, if it is one that is told; nothing
            by default.

        Returns:
          [num_samples] for one, or [num, num_samples]; peak at `run.config.sound.peak_db`, faded
          at the end.
        Raises:
          ValueError: another width, values that are not finite, or a model that cannot be told.
        """
        points, one = self._batch(z, "z", self.config.latent_dim)
        facts = conditions.facts_from(self.vocabulary, {"label": label, "pitch": pitch})
        waveforms = self._sounds(points, np.tile(facts, (len(points), 1)))
        return waveforms[0] if one else waveforms

    def morph(
        self, a, b, num: int, *, path: Literal["straight", "spherical"] = "straight"
    ) -> np.ndarray:
        """Sounds that lead from one to another in equal steps, both ends rebuilt by the model.

        Args:
          a, b: [num_samples] each, as for `encode`.
          num: sounds, at least 2.
          path: through the latent; see `vaejax.latent.paths`.

        Returns:
          [num, num_samples].
        Raises:
          ValueError: num < 2, or as `encode`.
        """
        if num < 2:
            raise ValueError(f"num={num} must be at least 2: both ends are sounds of the path")
        start, end = self.encode(np.stack([np.asarray(a), np.asarray(b)]))[0]
        return self.decode(plans.path_between(self, start, end, num=num, path=path))

    def encode_path(self, waveform) -> tuple[np.ndarray, np.ndarray]:
        """Where every frame of a recording lies, for a model of frames.

        Args:
          waveform: [num_samples], of any length and level, mono at the run's rate; it is scaled
            to a peak of 1 first, as the training sounds were.

        Returns:
          mean, logvar: of the posteriors of the latents of its 1 + num_samples // hop_length
          frames, [num_steps, model.latent_dim] each.
        Raises:
          ValueError: no model of frames, fewer samples than n_fft, or samples that are not finite.
        """
        sequences.require_frames(self.config, "encode_path")
        track = self._track(waveform)
        peak = np.abs(track).max()
        mean, logvar = _encode_path(self.config)(
            self.instrument.params, self.instrument.fitted, track / (peak or 1), self._nothing()
        )
        width = self.config.model.latent_dim
        return np.asarray(mean).reshape(-1, width), np.asarray(logvar).reshape(-1, width)

    def decode_path(
        self,
        path,
        *,
        label: str | None = None,
        pitch: float | None = None,
        phases_of=None,
    ) -> np.ndarray:
        """The sound of a path through the latent of a model of frames.

        Args:
          path: [num_steps, model.latent_dim], one latent per STFT frame, hop_length samples apart.
          label, pitch: as of `decode`.
          phases_of: [num_samples] of num_steps frames, the recording that the path is an edit of:
            its phases are taken in place of recovered ones.

        Returns:
          [(num_steps - 1) * hop_length], or as long as `phases_of`; peak at
          `run.config.sound.peak_db`, faded at the end.
        Raises:
          ValueError: no model of frames, another width, values that are not finite, too short or
            too long a path, or a recording of another number of frames.
        """
        sequences.require_frames(self.config, "decode_path")
        steps, _ = self._batch(path, "path", self.config.model.latent_dim)
        sequences.path_form(self.config, steps.size)  # whether it can be
        condition = self._condition(label, pitch)
        parts = self.instrument.params, self.instrument.fitted, steps, condition
        if phases_of is None:
            return np.asarray(_decode_path(self.config)(*parts))
        track = self._track(phases_of)
        frames = 1 + len(track) // self.config.features.hop_length
        if frames != len(steps):
            raise ValueError(
                f"phases_of has {len(track)} samples, which are {frames} frames, and the path "
                f"{len(steps)} steps"
            )
        return np.asarray(_decode_with_phases(self.config)(*parts, track))

    def hold(
        self,
        z,
        seconds: float,
        *,
        at: float | None = None,
        label: str | None = None,
        pitch: float | None = None,
    ) -> np.ndarray:
        """Seamless loops that hold one latent of a model of frames.

        Args:
          z: [model.latent_dim], the latent of a frame, or [num, ..]; or latents of sounds,
            [latent_dim], of which one frame is held.
          seconds: of the loop, to the nearest hop.
          at: of the frame of a sound, in seconds from its start; the loudest by default.
          label, pitch: as of `decode`.

        Returns:
          [num_samples] for one, or [num, num_samples]: one period each, to be repeated end to end;
          peak at `run.config.sound.peak_db`.
        Raises:
          ValueError: no model of frames, another width, values that are not finite, or a length or
            a moment that cannot be.
        """
        form = sequences.loop_form(self.config, seconds, at)
        width = np.asarray(z).shape[-1:] or (0,)
        of_frame, of_sound = self.config.model.latent_dim, self.config.latent_dim
        points, one = self._batch(z, "z", of_sound if width[0] == of_sound else of_frame)
        facts = conditions.facts_from(self.vocabulary, {"label": label, "pitch": pitch})
        loops = self._sounds(points, np.tile(facts, (len(points), 1)), form)
        return loops[0] if one else loops

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """A sound file as `encode` wants it: [num_samples], mono, at the run's rate, without the
        silence before it, cropped or padded, at a peak of 1.

        Raises:
          FileNotFoundError: no such file.
          ValueError: it is not usable; says why.
        """
        return encoding.read_file(self, Path(path))

    def _conditioning(
        self, label: str | None, pitch: float | None
    ) -> conditioned.Conditioning | None:
        """What the model is to be told of new sounds; None where it is nothing."""
        if pitch is None and not (label is not None and self.vocabulary.labels):
            return None
        return conditioned.Conditioning(label, None if pitch is None else Keys(pitch, pitch))

    def _nothing(self) -> np.ndarray:
        """The condition [condition_dim] that tells nothing."""
        return np.zeros(self.instrument.fitted.linear.condition_dim, np.float32)

    def _condition(self, label: str | None, pitch: float | None):
        """The condition [condition_dim] of what is told."""
        facts = conditions.facts_from(self.vocabulary, {"label": label, "pitch": pitch})
        return codec.condition_of(jnp.asarray(facts), self.instrument.fitted, self.config)

    def _track(self, waveform) -> np.ndarray:
        """[num_samples] float32, at least a window of it."""
        track = np.asarray(waveform, np.float32)
        n_fft = self.config.features.n_fft
        if track.ndim != 1 or len(track) < n_fft or not np.isfinite(track).all():
            raise ValueError(
                f"a recording of shape {track.shape} must be [num_samples], at least n_fft={n_fft} "
                "of them, all finite"
            )
        return track

    def _sounds(self, points: np.ndarray, facts: np.ndarray, form: Form = CLIP) -> np.ndarray:
        """[num, num_samples] of latents [num, latent_dim] and facts [num, num_facts]."""
        decoder = generate.make_decoder(self.config, "FLOAT", form)
        width = points.shape[1]
        return generate.in_chunks(
            lambda rows: decoder(self.instrument, rows[:, :width], rows[:, width:])["samples"],
            np.concatenate([points, facts], axis=1),
            sequences.rows_per_call(form, self.config, generate.chunk_size()),
        )

    def _batch(self, array, name: str, width: int) -> tuple[np.ndarray, bool]:
        """[num, width] float32, and whether it was given as one row."""
        array = np.asarray(array)
        if array.ndim not in (1, 2) or array.shape[-1] != width or not array.size:
            raise ValueError(
                f"{name} has shape {array.shape}; this run's are [{width}], or [num, {width}]"
            )
        rows = np.atleast_2d(array).astype(np.float32)
        if not np.isfinite(rows).all():
            raise ValueError(f"{name} holds values that are not finite")
        return rows, array.ndim == 1


# Each is compiled once per config, and again for every length.


@lru_cache
def _encode_path(config: Config):
    return jax.jit(partial(codec.encode, config=config))


@lru_cache
def _decode_path(config: Config):
    @jax.jit
    def decoded(params, fitted, path, condition):
        waveform, _ = sequences.decode(params, fitted, path, condition, config=config)
        return codec.finish(waveform, config)

    return decoded


@lru_cache
def _decode_with_phases(config: Config):
    @jax.jit
    def decoded(params, fitted, path, condition, track):
        waveform = sequences.with_phases_of(params, fitted, path, condition, track, config=config)
        return codec.finish(waveform, config)

    return decoded


def load(workdir: str | os.PathLike) -> Synthesizer:
    """Loads a run folder; see `run.load.load_run`."""
    return Synthesizer(*load_run(workdir))
