import dataclasses

import pandas as pd
import pytest

from bayesify.arena.field import FIELD, default_epochs, entrants
from bayesify.arena.plan import Plan, Settings, make_plan
from bayesify.datasets import make_task
from bayesify.errors import BudgetError, MethodError
from bayesify.methods.registry import get_method


@pytest.fixture(scope="module")
def task():
    return make_task("diabetes")


def settings(**changes):
    return Settings(**{"entrants": entrants(["map", "swag"]), "num_splits": 3, "epochs": 5.0, **changes})


def test_a_plan_has_one_cell_per_method_budget_split_and_seed(task):
    plan, splits = make_plan(task, settings(num_seeds=2, multiples=(1.0, 4.0)), "default")
    assert len(plan.cells) == 3 * 2 * 2 * 3  # the control and two methods
    assert len({cell.key for cell in plan.cells}) == len(plan.cells)
    assert len(splits) == 3


def test_every_method_gets_the_same_splits_seeds_and_budget(task):
    plan, _ = make_plan(task, settings(num_seeds=2), "default")
    by_method = {}
    for cell in plan.cells:
        by_method.setdefault(cell.label, []).append((cell.split, cell.seed, cell.budget, cell.multiple))
    assert len({tuple(sorted(cells)) for cells in by_method.values()}) == 1


def test_the_budget_is_what_ten_members_need(task):
    plan, splits = make_plan(task, settings(), "default")
    assert plan.cells[0].budget == 10 * 5 * len(splits[0].train)


def test_keys_do_not_depend_on_the_field_or_the_statistics(task):
    small, _ = make_plan(task, settings(), "default")
    more = settings(entrants=entrants(["map", "swag", "ivon"]), margin=0.5, level=0.9)
    large, _ = make_plan(task, more, "default")
    assert {cell.key for cell in small.cells} < {cell.key for cell in large.cells}


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"epochs": 6.0}, {"prior": "laplace"}, {"likelihood": "student_t"}, {"validation": 0.2}]
)
def test_whatever_changes_a_result_changes_every_key(task, change):
    before, _ = make_plan(task, settings(), "default")
    after, _ = make_plan(task, settings(**change), "default")
    assert {cell.key for cell in before.cells}.isdisjoint(cell.key for cell in after.cells)


def test_the_network_and_the_data_are_part_of_the_key(task):
    before, _ = make_plan(task, settings(), "default")
    other_model, _ = make_plan(task, settings(), "mynets:make")
    frame = task.features.copy()
    frame.iloc[0, 0] += 1.0
    other_data, _ = make_plan(dataclasses.replace(task, features=frame), settings(), "default")
    for other in (other_model, other_data):
        assert {cell.key for cell in before.cells}.isdisjoint(cell.key for cell in other.cells)


def test_a_plan_survives_json(task):
    import json

    plan, _ = make_plan(task, settings(), "default")
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


def test_a_budget_must_be_positive(task):
    with pytest.raises(BudgetError, match="must be positive"):
        make_plan(task, settings(epochs=-1.0), "default")


def test_the_default_field_is_readable_and_led_by_the_control():
    field = entrants(None)
    assert field == FIELD
    assert field[0].role == "control"
    for entrant in field:
        get_method(entrant.spec.format(epochs="40"))


def test_a_method_of_ones_own_and_a_misspelt_one():
    assert [one.label for one in entrants(["multi(swag, 3)"])] == ["deep_ensemble", "multi(swag, 3)"]
    with pytest.raises(MethodError, match="Did you mean 'swag'"):
        entrants(["swga"])


def test_another_control_replaces_the_default_one():
    field = entrants(["swag", "map"], control="map")
    assert [(one.label, one.role) for one in field] == [("map", "control"), ("swag", "method")]


def test_small_data_get_more_epochs():
    assert default_epochs(100) == 220
    assert default_epochs(2_000) == 100
    assert default_epochs(1_000_000) == 40


def test_group_column_is_not_a_secret_feature():
    frame = pd.DataFrame({"who": ["a", "b", "c", "d", "e"] * 8, "x": range(40), "y": [0.1 * i**1.1 for i in range(40)]})
    plan, splits = make_plan(make_task(frame, "y"), settings(group="who", num_splits=2), "default")
    assert plan.card.split_kind == "group"
    for split in splits:
        assert set(frame["who"].iloc[split.train]).isdisjoint(frame["who"].iloc[split.test])
