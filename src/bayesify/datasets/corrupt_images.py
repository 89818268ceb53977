"""Corrupted images at five severities, made here: numpy and scipy only, deterministic by seed.

The kinds and most severities follow Hendrycks & Dietterich (2019), with rotation and translation as in Ovadia et al.
(2019); lengths scale with the side of the image. Every kind depends on the seed, its name and the
severity alone, so that kinds may be added without changing the others.
"""

import zlib
from collections.abc import Callable

import numpy as np

Kind = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
"""(n, channels, height, width) in [0, 1], the strength and a generator → the same shape, not yet clipped."""

MID_GREY = 0.5


def corrupt_images(images: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    """Corrupted copies.

    Args:
        images: (n, channels, height, width), between 0 and 1.
        name: a key of ``IMAGE_CORRUPTIONS``.
        severity: from 1 to 5.
        seed: of noise, directions and places.

    Returns:
        The same shape, between 0 and 1.
    """
    kind, strengths = IMAGE_CORRUPTIONS[name]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), severity])
    return np.clip(kind(images.astype(np.float64), strengths[severity - 1], rng), 0.0, 1.0)


def _gaussian_noise(images: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    return images + scale * rng.standard_normal(images.shape)


def _shot_noise(images: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(rng.poisson(images * photons) / photons)


def _impulse_noise(images: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    hit = rng.random(images.shape) < share
    return np.where(hit, rng.integers(0, 2, images.shape), images)


def _gaussian_blur(images: np.ndarray, width: float, rng: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    del rng
    sigma = width * max(1.0, images.shape[-1] / 28)  # narrower than half a pixel would do nothing
    return np.asarray(ndimage.gaussian_filter(images, (0, 0, sigma, sigma)))


def _contrast(images: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    del rng
    centre = images.mean((-2, -1), keepdims=True)
    return np.asarray(centre + factor * (images - centre))


def _brightness(images: np.ndarray, added: float, rng: np.random.Generator) -> np.ndarray:
    del rng
    return images + added


def _rotation(images: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    turned = images.copy()
    left = rng.random(len(images)) < 0.5
    for rows, angle in ((left, degrees), (~left, -degrees)):
        if rows.any():
            turned[rows] = ndimage.rotate(images[rows], angle, axes=(-2, -1), reshape=False, order=1)
    return turned


def _translation(images: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """In one of eight directions; what comes in is black."""
    height, width = images.shape[-2:]
    steps = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j])
    which = rng.integers(len(steps), size=len(images))
    moved = np.zeros_like(images)
    for number, (down, right) in enumerate(steps * [max(1, round(share * height)), max(1, round(share * width))]):
        rows = which == number
        to_i, from_i = _overlap(down, height)
        to_j, from_j = _overlap(right, width)
        moved[rows, :, to_i, to_j] = images[rows, :, from_i, from_j]
    return moved


def _overlap(step: int, size: int) -> tuple[slice, slice]:
    return slice(max(step, 0), size + min(step, 0)), slice(max(-step, 0), size + min(-step, 0))


def _pixelate(images: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Means over a coarser grid."""
    del rng
    for axis in (-2, -1):
        size = images.shape[axis]
        cell = np.arange(size) * max(1, round(factor * size)) // size
        starts = np.flatnonzero(np.diff(cell, prepend=-1))
        sums = np.add.reduceat(images, starts, axis=axis)
        counts = np.diff(starts, append=size)
        images = np.take(sums / (counts if axis == -1 else counts[:, None]), cell, axis=axis)
    return images


def _occlusion(images: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A grey square somewhere."""
    height, width = images.shape[-2:]
    tall, wide = max(1, round(share * height)), max(1, round(share * width))
    top = rng.integers(0, height - tall + 1, len(images))[:, None]
    left = rng.integers(0, width - wide + 1, len(images))[:, None]
    rows, columns = np.arange(height), np.arange(width)
    covered = ((rows >= top) & (rows < top + tall))[:, :, None] & ((columns >= left) & (columns < left + wide))[:, None]
    return np.where(covered[:, None], MID_GREY, images)


IMAGE_CORRUPTIONS: dict[str, tuple[Kind, tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),  # standard deviation
    "shot_noise": (_shot_noise, (60, 25, 12, 5, 3)),  # photons of a white pixel
    "impulse_noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),  # share of pixels turned black or white
    "gaussian_blur": (
        _gaussian_blur,
        (0.5, 0.8, 1.1, 1.5, 2.0),
    ),  # standard deviation, pixels; in proportion where the side is more than 28
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),  # what is left of it
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),  # added
    "rotation": (_rotation, (10, 20, 30, 45, 60)),  # degrees
    "translation": (_translation, (0.05, 0.1, 0.15, 0.2, 0.25)),  # share of the side
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),  # pixels per side left
    "occlusion": (_occlusion, (0.15, 0.25, 0.35, 0.45, 0.55)),  # side of the square
}
"""By name: the function, and its strength at severities 1 to 5."""
