"""Data sets of small images: idx files, a hash of the rows, and pixels → arrays that networks take.

In a task an image is a row of pixels, channel by channel, so that splits, fingerprints and records are those of tables;
``Task.image_shape`` says how to fold it.
"""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayesify.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

ImageShape = tuple[int, int, int]
"""(channels, height, width)."""

UNSIGNED_BYTE = 8  # the idx format's code for it
CHUNK = 1000  # images whose statistics are summed at a time, to spare memory


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file of unsigned bytes, as MNIST comes; gzipped or not.

    Raises:
        DataError: it is not one.
    """
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read ({error}): get the file again.") from error
    axes = content[3] if len(content) > 3 and content[:3] == bytes([0, 0, UNSIGNED_BYTE]) else 0
    shape = np.frombuffer(content, ">u4", count=axes, offset=4) if len(content) >= 4 + 4 * axes else np.array([])
    if not axes or len(content) != 4 + 4 * axes + int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{str(path)!r} is no whole idx file of unsigned bytes: get the file again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape.astype(np.int64))


def image_frame(images: np.ndarray) -> "pd.DataFrame":
    """(n, ...) images as a frame of one row of pixels each; shares memory with the array."""
    import pandas as pd

    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    return pd.DataFrame(rows, columns=[f"pixel {number}" for number in range(rows.shape[1])], copy=False)


def image_shape_of(images: np.ndarray) -> ImageShape:
    """Of (n, height, width) or (n, channels, height, width).

    Raises:
        DataError: these are no images, or hold no numbers, or not only finite ones.
    """
    if images.ndim not in (3, 4):
        raise DataError(
            f"Images have shape (rows, height, width) or (rows, channels, height, width), and these {images.shape}: "
            "use bayesify.fit and bayesify.evaluate for other inputs."
        )
    if images.dtype.kind not in "uif" or not np.isfinite(images).all():
        raise DataError(
            f"Images hold finite numbers, and these {images.dtype} or values that are not finite: mend them."
        )
    channels = images.shape[1] if images.ndim == 4 else 1
    return channels, int(images.shape[-2]), int(images.shape[-1])


def image_fingerprint(pixels: np.ndarray, labels: np.ndarray) -> str:
    """A hash of (n, pixels) unsigned bytes and (n,) labels, in their order."""
    digest = hashlib.sha256(np.ascontiguousarray(pixels, dtype=np.uint8).tobytes())
    digest.update(np.ascontiguousarray(labels, dtype=np.uint8).tobytes())
    return digest.hexdigest()[:16]


class PixelRange(NamedTuple):
    """What black and white are."""

    low: float
    high: float


def pixel_range(frame: "pd.DataFrame") -> PixelRange:
    """0 to 255 for bytes, else the smallest and largest pixel."""
    pixels = frame.to_numpy()
    if pixels.dtype == np.uint8:
        return PixelRange(0.0, 255.0)
    return PixelRange(float(pixels.min()), float(pixels.max()))


@dataclass(frozen=True, eq=False)
class ImageEncoder:
    """Pixels centred and scaled by the training images' mean and standard deviation of each channel.

    Attributes:
        shape: of one image.
        loc: (channels,).
        scale: (channels,).
    """

    shape: ImageShape
    loc: np.ndarray
    scale: np.ndarray

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One per pixel."""
        return tuple(f"pixel {number}" for number in range(int(np.prod(self.shape))))

    def transform(self, frame: "pd.DataFrame") -> np.ndarray:
        """Rows of pixels → (n, channels, height, width) float32.

        Raises:
            DataError: rows of another length.
        """
        if frame.shape[1] != np.prod(self.shape):
            raise DataError(f"Images of {frame.shape[1]} pixels were given where {self.shape} was expected.")
        images: np.ndarray = frame.to_numpy().reshape(-1, *self.shape).astype(np.float32)
        loc, scale = (part.astype(np.float32)[:, None, None] for part in (self.loc, self.scale))
        images -= loc
        images /= scale
        return images


def fit_image_encoder(frame: "pd.DataFrame", rows: np.ndarray, shape: ImageShape) -> ImageEncoder:
    """Learn mean and standard deviation from some rows of pixels."""
    pixels = frame.to_numpy()
    total, square = np.zeros(shape[0]), np.zeros(shape[0])
    for start in range(0, len(rows), CHUNK):
        part = pixels[rows[start : start + CHUNK]].reshape(-1, shape[0], shape[1] * shape[2]).astype(np.float64)
        total += part.sum((0, 2))
        square += (part**2).sum((0, 2))
    count = len(rows) * shape[1] * shape[2]
    loc = total / count
    spread = np.sqrt(np.maximum(square / count - loc**2, 0))
    return ImageEncoder(shape, loc, np.where(spread > 0, spread, 1.0))
