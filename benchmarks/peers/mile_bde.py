"""One fit of sklearn-contrib-bde: test scores and processor seconds of fit, as one JSON line."""

import argparse
import json
import resource

import jax
import numpy as np
from bde import BdeRegressor
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--members", type=int, required=True)
parser.add_argument("--warmup", type=int, required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--thinning", type=int, required=True)
options = parser.parse_args()


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


table = np.load(options.data)
model = BdeRegressor(
    n_members=options.members,
    hidden_layers=[16, 16, 16, 16],
    seed=options.seed,
    epochs=1000,
    patience=20,
    lr=1e-3,
    warmup_steps=options.warmup,
    n_samples=options.steps,
    n_thinning=options.thinning,
)
began = processor_seconds()
model.fit(table["x"], table["y"])
spent = processor_seconds() - began
raw = np.asarray(model.predict(table["x_test"], raw=True))  # (E, T, N, 2)
mean, scale = raw[..., 0], np.asarray(jax.nn.softplus(raw[..., 1])) + 1e-6
logs = norm.logpdf(table["y_test"], mean, scale).reshape(-1, mean.shape[-1])
density = logsumexp(logs, axis=0) - np.log(len(logs))
error = np.sqrt(np.mean((mean.mean((0, 1)) - table["y_test"]) ** 2))
print(json.dumps({"nll": float(-density.mean()), "rmse": float(error), "core_seconds": spent}))
