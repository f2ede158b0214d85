"""A packed sound as a clip, as the config says: as it is, or as training sees it once."""

from vaejax.config import Config
from vaejax.data import batches


def raw_clip(pcm, length, config: Config):
    """A packed sound [pack_samples] int16 as a clip [num_samples], unchanged but for the cut."""
    return batches.raw_clip(
        pcm,
        length,
        num_samples=config.data.num_samples,
        fade_samples=round(config.data.fade_ms * 1e-3 * config.data.sample_rate),
    )


def augmented_clip(key, pcm, length, config: Config):
    """A packed sound [pack_samples] int16 as a training clip [num_samples], and its semitones."""
    return batches.augmented_clip(
        key,
        pcm,
        length,
        num_samples=config.data.num_samples,
        fade_samples=round(config.data.fade_ms * 1e-3 * config.data.sample_rate),
        gain_db=config.augment.gain_db,
        shift_samples=config.augment.shift_ms * 1e-3 * config.data.sample_rate,
        pitch_semitones=config.augment.pitch_semitones,
        pitch_probability=config.augment.pitch_probability,
        sample_rate=config.data.sample_rate,
        eq_db=config.augment.eq_db,
        eq_probability=config.augment.eq_probability,
    )
