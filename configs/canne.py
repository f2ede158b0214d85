"""A dense VAE on single STFT frames, with eight latents for each, after CANNe and MANNe.

    python train.py --config configs/canne.py --data FOLDER
    python sample.py --workdir runs/canne --out loops --num 16 --hold 4
    python sample.py --workdir runs/canne --out moving --between A.wav B.wav --morph 6

The frames (n_fft 4096, hop 1024), widths and eight latents are the originals' (Colonel, Curro &
Keene 2018; Colonel & Keene 2020). Ours are compressed magnitudes (exponent 0.3), the corrections to
a linear path, and a posterior. On two cores of an AMD EPYC (AVX-512), on the built-in set: 223 s in
all, 108 clips/s; held-out audio within 5.67 dB (mel L1) at step 0, which is PCA of frames, and 3.21
at step 500, still falling. The originals have not been run beside it.

The originals' topologies and losses, as near as settings come: CANNe, a plain autoencoder with a
ReLU bottleneck and the squared error of magnitudes, and MANNe, with a sigmoid one, told the chroma:

    python train.py --config configs/canne.py --workdir runs/canne_original --data FOLDER \\
        --features.exponent 1 --model.bottleneck relu --model.ppca_clips 0 \\
        --model.no_variational --objective.beta 0
    python train.py --config configs/canne.py --workdir runs/manne --data FOLDER \\
        --model.bottleneck sigmoid --model.ppca_clips 0 --condition.chroma --data.estimate_pitch
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
            # The linear path of a frame; nothing here reads further directions.
            num_directions=8,
            # Frames are many: 512 clips of a second are 22,528.
            ppca_clips=512,
        ),
    )
