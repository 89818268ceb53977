"""What is computed between the result and the page: ranking, counting, fronts, ticks, labels."""

import math
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesify.arena.report import drawing, tables
from bayesify.arena.report.drawing import Spot, log_ticks, place
from bayesify.arena.report.pareto import front, pareto
from bayesify.arena.report.plain import plain
from bayesify.arena.report.view import VERDICTS, ReportView, read


@pytest.fixture(scope="module")
def view(examples: ModuleType) -> ReportView:
    return read(plain(examples.example()))


def test_ranking_is_by_difference_with_the_control_first(view: ReportView) -> None:
    assert view.ranked[0].is_control
    estimates = [method.difference.estimate for method in view.compared if method.difference]
    assert estimates == sorted(estimates, reverse=True)
    assert len(estimates) == 12


def test_counts_leave_out_control_and_references(view: ReportView) -> None:
    assert sum(view.counts.values()) == 9
    assert [view.counts[verdict] for verdict in VERDICTS] == [2, 1, 5, 1]


def test_best_of_a_column_follows_its_direction(view: ReportView) -> None:
    table = tables.scores(view)
    columns = [column.label for column in table.columns]
    for label, best in (("RMSE", min), ("Coverage of 90%", lambda keys: min(keys, key=lambda k: abs(k - 0.9)))):
        cells = [cells[columns.index(label)] for _, cells in table.rows]
        assert [cell.key for cell in cells if cell.best] == [best([cell.key for cell in cells])]
    assert not [cell for _, cells in table.rows for cell in cells[:4] if cell.best]


def test_columns_nobody_has_are_left_out(view: ReportView) -> None:
    empty = read({"methods": [{"name": "map", "scores": {"nll": 1.0}}]})
    assert [column.label for column in tables.scores(empty).columns] == ["Verdict", "NLL"]
    assert "Detectable" in [column.label for column in tables.scores(view).columns]


def test_unknown_verdict_is_none() -> None:
    (method,) = read({"methods": [{"name": "map", "verdict": "superb"}]}).methods
    assert method.verdict is None


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(-5, 5)), min_size=1, max_size=12), st.booleans())
def test_front_is_what_nothing_dominates(points: list[tuple[float, float]], higher: bool) -> None:
    sign = -1 if higher else 1
    signed = [(cost, sign * score) for cost, score in points]
    chosen = front(points, higher=higher)
    assert [signed[i] for i in chosen] == sorted((signed[i] for i in chosen), key=lambda p: (p[0], -p[1]))
    for index, (cost, score) in enumerate(signed):
        dominated = any(c <= cost and s <= score and (c, s) != (cost, score) for c, s in signed)
        if index in chosen:
            assert not dominated
        elif not dominated:
            assert (cost, score) in [signed[i] for i in chosen]  # a duplicate of one on the front


def test_front_of_the_example(view: ReportView) -> None:
    evaluations, seconds, prediction = pareto(view)
    assert evaluations.front[0] == "MAP + temperature"
    assert evaluations.front[-1] == seconds.front[-1] == prediction.front[-1] == "HMC"
    assert "MC dropout" not in evaluations.front + seconds.front + prediction.front


def test_front_needs_two_points() -> None:
    row = {"name": "map", "scores": {"nll": 1.0}, "spent": {"seconds": 1.0}}
    assert pareto(read({"methods": [row]})) == []
    assert len(pareto(read({"methods": [row, {**row, "name": "swag"}]}))) == 1
    assert pareto(read({"methods": [row, {**row, "spent": {"seconds": 0.0}}]})) == []


@given(st.floats(1e-9, 1e12), st.floats(4, 1e9))
def test_ticks_lie_inside(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert 1 <= len(ticks) <= 5
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert ticks == sorted(ticks)


_SPOTS = st.lists(st.builds(Spot, st.floats(0, 286), st.floats(0, 250), st.text("mab", max_size=20)), max_size=14)


@given(_SPOTS)
def test_labels_never_overlap(spots: list[Spot]) -> None:
    placed = place(spots, 2, [Spot(0, 100, ""), Spot(150, 100, ""), Spot(150, 20, "")], 286, 250)
    boxes = [drawing._box(label) for label in placed]
    for index, box in enumerate(boxes):
        assert 0 <= box.left <= box.right <= 286
        assert not any(drawing._overlap(box, other) for other in boxes[:index])


def test_important_label_may_cross_the_line() -> None:
    spot, line = Spot(143, 125, "control"), [Spot(0, y, "") for y in range(100, 150, 4)]
    fence = [point for y in range(90, 160, 4) for point in (Spot(0, y, ""), Spot(286, y, ""))]
    assert place([spot], 0, line, 286, 250)  # a line beside it does not matter
    assert not place([spot], 0, fence, 286, 250)
    assert place([spot], 1, fence, 286, 250)


def test_verdicts_differ_by_shape_as_well_as_colour() -> None:
    looks = [drawing.look(verdict) for verdict in VERDICTS]
    assert len({look.shape for look in looks}) == len(VERDICTS)
    assert len({look.stroke for look in looks}) == len(VERDICTS)
    assert drawing.look(None) == drawing.look("undecided")


def test_difference_digits_show_the_margin(view: ReportView) -> None:
    assert tables.difference_decimals(view) == 3
    assert view.margin == 0.01
    assert math.isclose(view.level, 0.95)
