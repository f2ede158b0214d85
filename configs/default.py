"""One-second one-shots at 44.1 kHz: what `python train.py` runs with no arguments."""

from vaejax.config import Config


def get_config() -> Config:
    return Config()
