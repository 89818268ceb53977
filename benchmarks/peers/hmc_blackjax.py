"""HMC trajectories of an MLP 8-50-50-1 posterior in blackjax: jit(scan(vmap(kernel)))."""

import argparse
from itertools import pairwise

import blackjax
import jax
import jax.numpy as jnp
from _serve import serve
from jax.flatten_util import ravel_pytree

parser = argparse.ArgumentParser()
parser.add_argument("--rows", type=int, required=True)
parser.add_argument("--chains", type=int, required=True)
parser.add_argument("--trajectories", type=int, required=True)
parser.add_argument("--steps", type=int, required=True)
options = parser.parse_args()
SIZES = (8, 50, 50, 1)

key_x, key_y, key_start, key_run = jax.random.split(jax.random.key(0), 4)
x = jax.random.normal(key_x, (options.rows, SIZES[0]))
y = jnp.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * jax.random.normal(key_y, (options.rows,))
template = {
    "layers": [(jnp.zeros((a, b)), jnp.zeros(b)) for a, b in pairwise(SIZES)],
    "log_noise": jnp.zeros(()),
}
flat, unravel = ravel_pytree(template)


def log_density(theta):
    parameters = unravel(theta)
    hidden = x
    for weight, bias in parameters["layers"][:-1]:
        hidden = jax.nn.relu(hidden @ weight + bias)
    weight, bias = parameters["layers"][-1]
    z = (y - (hidden @ weight + bias)[:, 0]) / jnp.exp(parameters["log_noise"])
    return (-0.5 * z**2 - parameters["log_noise"]).sum() - 0.5 * (theta**2).sum()


kernel = blackjax.hmc(log_density, 1e-4, jnp.ones(len(flat)), options.steps)


@jax.jit
def run(key):
    states = jax.vmap(kernel.init)(0.1 * jax.random.normal(key_start, (options.chains, len(flat))))

    def one(states, key):
        states, _ = jax.vmap(kernel.step)(jax.random.split(key, options.chains), states)
        return states, None

    return jax.lax.scan(one, states, jax.random.split(key, options.trajectories))[0].position


serve(lambda: jax.block_until_ready(run(key_run)), f"blackjax {blackjax.__version__}, JAX {jax.__version__}")
