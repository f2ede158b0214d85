"""Figures of merit: of two sounds, of two sets of sounds, and how sure they are.

sounds      distances between a sound and its reconstruction
kinds       tonal, drum or noise
embedding   sounds as points whose distances follow what is heard
sets        distances between two sets of such points
intervals   bootstrap intervals of means and of their differences
"""

from vaejax.metrics.embedding import (
    EMBEDDING_DIM,
    EMBEDDING_FRAMES,
    EMBEDDING_MELS,
    Embedding,
    embed,
    fit_embedding,
    nearest,
    pooled_log_mel,
)
from vaejax.metrics.kinds import KINDS, kind
from vaejax.metrics.sounds import (
    attack_error_db,
    auraloss_stft,
    body_db,
    body_level_db,
    lsd_db,
    magnitude_lsd_db,
    match_energy,
    mel_db,
    mel_l1_db,
    onset,
    onset_step,
    si_sdr_db,
    spectral_convergence_db,
    stft_distance,
)

__all__ = [
    "EMBEDDING_DIM",
    "EMBEDDING_FRAMES",
    "EMBEDDING_MELS",
    "KINDS",
    "Embedding",
    "attack_error_db",
    "auraloss_stft",
    "body_db",
    "body_level_db",
    "embed",
    "fit_embedding",
    "kind",
    "lsd_db",
    "magnitude_lsd_db",
    "match_energy",
    "mel_db",
    "mel_l1_db",
    "nearest",
    "onset",
    "onset_step",
    "pooled_log_mel",
    "si_sdr_db",
    "spectral_convergence_db",
    "stft_distance",
]
