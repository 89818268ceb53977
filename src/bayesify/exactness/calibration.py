"""What simulation-based calibration found: a table with rank plots, a verdict in words, and JSON."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bayesify.exactness.uniformity import NUM_TESTS, Size, Uniformity, visible_log_spread
from bayesify.methods.base import Exactness

FALSE_ALARM = 1e-3
"""Chance, at most, that a perfect method is said to deviate: all tests of all quantities together."""
NOT_A_POSTERIOR_FACTOR, NOT_A_POSTERIOR_SHIFT = 3.0, 3.0
"""Spread wrong by more than this factor, or centre by so many of its standard deviations."""
NO_SPREAD = 0.1
LOG_LIKELIHOOD = "log likelihood"
"""The quantity that depends on the data."""
BINS = 10
BLOCKS = "▁▂▃▄▅▆▇█"


class Quantity(NamedTuple):
    """One quantity's ranks."""

    name: str
    ranks: tuple[float, ...]
    """Randomised, in (0, 1), one per simulation."""
    tests: Uniformity
    size: Size

    @property
    def histogram(self) -> list[int]:
        """Ranks in `BINS` equal bins."""
        counts, _ = np.histogram(self.ranks, bins=BINS, range=(0.0, 1.0))
        return [int(count) for count in counts]

    @property
    def plot(self) -> str:
        """The histogram as one line; full height is twice the expected count, or more where a bin has more."""
        counts = self.histogram
        top = max(*counts, 2 * len(self.ranks) / BINS)
        return "".join(BLOCKS[min(len(BLOCKS) - 1, int(len(BLOCKS) * count / top))] for count in counts)


@dataclass(frozen=True)
class Calibration:
    """Where truths stand among a method's draws.

    Attributes:
        problem: what was inferred.
        simulations: how often.
        quantities: what was ranked.
        draws: how many draws a truth was ranked among, the median over simulations.
        unmixed: simulations in which chains disagreed.
        temperature: of the posterior that the method says it gives; truths are draws from that at 1.
        seconds: wall time.
    """

    problem: str
    simulations: int
    quantities: tuple[Quantity, ...]
    draws: float
    unmixed: int
    temperature: float
    seconds: float

    @property
    def threshold(self) -> float:
        """A single test's p-value below which it alarms."""
        return FALSE_ALARM / (NUM_TESTS * len(self.quantities))

    @property
    def p_value(self) -> float:
        """Of all tests together, by Bonferroni."""
        return min(1.0, len(self.quantities) * min(quantity.tests.p_value for quantity in self.quantities))

    @property
    def deviates(self) -> bool:
        """Whether chance does not explain the ranks."""
        return self.p_value < FALSE_ALARM

    @property
    def visible(self) -> float:
        """The relative error of standard deviations that would be found in half of all cases."""
        return math.exp(visible_log_spread(self.simulations, self.threshold)) - 1

    @property
    def exactness(self) -> Exactness:
        """What was measured; what does not deviate may still do so by less than can be seen."""
        if not self.deviates:
            return Exactness.ASYMPTOTIC
        wide = [abs(q.size.log_spread) for q in self._wrong_spread]
        far = [abs(q.size.centre) for q in self._wrong_centre]
        hopeless = max(wide, default=0.0) > math.log(NOT_A_POSTERIOR_FACTOR)
        if hopeless or max(far, default=0.0) > NOT_A_POSTERIOR_SHIFT:
            return Exactness.NOT_A_POSTERIOR
        return Exactness.APPROXIMATE

    @property
    def words(self) -> str:
        """The deviation, its size and where; or what would have been seen."""
        if not self.deviates:
            return (
                f"no deviation in {self.simulations} simulations, which show errors of spread from {self.visible:.0%}"
            )
        parts = [*_spread_words(self._wrong_spread), *(_centre_words(q) for q in self._wrong_centre)]
        return (
            "; ".join(parts) or f"ranks of {self._worst_shape.name} are not uniform, though centre and spread are right"
        )

    @property
    def _wrong_spread(self) -> list[Quantity]:
        return [q for q in self.quantities if q.tests.spread < self.threshold]

    @property
    def _wrong_centre(self) -> list[Quantity]:
        return [q for q in self.quantities if q.tests.location < self.threshold]

    @property
    def _worst_shape(self) -> Quantity:
        return min(self.quantities, key=lambda q: q.tests.shape)

    @property
    def verdict(self) -> str:
        """The sentence."""
        return f"{self.exactness.value} ({self.words})" if self.deviates else self.words

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "problem": self.problem,
            "simulations": self.simulations,
            "draws": self.draws,
            "unmixed": self.unmixed,
            "temperature": self.temperature,
            "false_alarm_rate": FALSE_ALARM,
            "p_value": self.p_value,
            "deviates": self.deviates,
            "exactness": self.exactness.value,
            "verdict": self.verdict,
            "visible": self.visible,
            "quantities": [
                {
                    "name": q.name,
                    "p_values": q.tests._asdict(),
                    "spread": math.exp(q.size.log_spread),
                    "centre": q.size.centre,
                    "histogram": q.histogram,
                    "ranks": list(q.ranks),
                }
                for q in self.quantities
            ],
            "seconds": self.seconds,
        }

    def lines(self) -> list[str]:
        """The table, with a rank plot for every quantity: flat is right, a U over-confident, a hump the contrary."""
        found = [f"  {'ranks of the truth':<20}{'0 to 1':<14}{'spread':>8}{'centre':>13}{'p':>12}"]
        for q in self.quantities:
            star = "   *" if q.tests.p_value * len(self.quantities) < FALSE_ALARM else ""
            spread = f"{100 * (math.exp(q.size.log_spread) - 1):+.0f}%"
            chance = min(1.0, q.tests.p_value * len(self.quantities))
            written = "<1e-16" if chance < 1e-16 else f"{chance:.1g}" if chance < 0.01 else f"{chance:.2f}"
            found.append(f"  {q.name:<20}{q.plot:<14}{spread:>8}{q.size.centre:>+10.2f} sd{written:>12}{star}")
        found.append(f"  among {self.draws:.0f} draws; false alarms: {FALSE_ALARM:g} over all tests")
        if self.unmixed:
            found.append(f"  chains had not mixed in {self.unmixed} of {self.simulations} simulations")
        if self.temperature != 1:
            found.append(f"  the method samples at temperature {self.temperature:g}; truths are draws at 1")
        return found


def _spread_words(wrong: list[Quantity]) -> list[str]:
    if not wrong:
        return []
    found = [q.size.log_spread for q in wrong]
    if min(found) < 0 < max(found):
        low, high = (100 * (math.exp(value) - 1) for value in (min(found), max(found)))
        return [f"standard deviations wrong by {low:+.0f}% to {high:+.0f}%"]
    worst = max(wrong, key=lambda q: abs(q.size.log_spread))
    factor = math.exp(worst.size.log_spread)
    if factor < NO_SPREAD:
        return ["over-confident: no spread to speak of"]
    direction, amount = ("over", "too small") if factor < 1 else ("under", "too large")
    return [f"{direction}-confident: standard deviations up to {100 * abs(factor - 1):.0f}% {amount}, of {worst.name}"]


def _centre_words(quantity: Quantity) -> str:
    size, high = abs(quantity.size.centre), quantity.size.centre > 0
    amount = f"too {'high' if high else 'low'} by {size:.2g} of its standard deviations"
    if quantity.name == LOG_LIKELIHOOD:  # of draws that are too narrow or too wide about the right centre it is off too
        return f"draws fit the data too {'closely' if high else 'loosely'} ({quantity.name} {amount})"
    return f"biased: {quantity.name} {amount}"
