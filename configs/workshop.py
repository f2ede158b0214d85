"""The original workshop's system: three channels of the plane, 2-D convolutions, eight latents.

    python train.py --config configs/workshop.py

On two cores of an AMD EPYC (AVX-512), on 469 recorded notes: 657 s in all, 16 clips/s. Audio of the
51 held-out ones within 5.09 dB (mel L1) at step 0, which is PCA of all three channels, 3.73 at step
100, 2.95 at step 200 and 2.78 at step 300, all eight latents in use.

One second at 44.1 kHz, n_fft 2048, hop 512; magnitude, phase and dB of every bin, as the original's
network saw them. The linear path stays that of the default: step 0 is probabilistic PCA of those
channels. Eight latents are few enough to turn by hand. The layers of the original are
`--model.layers plain --model.num_stages 4 --model.num_blocks 3 --model.patch 1 1`, its plain VAE
`--model.ppca_clips 0`, its linear magnitudes `--features.exponent 1`.
"""

import dataclasses

from configs.default import get_config as get_default
from vaejax.config import Config


def get_config() -> Config:
    default = get_default()
    return dataclasses.replace(
        default,
        features=dataclasses.replace(default.features, kind="magnitude_phase_db"),
        model=dataclasses.replace(
            default.model,
            kind="conv2d",
            latent_dim=8,
            # Fifteen layers on all 87 x 1025 values take most of a minute for every step: here the
            # first one reads patches of 2 x 4, and channels double as the plane shrinks.
            width=16,
            # Three channels make a direction three times as large as the default's.
            num_directions=96,
            ppca_clips=768,
        ),
        # An angle has no difference from itself a turn later.
        objective=dataclasses.replace(default.objective, likelihood="von_mises"),
        # Ten minutes: a step takes two seconds, and the audio is still getting nearer.
        train=dataclasses.replace(default.train, num_steps=300),
        # The phase that a network says of a mean sound is that of no sound: from its magnitudes a
        # consistent one can be recovered.
        sound=dataclasses.replace(default.sound, inversion="pghi"),
    )
