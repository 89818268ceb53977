"""Are the arena's verdicts calibrated? Simulated nulls and planted effects, one line per scenario.

    python benchmarks/statistics_calibration.py [--fields 1000] [--only WORD] [--seed 0]

Every field is drawn from random effects: each example has an effect that all its test sets share, plus chance per
split and per seed; each split and each seed shifts all of its examples, the splits' shifts being correlated through
their training sets; the control's part is common to all methods. Columns:

- familywise: share of null fields with any false "better" or "worse"; at most 0.05 is promised
- coverage: share of fields whose intervals all hold the truth; at least 0.95 is promised
- MDE/SE: median minimum detectable difference over the true standard error (2.80 for one method, 3.71 for twelve
  would be needed if the variance were known)
- power at MDE: every field gets an effect of its own MDE planted; the share called "better"; 0.80 is meant
- power at 4 SE: the same for an effect of four true standard errors
"""

import argparse
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bayesify.arena.statistics import Comparison, PairedDifferences, Verdict, compare_to_control

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scenario:
    """A law that fields of differences are drawn from; the true differences are zero.

    `excess`: variance of a split's shift over the variance of a test set's mean, one number for all methods or one
    per method. `training_share`: the training set's part of it; the rest is the seed's. `training`: correlation of
    two splits' training-set shifts, "nb" for n_test / n (Nadeau and Bengio's assumption) or "overlap" for the share
    of common training rows. `control_share`: how much of every variance is the control's.
    """

    name: str
    num_rows: int = 1000
    num_splits: int = 5
    num_seeds: int = 1
    num_methods: int = 12
    folds: bool = False
    tails: str = "normal"
    excess: float | tuple[float, ...] = 0.3
    training: str = "nb"
    training_share: float = 0.5
    control_share: float = 0.5


SCENARIOS = (
    Scenario("no split effect", excess=0.0),
    Scenario("default"),
    Scenario("split effect = test noise", excess=1.0),
    Scenario("large split effect", excess=10.0),
    Scenario("heavy tails (t3)", tails="t3"),
    Scenario("skewed losses", tails="skewed"),
    Scenario("skewed, 100 rows", tails="skewed", num_rows=100),
    Scenario("skewed, 1 split", tails="skewed", num_splits=1, excess=0.0),
    Scenario("1 split, 1 seed, no shift", num_splits=1, excess=0.0),
    Scenario("1 split, 5 seeds, seed shift", num_splits=1, num_seeds=5, excess=1.0, training_share=0.0),
    Scenario("not promised: 1 split, 1 seed, shift", num_splits=1, excess=0.3),
    Scenario("not promised: 1 split, 5 seeds, training shift", num_splits=1, num_seeds=5, training_share=1.0),
    Scenario("2 splits", num_splits=2),
    Scenario("3 splits", num_splits=3),
    Scenario("10 splits", num_splits=10),
    Scenario("20 splits", num_splits=20),
    Scenario("10 folds", num_splits=10, folds=True),
    Scenario("5 splits x 3 seeds", num_seeds=3, excess=1.0),
    Scenario("10,000 rows", num_rows=10_000, excess=3.0),
    Scenario("1 method", num_methods=1),
    Scenario("3 methods", num_methods=3),
    Scenario("one unstable method", excess=(0.1,) * 11 + (10.0,)),
    Scenario("half unstable", excess=(0.1,) * 6 + (5.0,) * 6),
    Scenario("half wildly unstable", excess=(0.1,) * 6 + (15.0,) * 6, num_splits=3),
    Scenario("control causes 95%", excess=3.0, control_share=0.95),
    Scenario("not promised: NB too small (0.89)", excess=1.0, training="overlap"),
)


def draw_field(law: Scenario, rng: np.random.Generator) -> dict[str, PairedDifferences]:
    """One field of null differences."""
    test_sets = _test_sets(law, rng)
    methods, splits, seeds, n_test = law.num_methods, len(test_sets), law.num_seeds, len(test_sets[0])
    own, common = np.sqrt(1 - law.control_share), np.sqrt(law.control_share)

    def mix(*shape: int) -> Array:
        return own * rng.standard_normal((methods, *shape)) + common * rng.standard_normal((1, *shape))

    examples = own * _losses(law.tails, (methods, law.num_rows), rng) + common * rng.standard_normal(law.num_rows)
    excess = np.broadcast_to(np.asarray(law.excess, dtype=float), (methods,))
    correlation = (
        n_test / law.num_rows if law.training == "nb" else (1 - 2 * n_test / law.num_rows) / (1 - n_test / law.num_rows)
    )
    if splits == 1:
        correlation = 0.0
    training = np.sqrt(correlation) * mix(1) + np.sqrt(1 - correlation) * mix(splits)  # (M, J)
    scale = np.sqrt(excess / n_test)[:, None, None]
    shift = np.sqrt(law.training_share) * training[..., None]
    shift = scale * (shift + np.sqrt(1 - law.training_share) * mix(splits, seeds))  # (M, J, S)
    field = {}
    for m in range(methods):
        values = []
        for j, rows in enumerate(test_sets):
            noise = 0.3 * rng.standard_normal(n_test) + 0.3 * rng.standard_normal((seeds, n_test))
            values.append(shift[m, j][:, None] + 0.9 * examples[m, rows] + noise)
        field[f"method {m}"] = PairedDifferences(tuple(values), test_sets, law.num_rows - n_test)
    return field


def planted(field: dict[str, PairedDifferences], effect: float) -> dict[str, PairedDifferences]:
    """The same field with the first method truly better by `effect`."""
    name = next(iter(field))
    better = field[name]._replace(values=tuple(value + effect for value in field[name].values))
    return {**field, name: better}


def compare(field: dict[str, PairedDifferences]) -> list[Comparison]:
    return list(compare_to_control(field, margin=0.0).values())


class Calibration(NamedTuple):
    familywise: float
    coverage: float
    detectable: float
    power: float
    power_at_4: float


def calibrate(law: Scenario, num_fields: int, seed: int) -> Calibration:
    rng = np.random.default_rng(seed)
    fields = [draw_field(law, rng) for _ in range(num_fields)]
    nulls = [compare(field) for field in fields]
    firsts = [null[0] for null in nulls]
    error = float(np.std([first.difference.estimate for first in firsts]))
    own = [first.minimum_detectable for first in firsts]
    return Calibration(
        familywise=float(np.mean([any(shown(one) for one in null) for null in nulls])),
        coverage=float(np.mean([all(covers(one, 0.0) for one in null) for null in nulls])),
        detectable=float(np.median(own)) / error,
        power=power(fields, own),
        power_at_4=power(fields, [4 * error] * num_fields),
    )


def shown(one: Comparison) -> bool:
    return one.verdict in (Verdict.BETTER, Verdict.WORSE)


def covers(one: Comparison, truth: float) -> bool:
    return one.difference.low <= truth <= one.difference.high


def power(fields: list[dict[str, PairedDifferences]], effects: list[float]) -> float:
    """Share of fields whose first method, truly better by its effect, is called better; every second field."""
    pairs = list(zip(fields, effects, strict=True))[::2]
    return float(np.mean([compare(planted(field, effect))[0].verdict is Verdict.BETTER for field, effect in pairs]))


def _test_sets(law: Scenario, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], ...]:
    if law.folds:
        return tuple(np.array_split(rng.permutation(law.num_rows), law.num_splits))
    return tuple(rng.choice(law.num_rows, law.num_rows // 10, replace=False) for _ in range(law.num_splits))


def _losses(tails: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Unit-variance effects of examples; "skewed" is minus a lognormal loss."""
    if tails == "t3":
        return rng.standard_t(3, shape) / np.sqrt(3)
    if tails == "skewed":
        spread = np.sqrt((np.e - 1) * np.e)
        return (np.exp(0.5) - np.exp(rng.standard_normal(shape))) / spread
    return rng.standard_normal(shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=1000)
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| scenario | familywise | coverage | MDE/SE | power at MDE | power at 4 SE |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    for law in SCENARIOS:
        if options.only in law.name:
            got = calibrate(law, options.fields, options.seed)
            print(
                f"| {law.name} | {got.familywise:.3f} | {got.coverage:.3f} | "
                f"{got.detectable:.2f} | {got.power:.2f} | {got.power_at_4:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
