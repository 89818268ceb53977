"""Short names for combinations."""

import dataclasses

import pytest

from bayesify.arena.field import entrants
from bayesify.errors import MethodError
from bayesify.methods.base import describe
from bayesify.methods.map import MAP
from bayesify.methods.registry import SHORT, get_method, method_names, register


@pytest.mark.parametrize("name", SHORT)
def test_a_short_name_is_the_combination(name: str) -> None:
    assert get_method(name) == get_method(SHORT[name])
    assert name not in method_names()
    assert get_method(f"tempered({name}, 0.5)") == get_method(f"tempered({SHORT[name]}, 0.5)")


def test_a_short_name_cannot_be_taken() -> None:
    taken = type("Taken", (MAP,), {"info": dataclasses.replace(MAP.info, name="neural_linear")})
    with pytest.raises(MethodError, match="exists already"):
        register(taken)


def test_the_arena_takes_them_too() -> None:
    assert [one.label for one in entrants(["neural_linear"])] == ["deep_ensemble", "neural_linear"]
    assert describe(get_method("neural_linear")) == "subset(laplace(structure=per_output))"


def test_a_misspelt_one_is_suggested() -> None:
    with pytest.raises(MethodError, match="neural_linear"):
        get_method("neural_linea")
