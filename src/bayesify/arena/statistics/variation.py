"""Where the differences between a method and the control vary: test examples, splits, seeds.

Three facts shape the estimate of the variance of the mean difference.

*Examples.* A row of the data may sit in several test sets, and its differences there are not independent. Each
example's contributions to the mean are therefore summed over splits before they are squared (a cluster-robust
variance; Liang & Zeger, 1986). With u_ij = (d_ij − mean_j) / n_j the contribution of example i in split j, the
matrix Σ = Uᵀ U estimates the covariance of the split means that stems from examples, and wᵀ Σ w the variance of
their weighted mean. It has hundreds of degrees of freedom, but is blind to whatever moves a whole split.

*Splits.* A training set or an initialisation that happens to be good moves all examples of a split together. That
shows only in the variance S² of the few split means, of which T = E[S² | examples only] is explained by Σ; the rest
is the split variance τ². Training sets overlap, so the split effects in the mean do not average out like 1/J:
Nadeau & Bengio (2003) replace 1/J by 1/J + n_test / n_train. The variance of the mean difference is then

    V = wᵀ Σ w + (1/J + n_test / n_train) τ²,      τ² = max(0, S² − T).                              (1)

*Seeds.* Seeds are averaged within their split first (seeds are taken to be nested: seed 0 of one split shares
nothing with seed 0 of another), so their effect is part of τ². With one split only, seeds play the part of splits;
they share the training set, so the factor is 1/S and the training set's own effect cannot be seen. With one split and
one seed only examples can be seen.

No estimate from one data set can see a shift that all its training sets share (Bengio & Grandvalet, 2004: the
variance of cross-validation has no unbiased estimator). Equation (1) with Nadeau and Bengio's correlation
n_test / (n_test + n_train) is the convention for it, not a theorem.
"""

from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bayesify.errors import DataError

Array = npt.NDArray[np.float64]


class PairedDifferences(NamedTuple):
    """Control loss − method loss, example by example: positive where the method is better.

    Attributes:
        values: one array per split, (num_seeds, n_test_i), in nats or in the unit of any proper score.
        indices: one array per split, (n_test_i,), the examples' row numbers in the full data set.
        num_train: the typical size of a training set.
    """

    values: tuple[npt.NDArray[np.floating], ...]
    indices: tuple[npt.NDArray[np.integer], ...]
    num_train: int


class Replicates(StrEnum):
    """What was repeated, and so which variation beside the examples' can be seen."""

    SPLITS = "splits"
    SEEDS = "seeds"
    NONE = "none"


class Variation(NamedTuple):
    """The mean difference and its variance components; R replicates.

    Attributes:
        estimate: the mean difference; every evaluated example counts the same.
        example_variance: wᵀ Σ w, the variance of the estimate that stems from the test examples.
        example_degrees: degrees of freedom of `example_variance`.
        skewness: of the estimate's example part.
        replicates: what the R replicates are.
        means: (R,) mean difference of each replicate.
        weights: (R,) share of each replicate in the estimate.
        replicate_variance: S², the variance of the replicates' means (0 where R = 1).
        explained_variance: T, the part of S² that test examples explain.
        factor: the variance of the estimate per unit of τ²: Σ w² + n_test / n_train.
        overlap: n_test / n_train (0 for seeds of one split).
        shared_variance: mean covariance of two replicates' means that stems from common test examples.
    """

    estimate: float
    example_variance: float
    example_degrees: float
    skewness: float
    replicates: Replicates
    means: Array
    weights: Array
    replicate_variance: float
    explained_variance: float
    factor: float
    overlap: float
    shared_variance: float

    @property
    def num_replicates(self) -> int:
        """R, the number of splits (or of seeds where there is one split)."""
        return len(self.means)

    @property
    def degrees(self) -> int:
        """Degrees of freedom of S²."""
        return len(self.means) - 1


def variation(differences: PairedDifferences) -> Variation:
    """Estimate the mean difference and its variance components.

    Args:
        differences: finite differences of one method to the control.

    Returns:
        The components of equation (1).

    Raises:
        DataError: the arrays do not fit together, hold NaN or infinite values, or fewer than two examples.
    """
    check(differences)
    rows, indices, replicates = _replicates(differences)
    if not all(np.isfinite(row).all() for row in rows):
        raise DataError("A difference is infinite, so its variance is undefined; use paired_difference.")
    sizes = np.array([len(row) for row in rows], dtype=np.float64)  # (R,)
    weights = sizes / sizes.sum()
    means = np.array([row.mean() for row in rows])
    overlap = float(sizes.mean()) / differences.num_train if replicates is Replicates.SPLITS else 0.0
    contributions = _contributions(rows, indices, means)  # (E, R)
    covariance = contributions.T @ contributions  # (R, R), Σ
    total = contributions @ weights  # (E,)
    example_variance = float(total @ total)
    cubes = float(np.sum(total**3))
    estimate = float(weights @ means)
    spread = 1.0 - float(weights @ weights)  # expectation of Σ w (m − m̄)² for unit variance
    several = len(rows) > 1
    return Variation(
        estimate=estimate,
        example_variance=example_variance,
        example_degrees=max(1.0, len(contributions) * (1.0 - len(rows) / float(sizes.sum()))),
        skewness=cubes / example_variance**1.5 if example_variance**1.5 > 0 else 0.0,
        replicates=replicates,
        means=means,
        weights=weights,
        replicate_variance=float(weights @ (means - estimate) ** 2) / spread if several else 0.0,
        explained_variance=max(0.0, float(weights @ np.diag(covariance)) - example_variance) / spread
        if several
        else 0.0,
        factor=float(weights @ weights) + overlap,
        overlap=overlap,
        shared_variance=_mean_off_diagonal(covariance),
    )


def check(differences: PairedDifferences) -> None:
    """Refuse what no statistic can be made of.

    Raises:
        DataError: no split, arrays that do not fit together, NaN, or fewer than two distinct examples.
    """
    values, indices, num_train = differences
    if not values or len(values) != len(indices):
        raise DataError(
            f"{len(values)} arrays of differences came with {len(indices)} arrays of row numbers; "
            "give one of each per split, and at least one split."
        )
    if num_train < 1:
        raise DataError(f"num_train is {num_train}; give the number of training rows, at least 1.")
    for number, (value, index) in enumerate(zip(values, indices, strict=True)):
        if value.ndim != 2 or index.ndim != 1 or value.shape[1] != len(index) or value.size == 0:
            raise DataError(
                f"Split {number} has differences of shape {value.shape} and row numbers of shape {index.shape}; "
                "give (num_seeds, n_test) and (n_test,), neither empty."
            )
        if np.isnan(value).any():
            raise DataError(
                f"Split {number} has {int(np.isnan(value).sum())} NaN differences; a loss was NaN, or infinite "
                "for both the method and the control. Drop or repair those cells before comparing."
            )
    if len(np.unique(np.concatenate(indices))) < 2:
        raise DataError("There is one test example only; at least two are needed to see any variation.")


def _replicates(differences: PairedDifferences) -> tuple[list[Array], list[npt.NDArray[np.integer]], Replicates]:
    """One row of differences per replicate: splits averaged over seeds, else the seeds of the only split."""
    values = [np.asarray(value, dtype=np.float64) for value in differences.values]
    indices = list(differences.indices)
    if len(values) > 1:
        return [value.mean(axis=0) for value in values], indices, Replicates.SPLITS
    rows = list(values[0])
    return rows, indices * len(rows), Replicates.SEEDS if len(rows) > 1 else Replicates.NONE


def _contributions(rows: list[Array], indices: list[npt.NDArray[np.integer]], means: Array) -> Array:
    """(E, R): what each distinct example adds to each replicate's mean, with Bessel's correction."""
    distinct, places = np.unique(np.concatenate(indices), return_inverse=True)
    ends = np.cumsum([len(row) for row in rows])[:-1]
    columns = []
    for row, place, mean in zip(rows, np.split(places, ends), means, strict=True):
        n = len(row)
        scale = 1.0 / np.sqrt(n * (n - 1.0)) if n > 1 else 0.0  # sqrt(n / (n − 1)) / n
        columns.append(np.bincount(place, weights=(row - mean) * scale, minlength=len(distinct)))
    return np.stack(columns, axis=1)


def _mean_off_diagonal(covariance: Array) -> float:
    count = len(covariance)
    if count < 2:
        return 0.0
    return float(covariance.sum() - np.trace(covariance)) / (count * (count - 1))
