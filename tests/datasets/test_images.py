import gzip
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets

from bayesify.datasets import image_task, load, make_splits, make_task, prepare
from bayesify.datasets.catalogue import entry
from bayesify.datasets.images import image_fingerprint, image_frame, pixel_range, read_idx
from bayesify.datasets.sources import cache_file, local_files, read_named
from bayesify.datasets.splits import Split
from bayesify.errors import DataError

IMAGES = ["mnist", "fashion-mnist", "notmnist"]


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def colourful(num_rows: int = 40) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (num_rows, 3, 4, 5), dtype=np.uint8) // np.array([1, 2, 4], np.uint8)[:, None, None]


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read(tmp_path: Path, packed: bool) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / ("x.gz" if packed else "x")
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    np.testing.assert_array_equal(read_idx(path), array)


@pytest.mark.parametrize("content", [b"", b"PNG!", idx(np.zeros((3, 2), np.uint8))[:-1], b"\0\0\x08\x03\0"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(DataError, match="no whole idx file of unsigned bytes"):
        read_idx(path)
    packed = tmp_path / "x.gz"
    packed.write_bytes(gzip.compress(idx(np.zeros(9, np.uint8)))[:-9])
    with pytest.raises(DataError, match=r"x\.gz' cannot be read"):
        read_idx(packed)


def test_pixels_are_centred_and_scaled_by_channel_of_the_training_images() -> None:
    images = colourful()
    task = image_task(images, np.arange(40) % 4)
    assert task.image_shape == (3, 4, 5)
    split = Split(np.arange(30), np.arange(30, 40), "own")
    prepared = prepare(task, split)
    assert prepared.X_train.shape == (30, 3, 4, 5)
    assert prepared.X_train.dtype == np.float32
    np.testing.assert_allclose(prepared.X_train.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(prepared.X_train.std((0, 2, 3)), 1, atol=1e-5)
    train = images[:30].astype(np.float64)
    loc, scale = (f(train, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    np.testing.assert_allclose(prepared.X_test, (images[30:] - loc) / scale, rtol=0, atol=1e-5)


def test_constant_pixels_keep_their_place() -> None:
    images = colourful()
    images[:, :, 0] = 0
    task = image_task(images, np.arange(40) % 2)
    np.testing.assert_array_equal(task.features.to_numpy().reshape(images.shape), images)
    assert task.aside.shape == (40, 0)


def test_grey_images_and_numbers() -> None:
    task = image_task(colourful()[:, 0] / 255.0, np.linspace(0, 1, 40))
    assert task.kind == "regression"
    assert task.image_shape == (1, 4, 5)
    assert 0 <= pixel_range(task.features).low < pixel_range(task.features).high <= 1


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="one target per image"):
        image_task(colourful(), np.zeros(39))
    with pytest.raises(DataError, match="finite numbers"):
        image_task(np.full((40, 4, 4), np.nan), np.arange(40) % 2)
    with pytest.raises(DataError, match=r"these \(40, 3, 4, 5, 1\)"):
        image_task(colourful()[..., None], np.arange(40) % 2)


@pytest.fixture(scope="module", params=IMAGES)
def local(request: pytest.FixtureRequest, bayesify_data: Path) -> str:
    if not local_files(entry(request.param)):
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def test_named_images_are_the_published_ones(local: str) -> None:
    item, task = entry(local), load(local)  # the fingerprint is checked while they are read
    assert task.features.shape == (item.rows, 784)
    assert task.classes is not None
    assert set(task.classes) == set(item.labels)
    assert np.bincount(task.target).min() > item.rows / 12
    if item.splits:
        (split,) = make_splits(task, 5)
        assert (split.name, split.train.tolist(), split.test[0]) == ("official", list(range(60_000)), 60_000)
    with pytest.raises(DataError, match="no other target"):
        make_task(local, "pixel 3")


def test_images_come_from_openml_in_their_order_or_not_at_all(
    bayesify_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = read_named("mnist").frame
    monkeypatch.delenv("BAYESIFY_DATA")
    monkeypatch.setenv("BAYESIFY_CACHE", str(tmp_path))
    pixels, labels = frame.iloc[:, :-1], pd.Series(pd.Categorical(frame["label"]), name="class")

    def offer(rows: np.ndarray) -> None:
        found = SimpleNamespace(
            data=pixels.iloc[rows].reset_index(drop=True), target=labels.iloc[rows].reset_index(drop=True)
        )
        monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda **_: found)

    offer(np.arange(70_000)[::-1])
    with pytest.raises(DataError, match="not the published ones in their order"):
        load("mnist")
    cache_file(entry("mnist")).unlink()
    offer(np.arange(70_000))
    task = load("mnist")
    assert image_fingerprint(task.features.to_numpy(), task.target) == entry("mnist").fingerprint
    assert task.splits is not None


def test_fingerprint_sees_order_and_labels() -> None:
    pixels, labels = image_frame(colourful()).to_numpy(), np.arange(40)
    found = {
        image_fingerprint(pixels, labels),
        image_fingerprint(pixels[::-1], labels),
        image_fingerprint(pixels, labels[::-1]),
    }
    assert len(found) == 3
