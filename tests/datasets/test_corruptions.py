from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from small_problems import critical_value

from bayesify.datasets.corrupt_images import IMAGE_CORRUPTIONS, corrupt_images
from bayesify.datasets.corrupt_tables import TABLE_CORRUPTIONS, corrupt_table, table_corruptions

RANDOM_IMAGES = {"gaussian_noise", "shot_noise", "impulse_noise", "rotation", "translation", "occlusion"}


def pictures(num_images: int = 64) -> np.ndarray:
    """Bright shapes with texture on black, in two channels."""
    images = np.zeros((num_images, 2, 28, 28))
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(num_images, 2, 16, 15)), (0, 0, 1.2, 1.2))
    images[:, :, 5:21, 7:22] = np.clip(0.5 + texture, 0.05, 0.95)
    return images


def rows(num_rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "a": rng.normal(5, 2, num_rows),
            "b": rng.exponential(1, num_rows),
            "n": rng.integers(0, 9, num_rows),
            "flag": rng.integers(0, 2, num_rows),
            "word": rng.choice(["x", "y", "y"], num_rows).astype(object),
            "day": pd.date_range("2024-01-01", periods=num_rows),
        }
    )


@pytest.mark.parametrize("name", IMAGE_CORRUPTIONS)
def test_images_stay_images_and_repeat(name: str) -> None:
    images = pictures()
    for severity in (1, 5):
        found = corrupt_images(images, name, severity, seed=3)
        assert found.shape == images.shape
        assert 0 <= found.min() <= found.max() <= 1
        assert not np.array_equal(found, images)
        np.testing.assert_array_equal(found, corrupt_images(images, name, severity, seed=3))
        same = np.array_equal(found, corrupt_images(images, name, severity, seed=4))
        assert same == (name not in RANDOM_IMAGES)
    np.testing.assert_array_equal(images, pictures())


@pytest.mark.parametrize("name", IMAGE_CORRUPTIONS)
def test_images_are_worse_with_every_severity(name: str) -> None:
    images = pictures()
    away = [np.abs(corrupt_images(images, name, severity, 0) - images).mean() for severity in range(1, 6)]
    # What has turned or moved out of its place is as wrong as it can be, by pixels.
    assert all(more > 0.9 * less for less, more in pairwise(away))
    assert away[4] > 1.2 * away[0]


def test_gaussian_noise_has_its_scale() -> None:
    grey = np.full((50, 1, 28, 28), 0.5)
    noise = corrupt_images(grey, "gaussian_noise", 1, 0) - 0.5
    # The sample standard deviation of n normal numbers varies by scale/√(2n); clipping is 6 standard deviations away.
    assert abs(noise.std() - 0.08) < critical_value(2) * 0.08 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < critical_value(2) * 0.08 / np.sqrt(noise.size)


def test_shot_noise_has_the_variance_of_photons() -> None:
    grey = np.full((50, 1, 28, 28), 0.4)
    noise = corrupt_images(grey, "shot_noise", 1, 0)
    variance = 0.4 / 60
    kurtosis = 3 + 1 / 24  # of Poisson(24)
    assert abs(noise.mean() - 0.4) < critical_value(2) * np.sqrt(variance / noise.size)
    assert abs(noise.var() - variance) < critical_value(2) * variance * np.sqrt((kurtosis - 1) / noise.size)


def test_translation_moves_and_fills_with_black() -> None:
    images = pictures()
    moved = corrupt_images(images, "translation", 2, 0)
    for before, after in zip(images, moved, strict=True):
        assert any(
            np.array_equal(np.roll(before, (i, j), (1, 2)), after) for i in (-3, 0, 3) for j in (-3, 0, 3) if i or j
        )  # the shape is far enough from the edges for the roll to bring in black


def test_rotation_turns_by_its_degrees() -> None:
    images = np.zeros((8, 1, 29, 29))
    images[:, :, 14, 24] = 1.0  # ten to the right of the centre
    turned = corrupt_images(images, "rotation", 3, 0)[:, 0]
    for one in turned:
        down, right = (
            np.sum(one * np.arange(29)[axis]) / one.sum() - 14 for axis in ((slice(None), None), (None, slice(None)))
        )
        assert abs(np.degrees(np.arctan2(down, right))) == pytest.approx(30, abs=2)


def test_the_rest_does_what_it_says() -> None:
    images = pictures()
    mean = images.mean((-2, -1), keepdims=True)
    np.testing.assert_allclose(corrupt_images(images, "contrast", 2, 0), mean + 0.5 * (images - mean), atol=1e-12)
    np.testing.assert_allclose(corrupt_images(images, "brightness", 1, 0), np.minimum(images + 0.1, 1), atol=1e-12)
    coarse = corrupt_images(images, "pixelate", 5, 0)  # 7 × 7 blocks of 4 × 4
    blocks = images.reshape(64, 2, 7, 4, 7, 4).mean((3, 5))
    np.testing.assert_allclose(coarse, blocks.repeat(4, 2).repeat(4, 3), atol=1e-12)
    covered = corrupt_images(np.zeros((9, 1, 28, 28)), "occlusion", 3, 0) == 0.5
    assert set(covered.sum((1, 2, 3))) == {100}
    flipped = corrupt_images(np.full((50, 1, 28, 28), 0.5), "impulse_noise", 4, 0) != 0.5
    assert abs(flipped.mean() - 0.17) < critical_value() * np.sqrt(0.17 * 0.83 / flipped.size)


@pytest.mark.parametrize("name", TABLE_CORRUPTIONS)
def test_tables_keep_their_form_and_repeat(name: str) -> None:
    train = rows()
    frame = train.iloc[50:90]
    found = corrupt_table(frame, train, name, 5, seed=1)
    assert found.shape == frame.shape
    assert list(found.index) == list(frame.index)
    assert not found.equals(frame)
    pd.testing.assert_frame_equal(found, corrupt_table(frame, train, name, 5, seed=1))
    assert set(found["flag"]) <= {0, 1}
    assert set(found["word"]) <= {"x", "y"}
    pd.testing.assert_frame_equal(frame, rows().iloc[50:90])


@pytest.mark.parametrize("name", TABLE_CORRUPTIONS)
def test_tables_are_worse_with_every_severity(name: str) -> None:
    train = rows()
    scale = train[["a", "b"]].std()
    away = [
        ((corrupt_table(train, train, name, severity, 0)[["a", "b"]] - train[["a", "b"]]) / scale).abs().mean().mean()
        for severity in range(1, 6)
    ]
    assert away == sorted(away)
    assert away[4] > 3 * away[0]


def test_numbers_move_by_standard_deviations_of_the_training_rows() -> None:
    train = rows()
    scale, mean = train["b"].std(ddof=0), train["b"].mean()
    drift = corrupt_table(train, train, "offset", 3, 0)["b"] - train["b"]
    np.testing.assert_allclose(np.abs(drift), 0.4 * scale, rtol=1e-9)
    assert drift.nunique() <= 2 or np.ptp(drift) < 1e-12
    factor = (corrupt_table(train, train, "gain", 3, 0)["b"] - mean) / (train["b"] - mean)
    assert min(abs(factor.iloc[0] - 2), abs(factor.iloc[0] - 0.5)) < 1e-9
    np.testing.assert_allclose(factor, factor.iloc[0], rtol=1e-6)
    steps = (corrupt_table(train, train, "rounding", 2, 0)["b"] - mean) / (0.5 * scale)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    noise = (corrupt_table(train, train, "noise", 5, 0)["b"] - train["b"]) / scale
    assert abs(noise.std() - 1) < critical_value() / np.sqrt(2 * len(noise))


def test_lost_values_become_the_usual_ones() -> None:
    train = rows()
    found = corrupt_table(train, train, "missing", 5, 0)
    lost = found["a"] != train["a"]
    np.testing.assert_allclose(found["a"][lost], train["a"].mean())
    assert abs(lost.mean() - 0.5) < critical_value() * np.sqrt(0.25 / len(lost))
    assert set(found["word"][found["word"] != train["word"]]) == {"y"}
    assert found["day"].equals(train["day"])


def test_swapped_values_are_values_of_the_column() -> None:
    train = rows()
    found = corrupt_table(train.iloc[:100], train, "swapped", 5, 0)
    for name in train.columns:
        assert found[name].isin(train[name]).all()
        assert found[name].dtype == train[name].dtype


def test_missing_values_stay_missing() -> None:
    train = rows()
    train.loc[3, "a"] = np.nan
    for name in ("noise", "offset", "gain", "rounding", "outliers"):
        assert corrupt_table(train, train, name, 3, 0)["a"].isna().to_numpy().nonzero()[0].tolist() == [3]


def test_a_table_of_words_can_lose_and_swap_values_only() -> None:
    words = rows()[["word", "flag"]]
    assert table_corruptions(words) == ("missing", "swapped")
    assert table_corruptions(rows()) == tuple(TABLE_CORRUPTIONS)
