"""The testbed: its truths are what it says, its distances are those of redrawn labels, and nothing runs twice."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_problems import critical_value
from torch import Tensor

from bayesify.arena.testbed import PROBLEMS, Setting, Watch, divergence, environment, measure_testbed, score, select
from bayesify.arena.testbed.measure import ratio
from bayesify.arena.testbed.score import Dyads, dyadic, make_dyads
from bayesify.engine.rng import GlobalState
from bayesify.errors import BudgetError, DataError, MethodError
from bayesify.likelihoods import Categorical
from bayesify.model.network import Network
from bayesify.predictive import Predictive

SMALL = ["2-1-0.5-0", "2-10-0.5-1"]


def logits(draws: int, anchors: int, seed: int) -> Tensor:
    return 1.5 * torch.randn(draws, anchors, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predictive(outputs: Tensor) -> Predictive:
    return Predictive(Categorical(), outputs, outputs[:, 0, :0])


# ---- the problems ----------------------------------------------------------------------------------------------------


def test_there_are_36_problems_with_names_of_their_own() -> None:
    assert len(PROBLEMS) == len({setting.name for setting in PROBLEMS}) == 36
    assert {setting.num_train for setting in PROBLEMS} == {2, 10, 20, 100, 200, 1000}
    assert select(None) == PROBLEMS
    assert len(select(["2-*", "2-1-*"])) == 18
    with pytest.raises(DataError, match=r"no problem of the testbed is called '3-\*'"):
        select(["3-*"])


def test_an_environment_is_the_same_every_time_and_leaves_the_global_state() -> None:
    before = GlobalState.now()
    one, two = environment(PROBLEMS[5]), environment(PROBLEMS[5])
    assert before.equals(GlobalState.now())
    assert torch.equal(one.inputs, two.inputs)
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.log_probs, two.log_probs)
    assert not torch.equal(one.log_probs, environment(PROBLEMS[4]).log_probs)


def test_the_learners_prior_is_the_truths_law() -> None:
    """Scales by layer, and the spread of logits over truths: each ReLU layer halves their second moment."""
    env = environment(Setting(10, 1, 0.5, 0))
    network = Network(env.network)
    bound = env.prior.bind(network.layout, 0, network.initial)
    scales = {slot.name: float(bound.scale[slot.offset]) for slot in network.layout.slots}
    near, wide = 10**-0.5, 50**-0.5
    assert scales == pytest.approx({"0.weight": near, "0.bias": near, "2.weight": wide, "5.weight": wide})
    # E f² = (1 + 1/D) / 4 for either logit: each ReLU halves the second moment.
    differences = torch.cat(
        [
            environment(Setting(10, 1, 0.5, seed)).log_probs.diff(dim=-1)[:50, 0].square().mean()[None]
            for seed in range(60)
        ]
    )
    expected = 2 * (1 + 1 / 10) / 4 / 0.5**2
    error = float(differences.std()) / math.sqrt(len(differences))
    assert abs(float(differences.mean()) - expected) < critical_value() * error


def test_labels_follow_the_truth() -> None:
    env = environment(Setting(10, 100, 0.1, 0))
    share = float(env.labels.double().mean())
    assert 0.02 < share < 0.98
    # Near anchors tell the label: the truth's most probable class at the nearest one is right far more often than not.
    nearest = torch.cdist(env.inputs, env.anchors).argmin(1)
    right = float((env.log_probs[nearest].argmax(-1) == env.labels).double().mean())
    assert right > max(share, 1 - share) + 0.05


# ---- the distance ----------------------------------------------------------------------------------------------------


def test_the_truth_is_at_distance_zero() -> None:
    outputs = logits(1, 30, 0)
    found = divergence(predictive(outputs), outputs[0].log_softmax(-1))
    assert found == pytest.approx((0.0, 0.0), abs=1e-12)


def test_the_distance_is_that_of_redrawn_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """E over labels in closed form against labels drawn from the truth, block by block; failure rate 1e-5."""
    truth, draws = logits(1, 8, 0)[0].log_softmax(-1), logits(5, 8, 1).log_softmax(-1)
    monkeypatch.setattr(score, "ELEMENTS", 400)  # in pieces
    dyads = Dyads(torch.tensor([0, 2, 4, 6]), torch.tensor([1, 3, 5, 6]), torch.tensor([3, 7, 7, 10]))
    found = dyadic(truth, draws, dyads)
    rng, count = torch.Generator().manual_seed(0), 40_000
    z = []
    for block in range(4):
        n = int(dyads.repeats[block])
        rows = torch.tensor([int(dyads.first[block])] * n + [int(dyads.second[block])] * (10 - n))
        labels = torch.multinomial(truth[rows].exp(), count, replacement=True, generator=rng)  # (10, count)
        at = torch.arange(10)[:, None]
        log_p = truth[rows][at, labels].sum(0)
        log_q = torch.stack([one[rows][at, labels].sum(0) for one in draws]).logsumexp(0) - math.log(5)
        values = log_p - log_q
        z.append(float((values.mean() - found[block]) / (values.std() / math.sqrt(count))))
    assert max(map(abs, z)) < critical_value(4)


def test_the_joint_tells_a_function_from_noise_where_the_marginal_does_not() -> None:
    """Two worlds: one sure of label 1, one of label 0. Draws that are one world each against draws that hedge."""
    truth = torch.tensor([[0.1, 0.9]]).double().log().expand(40, 2)
    worlds = torch.stack([truth, truth.flip(-1)])
    hedged = torch.zeros(2, 40, 2, dtype=torch.float64)
    one, other = divergence(predictive(worlds), truth), divergence(predictive(hedged), truth)
    assert one.marginal == pytest.approx(other.marginal)
    assert one.dyadic < 0.25 * other.dyadic


def test_dyads_use_every_anchor_once_and_choose_evenly() -> None:
    dyads = make_dyads(10_000)
    mixed = dyads.first != dyads.second
    assert len(torch.cat([dyads.first, dyads.second[mixed]]).unique()) == len(dyads.first) + int(mixed.sum())
    assert abs(float(dyads.repeats[mixed].double().mean()) - 5) < critical_value() * math.sqrt(2.5 / int(mixed.sum()))


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_methods_are_measured_once_and_paired(tmp_path: Path) -> None:
    planned: list[int] = []
    watch = Watch(lambda cells: planned.append(len(cells)), lambda fitted: None)
    options = {"problems": SMALL, "epochs": 20.0, "out": tmp_path, "watch": watch}
    found = measure_testbed(["map", "laplace(linearised=False)"], **options)
    again = measure_testbed(["map", "laplace(linearised=False)"], **options)
    assert planned == [6, 0]
    assert again == found
    assert json.loads(json.dumps(found)) == found
    control, mode, laplace = found["rows"]
    assert control["label"] == found["control"] == "deep_ensemble"
    assert control["dyadic_ratio"]["estimate"] == 1.0
    assert [row["draws"] for row in found["rows"]] == [10, 1, 1000]
    assert mode["problems"] == laplace["problems"] == 2
    values = [mode["by_problem"][name]["dyadic"] / control["by_problem"][name]["dyadic"] for name in SMALL]
    assert mode["dyadic_ratio"]["estimate"] == pytest.approx(math.sqrt(np.prod(values)))
    assert 0 < found["uniform"]["marginal"] < found["uniform"]["dyadic"]


def test_a_failure_is_a_record_and_the_rest_goes_on(tmp_path: Path) -> None:
    found = measure_testbed(["hmc"], problems=SMALL[:1], epochs=0.2, out=tmp_path)
    row = found["rows"][1]
    assert row["problems"] == 0
    assert "gradient evaluations" in row["failed"][0]


def test_ratios_are_paired_geometric_means() -> None:
    found = ratio([(2.0, 1.0), (4.0, 1.0), (8.0, 1.0)])
    assert found["estimate"] == pytest.approx(4.0)
    assert found["nearer"] == 0.0
    reach = math.log(2) * 4.302653 / math.sqrt(3)  # t of 2 degrees of freedom at 97.5%
    assert found["low"] == pytest.approx(4 * math.exp(-reach))
    assert found["high"] == pytest.approx(4 * math.exp(reach))


def test_misuse_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="unknown method 'swga'"):
        measure_testbed(["swga"], out=tmp_path)
    with pytest.raises(BudgetError, match="must be positive"):
        measure_testbed(["map"], epochs=0.0, out=tmp_path)
