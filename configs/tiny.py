"""Half-second sounds at 16 kHz in seconds: first contact and tests.

On two cores of a Xeon (AVX-512): 32 s in all, most of it compilation; held-out audio within
6.15 dB (mel L1), from 6.29 at step 0. Too short a run to sound good.
"""

from vaejax.config import Augment, Config, Data, Features, Model, Train


def get_config() -> Config:
    return Config(
        data=Data(sample_rate=16_000, clip_seconds=0.5, synth_count=192),
        features=Features(n_fft=512, hop_length=128),
        augment=Augment(pitch_semitones=1),
        model=Model(
            latent_dim=16,
            width=64,
            num_stages=2,
            num_directions=64,
            dense_width=128,
            ppca_clips=256,
        ),
        train=Train(
            num_steps=60,
            batch_size=16,
            warmup_steps=5,
            ema_decay=0.9,
            eval_every_steps=20,
            save_every_steps=20,
        ),
    )
