"""The control against itself under other seeds: how often do the statistics call that better or worse?

Trains a pool of deep ensembles that differ in their seed only on the same five splits of a bundled data set, then
compares random pairs of them by the arena's own statistics; a planted improvement is then added to one of each pair.

    python benchmarks/null_experiment.py [--members 3] [--pool 40] [--pairs 400]
"""

import argparse
import itertools

import numpy as np
import torch

from bayesify.arena.statistics import PairedDifferences, compare_to_control
from bayesify.datasets import make_splits, make_task, prepare
from bayesify.engine.budget import Budget
from bayesify.fitting import fit
from bayesify.models import mlp_for

FIELD = 9
"""Comparisons made at once, as in the default field: the stated rate is for the whole field."""


def pool_of_log_probs(name, pool, members, epochs):
    task = make_task(name)
    splits = make_splits(task, 5)
    found = []
    for seed in range(pool):
        rows = []
        for split in splits:
            data = prepare(task, split)
            net = mlp_for(len(data.X_train), data.X_train.shape[1], 1)
            budget = Budget(gradient_evaluations=members * epochs * len(data.X_train))
            posterior = fit(
                net, (data.X_train, data.y_train), likelihood="gaussian", method=f"deep_ensemble({members})",
                budget=budget, seed=seed, progress=False,
            )  # fmt: skip
            predictive = posterior.predict(data.X_test).rescaled(data.target_loc, data.target_scale)
            rows.append(predictive.log_prob(task.target[split.test]).double().numpy())
        found.append(rows)
    return found, [split.test for split in splits], len(splits[0].train)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="diabetes")
    parser.add_argument("--pool", type=int, default=40)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=40)
    parser.add_argument("--fields", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pool, rows, num_train = pool_of_log_probs(options.data, options.pool, options.members, options.epochs)
    rng = np.random.default_rng(0)
    detectable_effect = 0.0
    for planted in (0.0, 0.005, 0.01, 0.02, 0.04, None):
        at_stated = planted is None  # the last: what the first field's statistics say they would find
        planted = detectable_effect if at_stated else planted
        false_fields = found = 0
        detectable = []
        for _ in range(options.fields):
            chosen = rng.choice(options.pool, FIELD + 1, replace=False)
            control = pool[chosen[0]]
            field = {
                str(one): PairedDifferences(
                    tuple((a - b + planted)[None] for a, b in zip(pool[one], control, strict=True)),
                    tuple(rows),
                    num_train,
                )
                for one in chosen[1:]
            }
            verdicts = compare_to_control(field, margin=0.0, level=0.95)
            calls = [str(c.verdict) for c in verdicts.values()]
            false_fields += any(call in ("better", "worse") for call in calls)
            found += calls.count("better")
            detectable.append(np.mean([c.minimum_detectable for c in verdicts.values()]))
        detectable_effect = float(np.mean(detectable))
        total = options.fields * FIELD
        print(
            f"planted {planted:5.3f} nats: {total} comparisons in {options.fields} fields of {FIELD}; fields with any "
            f"better/worse {false_fields / options.fields:6.1%}; better {found / total:6.1%}; "
            f"stated detectable difference (power 0.8) {np.mean(detectable):.4f}"
        )
    spread = [np.mean(np.concatenate(a) - np.concatenate(b)) for a, b in itertools.combinations(pool, 2)]
    print(f"standard deviation of the mean difference between two seeds: {np.std(spread):.4f} nats")


if __name__ == "__main__":
    main()
