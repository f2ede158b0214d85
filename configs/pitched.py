"""The default, told the label and the pitch of every sound: `sample.py --label` and `--pitch`.

    python train.py --config configs/pitched.py
    python sample.py --workdir runs/pitched --out scale --pitch C3-C5 --num 25

The built-in set knows its pitches. A folder of yours needs to say them, in the names
(`--data.pitch_pattern '_(?P<pitch>[A-G]s?\\d)_'`) or by being measured (`--data.estimate_pitch`).
"""

import dataclasses

from configs.default import get_config as get_default
from vaejax.config import Condition, Config


def get_config() -> Config:
    return dataclasses.replace(get_default(), condition=Condition(label=True, pitch=True))
