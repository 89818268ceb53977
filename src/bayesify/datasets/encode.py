"""Plain columns → a matrix of finite float32 numbers, by what the TRAINING rows say and nothing else.

- numbers, and the parts of dates: measured in the column's typical magnitude, then centred and scaled by quantiles and
  smoothly clipped to (-3, 3) (``skrub.SquashingScaler``; Holzmüller et al., 2024, "Better by default"). On UCI sets
  without outliers this is about as good as standardising, and an outlier of any size leaves the other rows alone.
- text with few distinct values: one-hot; a missing value is a level of its own, an unseen level is all zeros.
- text with many: 30 numbers from character n-grams (``skrub.StringEncoder``), so that 10,000 levels cost no more
  than 50 and unseen levels resemble the ones they look like.
- missing values elsewhere: the median and an indicator, where training rows have missing values.
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesify.datasets.columns import column_not_found, is_date, is_text
from bayesify.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MAX_LEVELS = 40  # text with more distinct values is embedded instead of one-hot encoded
TEXT_WIDTH = 30
MAX_FITTED_LEVELS = 20_000  # distinct texts that the embedding is fitted on, at most
LARGEST = 1e100  # numbers are clipped to this, so that no difference or square leaves float64

Fitted = tuple[tuple[str, Any], ...]  # columns, each with the encoder fitted on it


@dataclass(frozen=True, eq=False)
class Encoder:
    """A fitted encoding; make one with ``fit_encoder``.

    Attributes:
        feature_names: one per output column.
        numbers: number columns, in order.
        dates: date columns and their fitted encoders.
        texts: text columns of many levels and their fitted encoders.
        categories: text columns of few levels, in order.
        flagged: columns whose missing values get an indicator.
        units: typical magnitude of each number and date part, (q,).
        scaler: fitted scaler of numbers and date parts in these units, None where there are none.
        one_hot: fitted encoder of ``categories``, None where there are none.
    """

    feature_names: tuple[str, ...]
    numbers: tuple[str, ...]
    dates: Fitted
    texts: Fitted
    categories: tuple[str, ...]
    flagged: tuple[str, ...]
    units: np.ndarray
    scaler: Any
    one_hot: Any

    def transform(self, frame: "pd.DataFrame") -> np.ndarray:
        """Encode rows of a frame with the columns the encoder was fitted on.

        Returns:
            (n, d) float32, finite.

        Raises:
            DataError: a column is missing or is no longer of its type.
        """
        _check_columns(self, frame)
        blocks = [np.zeros((len(frame), 0), dtype=np.float32)]
        if self.scaler is not None:
            scaled = self.scaler.transform(_in_units(_quantities(frame, self.numbers, self.dates), self.units))
            blocks.append(np.nan_to_num(scaled, nan=0.0))  # 0 is the median after scaling
        blocks.extend(_embed(encoder, frame[name]) for name, encoder in self.texts)
        if self.flagged:
            blocks.append(frame[list(self.flagged)].isna().to_numpy(dtype=np.float32))
        if self.one_hot is not None:
            blocks.append(self.one_hot.transform(frame[list(self.categories)].to_numpy(dtype=object)))
        return np.concatenate(blocks, axis=1, dtype=np.float32)


@dataclass(frozen=True)
class TargetScaler:
    """Standardisation of a regression target: y = loc + scale · standardised."""

    loc: float
    scale: float

    def transform(self, y: np.ndarray) -> np.ndarray:
        """(n,) quantities in the user's unit → (n,) float32 without unit."""
        return np.asarray((y - self.loc) / self.scale, dtype=np.float32)

    def inverse(self, standardised: np.ndarray) -> np.ndarray:
        """(n,) without unit → (n,) float64 in the user's unit."""
        return np.asarray(standardised, dtype=np.float64) * self.scale + self.loc


def fit_target_scaler(y_train: np.ndarray) -> TargetScaler:
    """Mean and standard deviation of the training targets.

    Raises:
        DataError: the training targets are all alike.
    """
    loc, scale = float(np.mean(y_train)), float(np.std(y_train))
    if not scale > 1e-12 * np.abs(y_train).max():
        raise DataError(
            f"The target is constant ({loc:g}) in the {len(y_train)} training rows of a split: "
            "use larger training parts or another way of splitting."
        )
    return TargetScaler(loc, scale)


def fit_encoder(frame: "pd.DataFrame", rows: np.ndarray, seed: int = 0) -> Encoder:
    """Learn an encoding from some rows of a frame of plain columns.

    Args:
        frame: plain columns (``Task.features``).
        rows: (n_train,) row numbers; no other row is looked at.
        seed: seed of the randomised decomposition behind high-cardinality text.
    """
    train = frame.iloc[rows]
    present = train.columns[train.notna().any()]
    dates = [name for name in present if is_date(train[name])]
    words = [name for name in present if is_text(train[name])]
    numbers = tuple(name for name in present if name not in {*dates, *words})
    wide = [name for name in words if train[name].nunique() > MAX_LEVELS]
    categories = tuple(name for name in words if name not in set(wide))

    fitted_dates = tuple((name, _fit_date(train[name])) for name in dates)
    fitted_texts = tuple((name, _fit_text(train[name], seed)) for name in wide)
    flagged = tuple(name for name in present if name not in set(categories) and train[name].isna().any())
    one_hot = _fit_one_hot(train, categories)
    quantities = _quantities(train, numbers, fitted_dates)
    units = _units(quantities)
    return Encoder(
        feature_names=_names(numbers, fitted_dates, fitted_texts, flagged, categories, one_hot),
        numbers=numbers,
        dates=fitted_dates,
        texts=fitted_texts,
        categories=categories,
        flagged=flagged,
        units=units,
        scaler=_fit_scaler(_in_units(quantities, units)),
        one_hot=one_hot,
    )


def _quantities(frame: "pd.DataFrame", numbers: tuple[str, ...], dates: Fitted) -> np.ndarray:
    """Numbers and date parts side by side, NaN where missing: (n, d) float64."""
    try:
        blocks: list[np.ndarray] = [frame[list(numbers)].to_numpy(dtype=np.float64)]
    except (ValueError, TypeError) as error:
        raise DataError(f"A column that held numbers now holds something else ({error}): mend it.") from error
    blocks.extend(encoder.transform(frame[name]).to_numpy(dtype=np.float64) for name, encoder in dates)
    return np.concatenate(blocks, axis=1)


def _units(quantities: np.ndarray) -> np.ndarray:
    """The median magnitude of each column's values other than 0; 1 where there is none.

    The scaler takes spreads below 2e-15 for rounding noise, which they are only in a column's own unit.
    """
    magnitudes = np.abs(quantities)
    typical = [column[column > 0] for column in magnitudes.T]  # NaN is not > 0
    return np.array([np.median(values) if len(values) else 1.0 for values in typical])


def _in_units(quantities: np.ndarray, units: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(np.clip(quantities / units, -LARGEST, LARGEST))


def _fit_scaler(quantities: np.ndarray) -> Any:
    from skrub import SquashingScaler

    return SquashingScaler().fit(quantities) if quantities.shape[1] else None


def _fit_date(column: "pd.Series") -> Any:
    from skrub import DatetimeEncoder

    return DatetimeEncoder(resolution="second", add_weekday=True, periodic_encoding="circular").fit(column)


def _fit_text(column: "pd.Series", seed: int) -> Any:
    """An embedding of the distinct texts: its cost does not grow with the rows, nor does their order matter."""
    import pandas as pd
    from skrub import StringEncoder

    levels = np.sort(column.dropna().unique().astype(object))
    step = -(-len(levels) // MAX_FITTED_LEVELS)
    with warnings.catch_warnings():
        # Texts made of very few n-grams fill fewer than TEXT_WIDTH columns: nothing to worry about.
        warnings.filterwarnings("ignore", message="The matrix shape is")
        return StringEncoder(n_components=TEXT_WIDTH, random_state=seed).fit(
            pd.Series(levels[::step], name=column.name, dtype=object)
        )


def _embed(encoder: Any, column: "pd.Series") -> np.ndarray:
    """(n, width) embedding of a text column; missing values are all zeros."""
    import pandas as pd

    codes, levels = pd.factorize(column.astype(object))  # missing: -1
    texts = pd.Series([*levels, ""], name=column.name, dtype=object)
    return np.asarray(encoder.transform(texts).to_numpy(dtype=np.float32)[codes])


def _fit_one_hot(train: "pd.DataFrame", categories: tuple[str, ...]) -> Any:
    from sklearn.preprocessing import OneHotEncoder

    if not categories:
        return None
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
    return encoder.fit(train[list(categories)].to_numpy(dtype=object))


def _names(
    numbers: tuple[str, ...],
    dates: Fitted,
    texts: Fitted,
    flagged: tuple[str, ...],
    categories: tuple[str, ...],
    one_hot: Any,
) -> tuple[str, ...]:
    """Names of the output columns, in the order in which ``Encoder.transform`` puts them."""
    names = list(numbers)
    for name, encoder in dates:
        names += [f"{name}: {part.removeprefix(f'{name}_')}" for part in encoder.get_feature_names_out()]
    for name, encoder in texts:
        names += [f"{name} ~{number}" for number in range(len(encoder.get_feature_names_out()))]
    names += [f"{name} is missing" for name in flagged]
    levels = [] if one_hot is None else one_hot.categories_
    for name, values in zip(categories, levels, strict=True):
        names += [f"{name}={value}" if isinstance(value, str) else f"{name} is missing" for value in values]
    return tuple(names)


def _check_columns(encoder: Encoder, frame: "pd.DataFrame") -> None:
    needed = [*encoder.numbers, *encoder.categories, *(name for name, _ in (*encoder.dates, *encoder.texts))]
    known = set(frame.columns)
    for name in needed:
        if name not in known:
            raise column_not_found(name, frame.columns, "the data")
