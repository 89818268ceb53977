"""One split of a task → the arrays that methods train and are scored on."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayesify.datasets.encode import Encoder, fit_encoder, fit_target_scaler
from bayesify.datasets.images import ImageEncoder, fit_image_encoder

if TYPE_CHECKING:
    from bayesify.datasets.splits import Split
    from bayesify.datasets.task import Task


class Prepared(NamedTuple):
    """Arrays of one split.

    Regression targets are standardised by the training rows: y = target_loc + target_scale · y_train. Class indices
    are left alone (target_loc = 0, target_scale = 1).
    """

    X_train: np.ndarray  # (n_train, d) or (n_train, channels, height, width) float32, finite
    y_train: np.ndarray  # (n_train,) float32 or int64
    X_test: np.ndarray  # as X_train
    y_test: np.ndarray  # (n_test,) float32 or int64
    target_loc: float
    target_scale: float
    feature_names: tuple[str, ...]
    classes: tuple[str, ...] | None
    encoder: Encoder | ImageEncoder  # what the inputs went through: for other rows of the same columns


def prepare(task: "Task", split: "Split", seed: int = 0) -> Prepared:
    """Encode one split; everything learned is learned from ``split.train``.

    Args:
        task: the data.
        split: row numbers, as ``make_splits`` gives them.
        seed: seed of the text embedding (only high-cardinality text uses it).

    Raises:
        DataError: the training targets of this split are constant.
    """
    encoder = encoder_of(task, split, seed)
    loc, scale = 0.0, 1.0
    y_train, y_test = task.target[split.train], task.target[split.test]
    if task.classes is None:
        scaler = fit_target_scaler(y_train)
        loc, scale = scaler.loc, scaler.scale
        y_train, y_test = scaler.transform(y_train), scaler.transform(y_test)
    return Prepared(
        X_train=encoder.transform(task.features.iloc[split.train]),
        y_train=y_train,
        X_test=encoder.transform(task.features.iloc[split.test]),
        y_test=y_test,
        target_loc=loc,
        target_scale=scale,
        feature_names=encoder.feature_names,
        classes=task.classes,
        encoder=encoder,
    )


def encoder_of(task: "Task", split: "Split", seed: int = 0) -> Encoder | ImageEncoder:
    """What turns rows into a network's inputs, learned from ``split.train``. Arguments as for ``prepare``."""
    if task.image_shape is not None:
        return fit_image_encoder(task.features, split.train, task.image_shape)
    return fit_encoder(task.features, split.train, seed)
