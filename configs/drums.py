"""Drum one-shots: one second at 44.1 kHz, frames close together.

    python train.py --config configs/drums.py                  the built-in kicks, snares, hats ...
    python train.py --config configs/drums.py --data FOLDER    your own

On 221 recorded drums of six kits, 28 more held out: audio of the held-out ones within 1.02 dB (mel
L1) at step 0, which is PCA of changed copies, and 0.92 at step 300. Drums of four kits that it
never heard: 1.11 dB, 0.88 times plain PCA (docs/real-sounds.md says of which sets). On the built-in
drums, on two cores of a Xeon (AVX-512): 324 s in all; 0.44 dB at step 0, 0.41 at step 300.

A drum is over its attack in a few milliseconds: frames of 23 ms every 5.8 ms place it twice as well
as those of the default. Hats and claps are noise, whose phase no recovery can get wrong.
"""

import dataclasses

from configs.default import get_config as get_default
from vaejax.config import Config


def get_config() -> Config:
    default = get_default()
    return dataclasses.replace(
        default,
        data=dataclasses.replace(
            default.data, synth_families=("kick", "snare", "hat", "tom", "clap")
        ),
        features=dataclasses.replace(default.features, n_fft=1024, hop_length=256),
        # A kick three semitones up, or through an equaliser, is the kick of another kit.
        augment=dataclasses.replace(
            default.augment, pitch_semitones=3, pitch_probability=0.6, eq_db=4.0
        ),
        # The frames are twice as many: one more halving reaches as far.
        model=dataclasses.replace(
            default.model, num_stages=4, num_directions=512, num_refinements=2
        ),
        objective=dataclasses.replace(default.objective, mel_weight=60_000.0),
        # A few hundred sounds are learned by heart, which decay of the weights slows down.
        train=dataclasses.replace(
            default.train,
            num_steps=300,
            weight_decay=2.0,
            eval_every_steps=50,
            save_every_steps=50,
        ),
    )
