"""A system of the original workshop's shape in TensorFlow, Keras and Kapre, for comparison.

Written from a description of that system: one second at 44.1 kHz; kapre's STFT (n_fft 2048, hop
512, not padded) as magnitude, phase and decibels, 80 of its 83 frames, standardised; fifteen 3x3
convolutions of 16 filters each way with pooling and upsampling between groups of three; eight
latents; root mean square error over all three channels plus 1e-4 of the KL term; Adam at 1e-4,
batches of 16. Sounds come from the predicted magnitude and phase by an inverse STFT.

In its favour: the statistics are fitted once, on training sounds as they are, and sounds are
decoded beforehand and fed from memory. As in the original, the first frame is lost and nothing
makes up for the windows that are missing at the edges: a sound fades in over some 35 ms.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import turns

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SAMPLE_RATE, NUM_SAMPLES = 44_100, 44_100
N_FFT, HOP_LENGTH = 2048, 512
FRAMES, BINS = 80, N_FFT // 2 + 1
# Of the 83 frames one is cut off before and two behind.
FIRST_FRAME = 1
LATENT_DIM, FILTERS, BATCH = 8, 16, 16
KL_WEIGHT, LEARNING_RATE = 1e-4, 1e-4


class System:
    """Features, encoder, decoder and training step."""

    def __init__(self, *, jit_compile: bool = False, seed: int = 0):
        import kapre
        import keras
        import tensorflow as tf

        self.tf = tf
        keras.utils.set_random_seed(seed)
        layers = keras.layers
        self.stft = kapre.STFT(n_fft=N_FFT, win_length=N_FFT, hop_length=HOP_LENGTH)
        self.channels = (
            kapre.Magnitude(),
            kapre.Phase(),
            keras.Sequential([kapre.Magnitude(), kapre.MagnitudeToDecibel(dynamic_range=80.0)]),
        )
        self.inverse = kapre.InverseSTFT(
            n_fft=N_FFT, win_length=N_FFT, hop_length=HOP_LENGTH, forward_window_name=None
        )
        self.normalise = layers.Normalization(axis=-1)

        def conv(kind):
            return kind(FILTERS, 3, padding="same", activation="relu")

        given = keras.Input((FRAMES, BINS, 3))
        h = given
        for group in range(5):
            h = layers.MaxPool2D(2)(h) if group else h
            for _ in range(3):
                h = conv(layers.Conv2D)(h)
        h = layers.Flatten()(h)
        self.encoder = keras.Model(
            given, [layers.Dense(LATENT_DIM)(h), layers.Dense(LATENT_DIM)(h)]
        )

        z = keras.Input((LATENT_DIM,))
        h = layers.Dense(5 * 64 * FILTERS, activation="relu")(z)
        h = layers.Reshape((5, 64, FILTERS))(h)
        for group in range(5):
            h = layers.UpSampling2D(2)(h) if group else h
            for _ in range(3):
                h = conv(layers.Conv2DTranspose)(h)
        h = layers.ZeroPadding2D(((0, 0), (0, 1)))(h)
        self.decoder = keras.Model(z, layers.Conv2DTranspose(3, 3, padding="same")(h))

        self.optimizer = keras.optimizers.Adam(LEARNING_RATE)
        self.weights = self.encoder.trainable_variables + self.decoder.trainable_variables
        self.optimizer.build(self.weights)
        self.train_step = tf.function(self._train_step, jit_compile=jit_compile)
        self.generate = tf.function(self._generate)
        self.rebuild = tf.function(lambda pcm: self._generate(self._posterior(pcm)[0]))

    def features(self, pcm):
        """int16 [batch, 44100] -> [batch, 80, 1025, 3], not yet standardised."""
        tf = self.tf
        waveform = tf.cast(pcm, tf.float32)
        peak = tf.reduce_max(tf.abs(waveform), axis=1, keepdims=True)
        spectrum = self.stft((waveform / tf.maximum(peak, 1.0))[:, :, None])
        stacked = tf.concat([channel(spectrum) for channel in self.channels], axis=-1)
        return stacked[:, FIRST_FRAME : FIRST_FRAME + FRAMES]

    def adapt(self, clips: np.ndarray) -> None:
        """Fits the statistics on clips [num, 44100] int16."""
        rows = [np.asarray(self.features(clips[i : i + 16])) for i in range(0, len(clips), 16)]
        self.normalise.adapt(np.concatenate(rows))

    def _posterior(self, pcm):
        return self.encoder(self.normalise(self.features(pcm)))

    def _train_step(self, pcm):
        tf = self.tf
        x = self.normalise(self.features(pcm))
        with tf.GradientTape() as tape:
            mean, logvar = self.encoder(x)
            z = mean + tf.exp(0.5 * logvar) * tf.random.normal(tf.shape(mean))
            error = tf.sqrt(tf.reduce_mean(tf.square(x - self.decoder(z))))
            kl = 0.5 * (tf.square(mean) + tf.exp(logvar) - 1.0 - logvar)
            kl = tf.reduce_mean(tf.reduce_sum(kl, axis=1))
            loss = error + KL_WEIGHT * kl
        gradients = tape.gradient(loss, self.weights)
        self.optimizer.apply_gradients(zip(gradients, self.weights, strict=True))
        return loss, kl

    def _generate(self, z):
        """[batch, 8] -> [batch, 42496]: decoder, then the inverse STFT of what it predicts."""
        tf = self.tf
        x = self.decoder(z) * tf.sqrt(self.normalise.variance) + self.normalise.mean
        magnitude, phase = tf.maximum(x[..., :1], 0.0), x[..., 1:2]
        spectrum = tf.cast(magnitude, tf.complex64) * tf.exp(
            tf.complex(tf.zeros_like(phase), phase)
        )
        return self.inverse(spectrum)[..., 0]


def about() -> dict[str, Any]:
    import kapre
    import keras
    import tensorflow as tf

    return {
        "version": tf.__version__,
        "keras": keras.__version__,
        "kapre": kapre.__version__,
        "device": "gpu" if tf.config.list_physical_devices("GPU") else "cpu",
    }


def prepare_training(options: dict[str, Any]) -> tuple[dict[str, Any], turns.Tasks]:
    clips = np.load(options["clips"])[:, :NUM_SAMPLES]
    random = np.random.default_rng(0)
    # Compiled by XLA it is two to three times slower on a CPU, so that is not tried by default.
    how = "XLA" if options["tensorflow_xla"] else "graph"
    system = System(jit_compile=options["tensorflow_xla"])
    system.adapt(clips[:128])

    def steps():
        for _ in range(options["steps"]):
            loss, _ = system.train_step(clips[random.integers(len(clips), size=BATCH)])
        return {"loss": float(loss)}

    tasks: turns.Tasks = {f"workshop's shape in TensorFlow, {how}": steps}
    weights = sum(int(np.prod(w.shape)) for w in system.weights)
    return {**about(), "batch_size": BATCH, "weights": weights}, tasks


def prepare_generation(options: dict[str, Any]) -> tuple[dict[str, Any], turns.Tasks]:
    """Draws, decodes and writes options["num"] WAV files a turn, in batches."""
    import soundfile

    system = System()
    system.adapt(np.load(options["clips"])[:64, :NUM_SAMPLES])
    folder = Path(options["folder"]) / "tensorflow"
    folder.mkdir()
    random = np.random.default_rng(0)

    def sounds():
        for start in range(0, options["num"], options["batch_size"]):
            size = min(options["batch_size"], options["num"] - start)
            z = random.standard_normal((size, LATENT_DIM), np.float32)
            for i, waveform in enumerate(np.asarray(system.generate(z))):
                waveform = waveform / max(float(np.abs(waveform).max()), 1e-9)
                soundfile.write(folder / f"{start + i:05d}.wav", waveform, SAMPLE_RATE, "PCM_16")

    return about(), {"workshop's shape in TensorFlow": sounds}


def prepare_fit(options: dict[str, Any]) -> tuple[dict[str, Any], turns.Tasks]:
    """Trains for options["minutes"], then rebuilds options["held_out"] into options["rebuilt"]."""
    clips = np.load(options["clips"])[:, :NUM_SAMPLES]
    held_out = np.load(options["held_out"])[:, :NUM_SAMPLES]
    system = System()
    system.adapt(clips[:512])
    random = np.random.default_rng(0)

    def fit():
        # Building the graph is not training.
        system.train_step(clips[:BATCH])
        started, steps, losses = time.perf_counter(), 0, []
        while time.perf_counter() - started < 60 * options["minutes"]:
            for start in range(0, len(order := random.permutation(len(clips))) - BATCH + 1, BATCH):
                rows = np.sort(order[start : start + BATCH])
                loss, kl = system.train_step(clips[rows])
                losses.append((float(loss), float(kl)))
                steps += 1
                if time.perf_counter() - started >= 60 * options["minutes"]:
                    break
        trained = time.perf_counter() - started
        rebuilt = np.zeros((len(held_out), NUM_SAMPLES), np.float32)
        for start in range(0, len(held_out), BATCH):
            part = np.asarray(system.rebuild(held_out[start : start + BATCH]))
            # Its first frame began one hop into the sound.
            at = FIRST_FRAME * HOP_LENGTH
            rebuilt[start : start + BATCH, at : at + part.shape[1]] = part
        np.save(options["rebuilt"], rebuilt)
        last = np.mean(losses[-32:], axis=0)
        return {
            "steps": steps,
            "train_seconds": trained,
            "clips_per_second": steps * BATCH / trained,
            "first_loss": losses[0][0],
            "last_loss": float(last[0]),
            "kl": float(last[1]),
        }

    return about(), {"fit": fit}


PARTS = {"train": prepare_training, "generate": prepare_generation, "fit": prepare_fit}


if __name__ == "__main__":
    turns.serve(lambda options: PARTS[options["part"]](options))
