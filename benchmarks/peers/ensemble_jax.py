"""The ensemble of benchmarks/ensemble_training.py in JAX: jit(vmap(scan)), everything in one compiled call."""

import argparse
from itertools import pairwise

import jax
import jax.numpy as jnp
import optax
from _serve import serve

parser = argparse.ArgumentParser()
parser.add_argument("--members", type=int, default=10)
parser.add_argument("--epochs", type=int, default=200)
options = parser.parse_args()
ROWS, INPUTS, BATCH, LEARNING_RATE = 1_000, 8, 100, 1e-2
SIZES = (INPUTS, 50, 50, 1)
STEPS = options.epochs * ROWS // BATCH

key_x, key_y = jax.random.split(jax.random.key(0))
x = jax.random.normal(key_x, (ROWS, INPUTS))
y = jnp.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * jax.random.normal(key_y, (ROWS,))
optimiser = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS, 0.01))


def start(key):
    keys = jax.random.split(key, len(SIZES) - 1)
    layers = []
    for key, (a, b) in zip(keys, pairwise(SIZES), strict=True):
        layers.append((jax.random.uniform(key, (a, b), minval=-1, maxval=1) / jnp.sqrt(a), jnp.zeros(b)))
    return {"layers": layers, "log_noise": jnp.zeros(())}


def loss(parameters, x, y):
    for weight, bias in parameters["layers"][:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = parameters["layers"][-1]
    z = (y - (x @ weight + bias)[:, 0]) / jnp.exp(parameters["log_noise"])
    return (0.5 * z**2 + parameters["log_noise"]).mean()


def train(key):
    key_start, key_order = jax.random.split(key)
    parameters = start(key_start)

    def epoch(carry, key):
        order = jax.random.permutation(key, ROWS).reshape(-1, BATCH)

        def step(carry, rows):
            parameters, state = carry
            gradient = jax.grad(loss)(parameters, x[rows], y[rows])
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(parameters, updates), state), None

        return jax.lax.scan(step, carry, order)[0], None

    carry = (parameters, optimiser.init(parameters))
    return jax.lax.scan(epoch, carry, jax.random.split(key_order, options.epochs))[0][0]


train_all = jax.jit(jax.vmap(train))
keys = jax.random.split(jax.random.key(1), options.members)
serve(lambda: jax.block_until_ready(train_all(keys)), f"JAX {jax.__version__}, jit(vmap(scan))")
