"""A dense VAE on single STFT frames with eight latents each, after CANNe and MANNe.

    python train.py --config configs/canne.py --data FOLDER
    python sample.py --workdir runs/canne --out loops --num 16 --hold 4

TODO-LEAD
"""

import dataclasses

from configs.default import get_config as get_default
from vaejax.config import Config


def get_config() -> Config:
    default = get_default()
    return dataclasses.replace(
        default,
        features=dataclasses.replace(default.features, n_fft=4096, hop_length=1024),
        model=dataclasses.replace(
            default.model,
            kind="frames",
            latent_dim=8,
            # Eight directions are the linear path of a frame; nothing here reads further ones.
            num_directions=8,
            # Frames are many: 512 clips are 22,528 of them.
            ppca_clips=512,
        ),
    )
