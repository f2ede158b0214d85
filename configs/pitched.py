"""The default, told the label and the pitch of every sound: `sample.py --label` and `--pitch`.

    python train.py --config configs/pitched.py
    python sample.py --workdir runs/pitched --out scale --pitch C3-C5 --num 25

On two cores of an AMD EPYC (AVX-512), on the built-in set: 163 s in all; held-out audio within
1.39 dB (mel L1) at step 0, which is PCA of what being told does not explain, and 1.25 at the end.
Of held-out notes played 4 semitones from their own pitch, about 8 in 10 are heard at the key that
was told (`benchmarks.pitch`).

The built-in set knows its pitches. A folder of yours needs to say them, in the names
(`--data.pitch_pattern '_(?P<pitch>[A-G]s?\\d)_'`) or by being measured (`--data.estimate_pitch`).
"""

import dataclasses

from configs.default import get_config as get_default
from vaejax.config import Condition, Config


def get_config() -> Config:
    return dataclasses.replace(get_default(), condition=Condition(label=True, pitch=True))
