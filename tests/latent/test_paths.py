"""Paths through the latent."""

import numpy as np
import pytest

from vaejax.latent import paths

RNG = np.random.default_rng(0)
A, B, MEAN = RNG.normal(size=(3, 6))
CHOLESKY = np.linalg.cholesky(np.cov(RNG.normal(size=(6, 40))))
T = np.linspace(0, 1, 9)


def white(z):
    return np.linalg.solve(CHOLESKY, (z - MEAN).T).T


def test_straight_path_has_equal_steps_between_its_ends():
    path = paths.straight(A, B, T)
    np.testing.assert_allclose(path, A + T[:, None] * (B - A), rtol=1e-6, atol=1e-6)
    assert path.dtype == np.float32


def test_spherical_path_turns_evenly_and_keeps_its_distance_from_the_mean():
    path = paths.spherical(A, B, T, mean=MEAN, cholesky=CHOLESKY)
    np.testing.assert_allclose(path[[0, -1]], [A, B], atol=1e-5)
    w = white(path)
    length = np.linalg.norm(w, axis=1)
    np.testing.assert_allclose(length, np.linspace(length[0], length[-1], 9), rtol=1e-4)
    unit = w / length[:, None]
    angles = np.arccos((unit[1:] * unit[:-1]).sum(1))
    np.testing.assert_allclose(angles, angles[0], rtol=1e-3)
    # In the plane of its ends, and not the long way round.
    assert np.linalg.matrix_rank(w, tol=1e-4) == 2
    assert angles.sum() < np.pi


def test_spherical_path_of_the_unit_gaussian_is_slerp():
    a, b = A / np.linalg.norm(A), B / np.linalg.norm(B)
    angle = np.arccos(a @ b)
    slerp = np.outer(np.sin((1 - T) * angle), a) + np.outer(np.sin(T * angle), b)
    path = paths.spherical(a, b, T, mean=np.zeros(6), cholesky=np.eye(6))
    np.testing.assert_allclose(path, slerp / np.sin(angle), atol=1e-6)


@pytest.mark.parametrize("b", [MEAN, 2 * MEAN - A, A])
def test_where_no_circle_is_given_the_path_is_straight(b):
    path = paths.spherical(A, b, T, mean=MEAN, cholesky=CHOLESKY)
    np.testing.assert_allclose(path, paths.straight(A, b, T), atol=1e-5)


def test_bilinear_map_has_the_corners_and_is_straight_along_both_axes():
    corners = RNG.normal(size=(4, 6))
    u, v = np.array([0, 1, 0, 1, 0.5, 0.25]), np.array([0, 0, 1, 1, 0.5, 0])
    points = paths.bilinear(corners, u, v)
    np.testing.assert_allclose(points[:4], corners, atol=1e-6)
    np.testing.assert_allclose(points[4], corners.mean(0), atol=1e-6)
    np.testing.assert_allclose(points[5], 0.75 * corners[0] + 0.25 * corners[1], atol=1e-6)


@pytest.mark.parametrize(
    ("num", "shape"), [(4, (2, 2)), (5, (2, 2)), (10, (3, 3)), (12, (3, 4)), (64, (8, 8))]
)
def test_grid_is_the_nearest_one(num, shape):
    assert paths.grid_shape(num) == shape
    # No grid of as many rows is nearer.
    rows, columns = shape
    assert abs(rows * columns - num) <= min(abs(rows * c - num) for c in range(2, 40))
