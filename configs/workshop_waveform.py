"""The original workshop's second system: convolutions on the samples themselves, eight latents.

    python train.py --config configs/workshop_waveform.py

On two cores of an AMD EPYC (AVX-512), on the built-in set: 206 s in all, 50 clips/s. Held-out audio
within 9.5 dB (mel L1) of what it should be, 0.57 times PCA of the samples, and from 18.3 at step 0.

Six stages of 8, 8, 16, 16, 32 and 32 channels, as the original's, but for clips of any length, from
random weights (no linear path). The distance of short-time spectra at several resolutions is the
likelihood: of the samples themselves, a mean over sounds whose partials are not in step is silence.
A demonstration of what representations are for: those of the other presets sound better.
"""

import dataclasses

from configs.default import get_config as get_default
from vaejax.config import Config


def get_config() -> Config:
    default = get_default()
    return dataclasses.replace(
        default,
        features=dataclasses.replace(default.features, kind="waveform"),
        model=dataclasses.replace(
            default.model,
            kind="waveform",
            latent_dim=8,
            width=8,
            num_stages=6,
            ppca_clips=0,
        ),
        objective=dataclasses.replace(default.objective, likelihood="multi_resolution_stft"),
        # From random weights there is more to learn in a step.
        train=dataclasses.replace(default.train, learning_rate=2e-3, batch_size=16),
    )
