"""Does the evidence choose a prior as good as the one that a grid search on the test set would have chosen?

For every prior scale of a grid a network is trained under it and its Laplace approximation predicts the test rows. The
"best" column is the lowest mean test NLL of the grid, which nobody could have known; differences are to it. The others
saw no test and no validation data: the grid's scale of highest log evidence; one factor, one per layer, tuned after
training under the default prior; and the same tuned ten times during training. All rows train; nothing is held out.

Training makes the noise too small, which the evidence corrects and the grid does not. `--strict` adds a grid whose
noise and factor are tuned by the evidence at every scale, so that it only chooses, by the test set, what training sees.

    python benchmarks/evidence_prior.py [--sets yacht,energy,concrete] [--splits 3] [--epochs 300] [--strict]
"""

import argparse
import statistics
import time

import torch
from torch import nn

import bayesify as bay
from bayesify.datasets import load
from bayesify.datasets.prepare import Prepared, prepare
from bayesify.datasets.splits import make_splits
from bayesify.engine.rng import seeded
from bayesify.model.parameters import Layout

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Times the default prior's standard deviations."""
METHODS = {
    "factor after": "laplace",
    "layers after": "laplace(prior_precision=layerwise)",
    "factor during": "laplace(evidence_epochs={interval})",
    "layers during": "laplace(prior_precision=layerwise, evidence_epochs={interval})",
}


def fitted(parts: Prepared, method: str, scale: float, options: argparse.Namespace) -> tuple[float, float]:
    """Test NLL per row in the data's units, and the log evidence per training row."""
    x, y = torch.tensor(parts.X_train), torch.tensor(parts.y_train)
    with seeded(0):
        net = nn.Sequential(nn.Linear(x.shape[1], options.hidden), nn.ReLU(), nn.Linear(options.hidden, 1))
    posterior = bay.fit(
        net,
        (x, y),
        likelihood="gaussian",
        method=method,
        prior=scaled(net, scale),
        validation=0,
        progress=False,
        budget=bay.Budget(epochs=options.epochs),
    )
    predictive = posterior.predict(torch.tensor(parts.X_test)).rescaled(parts.target_loc, parts.target_scale)
    targets = torch.tensor(parts.y_test) * parts.target_scale + parts.target_loc
    return -float(predictive.log_prob(targets).mean()), posterior.log_marginal_likelihood / len(y)


def scaled(net: nn.Module, scale: float) -> bay.priors.Normal:
    """The default prior with all standard deviations multiplied."""
    bound = bay.priors.Normal().bind(Layout.of(net), 0, next(net.parameters()))
    slots = Layout.of(net).slots
    return bay.priors.Normal(scale={f"^{slot.name}$": scale * float(bound.scale[slot.offset]) for slot in slots})


def one_split(parts: Prepared, options: argparse.Namespace) -> dict[str, float]:
    """Test NLL by column."""
    grid = [fitted(parts, "laplace(prior_precision=fixed)", scale, options) for scale in SCALES]
    found = {f"grid {scale:g}": nll for scale, (nll, _) in zip(SCALES, grid, strict=True)}
    found["evidence on grid"] = max(grid, key=lambda pair: pair[1])[0]
    if options.strict:
        found |= {f"tuned {scale:g}": fitted(parts, "laplace", scale, options)[0] for scale in SCALES}
    for name, method in METHODS.items():
        found[name] = fitted(parts, method.format(interval=options.epochs / 10), 1.0, options)[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="yacht,energy,concrete")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--hidden", type=int, default=50)
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    start = time.process_time()
    names = ["evidence on grid", *METHODS]
    kinds = {"grid": "best of the grid (its scale)"} | ({"tuned": "best, noise tuned"} if options.strict else {})
    print(f"| set | default prior | {' | '.join([*kinds.values(), *names])} |")
    print("|---" * (2 + len(kinds) + len(names)) + "|", flush=True)
    for name in options.sets.split(","):
        task = load(name)
        rows = [one_split(prepare(task, split), options) for split in make_splits(task, options.splits)]
        mean = {key: statistics.mean(row[key] for row in rows) for key in rows[0]}
        scales = {kind: min(SCALES, key=lambda scale: mean[f"{kind} {scale:g}"]) for kind in kinds}
        best = [f"{mean[f'{kind} {scale:g}']:.3f} ({scale:g})" for kind, scale in scales.items()]
        target = mean[f"grid {scales['grid']:g}"]
        chosen = [f"{mean[key]:.3f} ({100 * (mean[key] - target) / abs(target):+.0f}%)" for key in names]
        print(f"| {name} | {mean['grid 1']:.3f} | {' | '.join([*best, *chosen])} |", flush=True)
    print(f"\n{options.splits} splits, {options.epochs} epochs; {(time.process_time() - start) / 60:.1f} core-minutes")


if __name__ == "__main__":
    main()
