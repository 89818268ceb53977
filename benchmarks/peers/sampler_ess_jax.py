"""NUTS of blackjax or numpyro on a posterior that benchmarks/sampler_ess.py wrote to a file.

Chains side by side (vmap: all wait for the longest tree) or one after the other (map). Compiled ahead of time; what it
took is told apart.
"""

import argparse
import json
import sys
import time
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--problem", required=True)
parser.add_argument("--library", choices=["blackjax", "numpyro"], required=True)
parser.add_argument("--way", choices=["vmap", "map"], required=True)
parser.add_argument("--warmup", type=int, required=True)
parser.add_argument("--samples", type=int, required=True)
parser.add_argument("--out", required=True)
options = parser.parse_args()

given = np.load(options.problem)
x, y, points, starts = (jnp.asarray(given[name]) for name in ("x", "y", "points", "starts"))
loc, scale = jnp.asarray(given["loc"]), jnp.asarray(given["scale"])
SIZES = given["sizes"].tolist()
MIN_SCALE = 1e-4


def network(theta, x):
    """Weights (out, in) and biases of each layer, one after the other."""
    offset = 0
    for number, (a, b) in enumerate(pairwise(SIZES)):
        weight, offset = theta[offset : offset + a * b].reshape(b, a), offset + a * b
        bias, offset = theta[offset : offset + b], offset + b
        x = x @ weight.T + bias
        x = jax.nn.relu(x) if number < len(SIZES) - 2 else x
    return x[:, 0]


def log_density(theta):
    weights, own = theta[:-1], theta[-1]
    noise = jnp.exp(own) + MIN_SCALE
    likelihood = (-0.5 * ((y - network(weights, x)) / noise) ** 2 - jnp.log(noise)).sum()
    return likelihood - 0.5 * (((weights - loc) / scale) ** 2).sum() - 0.5 * own**2


def found(theta):
    return jnp.append(network(theta[:-1], points), theta[-1])


def blackjax_functions():
    import blackjax

    def counted(state, info, adaptation_state):
        return info.num_integration_steps

    adaptation = blackjax.window_adaptation(blackjax.nuts, log_density, adaptation_info_fn=counted)
    kernel = blackjax.nuts.build_kernel()

    def tune(key, start):
        (state, parameters), steps = adaptation.run(key, start, options.warmup)
        return (state, parameters), steps.sum()

    def draw(key, tuned):
        state, parameters = tuned

        def one(state, key):
            state, info = kernel(key, state, log_density, **parameters)
            return state, (found(state.position), info.num_integration_steps)

        return jax.lax.scan(one, state, jax.random.split(key, options.samples))[1]

    return tune, draw, blackjax.__version__


def numpyro_functions():
    import numpyro
    from numpyro.infer.hmc import hmc

    init_kernel, sample_kernel = hmc(potential_fn=lambda theta: -log_density(theta), algo="NUTS")

    def tune(key, start):
        def one(_, tuned):
            state, steps = tuned
            state = sample_kernel(state)
            return state, steps + state.num_steps

        state = init_kernel(start, options.warmup, rng_key=key)
        return jax.lax.fori_loop(0, options.warmup, one, (state, state.num_steps))

    def draw(key, state):
        def one(state, _):
            state = sample_kernel(state)
            return state, (found(state.z), state.num_steps)

        return jax.lax.scan(one, state, None, length=options.samples)[1]

    return tune, draw, numpyro.__version__


def batched(function):
    if options.way == "vmap":
        return jax.vmap(function)
    return lambda *arguments: jax.lax.map(lambda own: function(*own), arguments)


def main():
    tune, draw, version = blackjax_functions() if options.library == "blackjax" else numpyro_functions()
    keys = jax.random.split(jax.random.PRNGKey(0), len(starts))
    began = time.perf_counter()
    tune = jax.jit(batched(tune)).lower(keys, starts).compile()
    compiling = time.perf_counter() - began
    began = time.perf_counter()
    tuned, spent = jax.block_until_ready(tune(keys, starts))
    tuning = time.perf_counter() - began
    began = time.perf_counter()
    draw = jax.jit(batched(draw)).lower(keys, tuned).compile()
    compiling += time.perf_counter() - began
    began = time.perf_counter()
    values, steps = jax.block_until_ready(draw(keys, tuned))
    sampling = time.perf_counter() - began
    np.save(options.out, np.asarray(values))
    times = {"compiling": compiling, "tuning": tuning, "sampling": sampling}
    gradients = float((spent + steps.sum(1)).mean())
    print(
        json.dumps({"version": version, **times, "steps": float(steps.mean()), "gradients": gradients}), file=sys.stdout
    )


main()
