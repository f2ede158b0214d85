"""Augmentations: what they change, what they keep, and that a key decides everything."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.signal import augment

ONES = jnp.ones((20, 15))


def masks(num, **options):
    keys = jax.random.split(jax.random.key(0), num)
    defaults = {"freq_mask_param": 4, "time_mask_param": 6, "mask_value": 0.0}
    one = jax.jit(lambda key: augment.spec_augment(key, ONES, **{**defaults, **options}))
    return np.asarray(jax.vmap(one)(keys)) == 0


def test_spec_augment_masks_whole_bands_no_wider_than_asked():
    masked = masks(300)
    rows, columns = masked.all(axis=2), masked.all(axis=1)
    np.testing.assert_array_equal(masked, rows[:, :, None] | columns[:, None, :])
    assert set(rows.sum(axis=1)) == set(range(7))
    assert set(columns.sum(axis=1)) == set(range(5))
    for line in np.concatenate([rows, np.pad(columns, ((0, 0), (0, 5)))]):
        assert np.abs(np.diff(np.pad(line, 1).astype(int))).sum() <= 2


def test_spec_augment_can_mask_every_place_and_axes_are_independent():
    masked = masks(300)
    assert masked.any(axis=0).all()
    rows, columns = masked.all(axis=2).sum(axis=1), masked.all(axis=1).sum(axis=1)
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.2


def test_spec_augment_without_masks_or_width_is_the_identity():
    key = jax.random.key(1)
    for options in ({"n_freq_masks": 0, "n_time_masks": 0}, {}):
        widths = {"freq_mask_param": 0, "time_mask_param": 0}
        if options:
            widths = {"freq_mask_param": 5, "time_mask_param": 5}
        got = jax.jit(partial(augment.spec_augment, **widths, **options))(key, ONES)
        np.testing.assert_array_equal(got, ONES)


def test_spec_augment_masks_channels_together_and_keeps_the_type():
    values = jnp.ones((20, 15, 3), jnp.bfloat16)
    got = augment.spec_augment(
        jax.random.key(3), values, freq_mask_param=8, time_mask_param=8, n_freq_masks=2,
        mask_value=-1.0,
    )  # fmt: skip
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, got[..., :1] * values)
    assert np.any(got == -1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"freq_mask_param": 500}, "freq_mask_param=500 must be from 0 to 15"),
        ({"time_mask_param": 21}, "time_mask_param=21 must be from 0 to 20"),
        ({"freq_mask_param": -1}, "freq_mask_param=-1"),
        ({"n_time_masks": -1}, "number of masks must be 0 or more"),
    ],
)
def test_spec_augment_refuses_masks_that_do_not_fit(options, match):
    defaults = {"freq_mask_param": 2, "time_mask_param": 2}
    with pytest.raises(ValueError, match=match):
        augment.spec_augment(jax.random.key(0), ONES, **{**defaults, **options})


def test_spec_augment_refuses_a_vector():
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        augment.spec_augment(jax.random.key(0), jnp.ones(5), freq_mask_param=1, time_mask_param=1)


def test_swapped_channels_are_every_permutation_and_nothing_else():
    waveform = jnp.arange(12.0).reshape(3, 4)
    keys = jax.random.split(jax.random.key(0), 200)
    got = np.asarray(jax.vmap(augment.swap_channels, in_axes=(0, None))(keys, waveform))
    orders = {tuple(x[:, 0].astype(int) // 4) for x in got}
    assert len(orders) == 6
    np.testing.assert_array_equal(np.sort(got, axis=1), np.broadcast_to(waveform, got.shape))


def test_polarity_is_plus_or_minus_one_equally_often():
    keys = jax.random.split(jax.random.key(0), 400)
    got = jax.vmap(lambda key: augment.random_polarity(key, jnp.ones(3)))(keys)
    assert set(np.unique(got)) == {-1.0, 1.0}
    assert abs(float(jnp.mean(got))) < 0.2


def test_gain_is_uniform_in_db_between_its_limits():
    keys = jax.random.split(jax.random.key(0), 400)
    got = jax.vmap(lambda key: augment.random_gain(key, jnp.ones(1), low_db=-12.0, high_db=6.0))(keys)  # noqa: E501  # fmt: skip
    db = 20 * np.log10(np.asarray(got))
    assert -12.01 <= db.min() < -11
    assert 5 < db.max() <= 6.01
    assert abs(db.mean() + 3) < 1
    with pytest.raises(ValueError, match=r"low_db=3.0 must not exceed high_db=1.0"):
        augment.random_gain(keys[0], jnp.ones(1), low_db=3.0, high_db=1.0)


def test_equaliser_has_normal_gains_in_its_bands_and_nothing_before_the_sound():
    rate, start = 16_000, 300
    click = jnp.zeros(8_000).at[start].set(1.0)
    keys = jax.random.split(jax.random.key(0), 400)
    filtered = jax.vmap(partial(augment.random_eq, waveform=click, sample_rate=rate, eq_db=5.0))
    got = np.asarray(filtered(keys), np.float64)
    np.testing.assert_array_equal(got[:, :start], 0)
    # Ringing is over a quarter of a second later: silence is silence, without rounding.
    np.testing.assert_array_equal(got[:, start + 6000 :], 0)
    hz = np.fft.rfftfreq(16_000, 1 / rate)
    db = 20 * np.log10(np.abs(np.fft.rfft(got[:, start:], 16_000)))
    bands = 40 * 2 ** (1.5 * np.arange(1, 6))
    at_bands = db[:, [np.abs(hz - band).argmin() for band in bands]]
    # Four standard errors of 400 draws are 1.0 of the mean and 0.7 of the deviation.
    np.testing.assert_allclose(at_bands.mean(0), 0, atol=1.0)
    np.testing.assert_allclose(at_bands.std(0), 5, atol=0.7)
    np.testing.assert_allclose(np.corrcoef(at_bands.T), np.eye(5), atol=0.2)
    # Straight between two bands, over the logarithm of frequency.
    between = db[:, np.abs(hz - np.sqrt(bands[1] * bands[2])).argmin()]
    np.testing.assert_allclose(between, at_bands[:, 1:3].mean(1), atol=0.1)
    # Jensen's formula: of all causal filters with these magnitudes, that of minimum phase alone
    # begins with the exponential of their mean logarithm.
    whole = np.concatenate([db, db[:, -2:0:-1]], 1)
    np.testing.assert_allclose(20 * np.log10(np.abs(got[:, start])), whole.mean(1), atol=0.05)


def test_equaliser_without_gain_is_the_identity_and_bad_bands_are_refused():
    clip = jnp.sin(jnp.arange(3000) * 0.1)
    key = jax.random.key(0)
    got = augment.random_eq(key, clip, sample_rate=8000, eq_db=0.0)
    np.testing.assert_allclose(got, clip, atol=1e-6)
    with pytest.raises(ValueError, match=r"fmin=4000.0 must lie between 0 and 4000.0"):
        augment.random_eq(key, clip, sample_rate=8000, eq_db=6.0, fmin=4000.0)
    with pytest.raises(ValueError, match=r"octaves=0 must be positive"):
        augment.random_eq(key, clip, sample_rate=8000, eq_db=6.0, octaves=0)


def test_noise_lies_at_its_ratio_below_the_signal_and_silence_stays_silent():
    clip = jnp.sin(jnp.arange(20000) * 0.1)
    noisy = jax.jit(partial(augment.add_noise, snr_db=20.0))
    noise = noisy(jax.random.key(0), clip) - clip
    ratio = 10 * np.log10(float(jnp.mean(clip**2) / jnp.mean(noise**2)))
    assert abs(ratio - 20) < 0.2
    assert not np.any(noisy(jax.random.key(0), jnp.zeros(20000)))


def test_the_key_alone_decides():
    one = jax.jit(lambda key: augment.spec_augment(key, ONES, freq_mask_param=4, time_mask_param=6))
    np.testing.assert_array_equal(one(jax.random.key(5)), one(jax.random.key(5)))
    assert not np.array_equal(one(jax.random.key(5)), one(jax.random.key(6)))
