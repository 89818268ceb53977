"""A small check of every registered method: none may be less exact than it declares. `make check-methods` does more."""

import pytest

from bayesify.engine.budget import Budget
from bayesify.exactness import KnownPosterior, check_method, linear_regression, logistic_regression
from bayesify.methods.base import Exactness
from bayesify.methods.registry import get_method, method_class, method_names

COMBINATORS = {
    "cyclical": "cyclical(sghmc, 2)",
    "multi": "multi(laplace, 3)",
    "subset": "subset(laplace(structure=full), last)",
    "temperature_scaled": "temperature_scaled(map)",
    "tempered": "tempered(hmc, 0.5)",
    "tuned": "tuned(map, 4)",
}
EPOCHS = 400


def built_in() -> list[str]:
    """Other tests of this process may have registered methods of their own."""
    return [name for name in method_names() if method_class(name).__module__.startswith("bayesify.")]


@pytest.fixture(scope="module")
def problems() -> list[KnownPosterior]:
    """Both temperatures, and both likelihoods."""
    return [linear_regression(0.3), logistic_regression()]


@pytest.mark.parametrize("name", built_in())
def test_it_is_what_it_declares(name: str, problems: list[KnownPosterior]) -> None:
    result = check_method(COMBINATORS.get(name, name), budget=Budget(epochs=EPOCHS), problems=problems)
    assert result.passed, result
    assert len(result.problems) == len(problems)
    # Draws that are worth nothing would pass any check.
    exact = result.declared in (Exactness.EXACT, Exactness.ASYMPTOTIC)
    assert not exact or min(check.moments.effective_draws for check in result.problems) > 30, result


def test_what_a_combinator_holds_counts() -> None:
    """Modes of equal weight are no posterior where each is a point."""
    assert get_method("multi(laplace, 3)").exactness == Exactness.APPROXIMATE
    assert get_method("multi(map, 3)").exactness == Exactness.NOT_A_POSTERIOR
    assert get_method("temperature_scaled(hmc)").exactness == Exactness.NOT_A_POSTERIOR
    assert get_method("multi(tuned(map, 2), 2)").needs_validation
