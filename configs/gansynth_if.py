"""Magnitude and instantaneous frequency of mel bands, GANSynth's best representation (Engel et al.
2019): the model says the phase as well, and nothing is recovered.

    python train.py --config configs/gansynth_if.py

On two cores of an AMD EPYC (AVX-512), on the built-in set: 156 s in all, 180 clips/s; held-out
audio within 1.55 dB (mel L1) at step 0, which is PCA, and 1.27 at step 500.

In 256 bands two numbers per band are half as many as the default's. What the phase costs: under PCA
the same held-out notes come back within 3.0 dB (mel L1) here and 2.8 dB by magnitudes and phase
recovery (docs/representations.md), with the same 64 dimensions for both.
"""

import dataclasses

from configs.default import get_config as get_default
from vaejax.config import Config


def get_config() -> Config:
    default = get_default()
    features = dataclasses.replace(default.features, kind="mel_if", n_mels=256)
    return dataclasses.replace(default, features=features)
