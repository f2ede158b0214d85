"""NSynth (Engel et al. 2017): four seconds at 16 kHz, told the pitch and the family.

    python train.py --config configs/nsynth.py --data nsynth-train
    python sample.py --workdir runs/nsynth --out notes --label bass --pitch C2-C4 --num 25

The folder is one of the three that https://magenta.tensorflow.org/datasets/nsynth offers: a file
examples.json beside a folder audio/. `--condition.factors velocity` tells the velocity as well.
Without --data it trains on the built-in set: on two cores of an AMD EPYC (AVX-512) 259 s in all,
103 clips/s; held-out audio within 1.08 dB (mel L1) at step 0, which is PCA, and 0.91 at step 500.

Notes of NSynth hold for three seconds and then let go: four seconds keep the release. Its pitches
are a semitone apart already, so the clips are not moved in pitch.
"""

import dataclasses

from configs.default import get_config as get_default
from vaejax.config import Condition, Config


def get_config() -> Config:
    default = get_default()
    return dataclasses.replace(
        default,
        data=dataclasses.replace(
            default.data, sample_rate=16_000, clip_seconds=4.0, nsynth_label="family"
        ),
        features=dataclasses.replace(default.features, n_fft=1024, hop_length=256),
        augment=dataclasses.replace(default.augment, pitch_semitones=0),
        model=dataclasses.replace(default.model, num_stages=4),
        condition=Condition(label=True, pitch=True),
    )
