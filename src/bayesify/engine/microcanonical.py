"""Microcanonical dynamics for K chains at once (Robnik, De Luca, Silverstein & Seljak, JMLR 2023).

A particle of unit speed moves through parameters in units of scales s, x = θ/s, d of them. With g = ∇ₓ log p, p the
tempered density, and a direction u on the unit sphere,

    ẋ = u,    u̇ = (I − u uᵀ) g / (d − 1)                                                                      (1)

keeps p(x) times the uniform law of u. Both halves have solutions (Ver Steeg & Galstyan, NeurIPS 2021). With e = g/|g|,
c = u·e, δ = t |g|/(d − 1), ζ = exp(−δ), the direction after a time t at one place is

    u ← normalised [ e (1 − ζ)(1 + ζ + c (1 − ζ)) + 2 ζ u ],    W = (d − 1) log(cosh δ + c sinh δ),              (2)

where exp(−W) is by how much (2) changes volume on the sphere. A step of size ε composes kicks (2) and drifts
x ← x + t u for t = ε times

    b₁, ½, b₂, ½, b₁      with b₁ = 0.1931833275037836, b₂ = 1 − 2 b₁                                           (3)

(McLachlan's two stages), which can be run backwards: accepting its end with probability min(1, exp(−ΔE)),
ΔE = ΣW − Δ log p, would leave p unchanged. Between steps the direction is partly refreshed, so that it is forgotten
over a length L:

    u ← normalised [ u + ν z ],    z ~ N(0, I),    ν² = (exp(2 ε/L) − 1)/d.                                     (4)

The published algorithm refreshes for ε/2 before and after each step. Two such halves in a row are (4) up to O(1/√d) in
the rate, and both keep the uniform law, so one is drawn where they meet. Cost: two gradients of all data per step.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.chains import Info
from bayesify.engine.compiled import Fused
from bayesify.engine.hamiltonian import mode_of
from bayesify.model.network import Mode
from bayesify.model.problem import Problem

B_1 = 0.1931833275037836
B_2 = 1 - 2 * B_1
FORGOTTEN = 50.0
"""2 ε/L from which a direction is all noise; ν stays finite."""


class Particle(NamedTuple):
    """Where K chains are and where they go."""

    theta: Tensor  # (K, P)
    direction: Tensor  # (K, P), unit vectors
    likelihood: Tensor  # (K, P) gradient of the log likelihood, untempered
    log_likelihood: Tensor  # (K,) untempered, in double precision as the next
    log_prior: Tensor  # (K,)


class Pace(NamedTuple):
    """Of each chain by itself."""

    step: Tensor  # (K,) ε
    length: Tensor  # (K,) L
    scale: Tensor  # (K, P) s


class Kernel(NamedTuple):
    """The density, and the vector work between two gradients."""

    problem: Problem
    mode: Mode
    scale: Tensor  # (P,) the prior's
    refresh: Fused
    """(u, noise, ν) → (4)."""
    move: Fused
    """(θ, u, likelihood gradient, ε, s, b, W so far) → a kick of b ε, then a drift of ε/2: θ, u, W."""
    close: Fused
    """(θ, u, likelihood gradient, ε, s, W so far) → the last kick: u, W, log prior."""


def kernel_of(problem: Problem) -> Kernel:
    """The posterior's density with the prior's scales; say before how many gradients are to come."""
    scale = problem.prior.scales
    mode = mode_of(problem)

    def force(theta: Tensor, likelihood: Tensor, scale: Tensor) -> Tensor:
        return (likelihood + problem.prior.score(theta)) * (scale / problem.temperature)

    def move(
        theta: Tensor, u: Tensor, likelihood: Tensor, step: Tensor, scale: Tensor, share: Tensor, work: Tensor
    ) -> tuple[Tensor, ...]:
        u, more = kick(u, force(theta, likelihood, scale), step * share)
        return torch.addcmul(theta, scale * u, 0.5 * step[:, None]), u, work + more

    def close(
        theta: Tensor, u: Tensor, likelihood: Tensor, step: Tensor, scale: Tensor, work: Tensor
    ) -> tuple[Tensor, ...]:
        u, more = kick(u, force(theta, likelihood, scale), step * B_1)
        # Energies are small differences of large sums: single precision would round them away.
        return u, work + more, problem.prior.log_density(theta.double())

    return Kernel(
        problem, mode, scale, problem.fused(refreshed, mode), problem.fused(move, mode), problem.fused(close, mode)
    )


def kick(direction: Tensor, force: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Equation (2): the direction (K, P) after `time` (K,) under a constant force (K, P), and W (K,)."""
    norm = force.norm(dim=-1, keepdim=True)
    e = force / norm.clamp_min(torch.finfo(force.dtype).tiny)
    cosine = (direction * e).sum(-1, keepdim=True).clamp(-1.0, 1.0)
    left = direction.shape[-1] - 1
    delta = time[:, None] * norm / left
    zeta = (-delta).exp()
    turned = e * ((1 - zeta) * (1 + zeta + cosine * (1 - zeta))) + 2 * zeta * direction
    delta, cosine = delta[:, 0].double(), cosine[:, 0].double()
    work = left * (delta + (0.5 * ((1 + cosine) + (1 - cosine) * (-2 * delta).exp())).log())
    return _normalised(turned), work


def refreshed(direction: Tensor, noise: Tensor, amount: Tensor) -> Tensor:
    """Equation (4) with ν = `amount` (K,)."""
    return _normalised(torch.addcmul(direction, noise, amount[:, None]))


def _normalised(vector: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vector, dim=-1, eps=0.0)


def start(kernel: Kernel, theta: Tensor, rng: torch.Generator) -> Particle:
    """Particles at theta (K, P), each going anywhere."""
    likelihood, value = kernel.problem.full_likelihood_gradient(theta, kernel.mode)
    prior = kernel.problem.prior.log_density(theta.double())
    return Particle(theta, _normalised(_noise(theta, rng)), likelihood, value.double(), prior)


def _noise(theta: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(theta.shape, generator=rng, dtype=theta.dtype, device=theta.device)


class Move(NamedTuple):
    """Where deterministic steps lead."""

    end: Particle
    energy: Tensor  # (K,) ΔE


def integrate(kernel: Kernel, start: Particle, step: Tensor, scale: Tensor, num_steps: int) -> Move:
    """Equation (3) `num_steps` times with ε = `step` (K,); kicks of adjoining steps are one."""
    theta, u, likelihood = start.theta, start.direction, start.likelihood
    step = step.to(theta)
    first, middle, joint = (step.new_tensor(share) for share in (B_1, B_2, 2 * B_1))
    work = torch.zeros_like(start.log_prior)
    share = first
    for _ in range(num_steps):
        theta, u, work = kernel.move(theta, u, likelihood, step, scale, share, work)
        likelihood, _ = kernel.problem.full_likelihood_gradient(theta, kernel.mode)
        theta, u, work = kernel.move(theta, u, likelihood, step, scale, middle, work)
        likelihood, value = kernel.problem.full_likelihood_gradient(theta, kernel.mode)
        share = joint
    u, work, log_prior = kernel.close(theta, u, likelihood, step, scale, work)
    end = Particle(theta, u, likelihood, value.double(), log_prior)
    gained = (end.log_likelihood - start.log_likelihood) + (end.log_prior - start.log_prior)
    return Move(end, work - gained / kernel.problem.temperature)


def langevin(kernel: Kernel, particle: Particle, pace: Pace, rng: torch.Generator) -> tuple[Particle, Info]:
    """One refreshed step without a Metropolis test; one that ends nowhere is undone and bounces back."""
    size = particle.theta.shape[1]
    amount = (torch.expm1((2 * pace.step / pace.length).clamp_max(FORGOTTEN)) / size).sqrt().to(particle.theta)
    direction = kernel.refresh(particle.direction, _noise(particle.theta, rng), amount)
    particle = particle._replace(direction=direction)
    end, energy = integrate(kernel, particle, pace.step, pace.scale, 1)
    lost = ~torch.isfinite(energy)
    if bool(lost.any()):
        end = chosen(~lost, end, particle._replace(direction=-direction))
    return end, Info(1.0 - lost.double(), energy, lost)


def adjusted(
    kernel: Kernel, particle: Particle, pace: Pace, num_steps: int, rng: torch.Generator
) -> tuple[Particle, Info]:
    """A trajectory into a fresh direction and its Metropolis test (Robnik, Cohn-Gordon & Seljak 2025)."""
    theta = particle.theta
    particle = particle._replace(direction=_normalised(_noise(theta, rng)))
    end, energy = integrate(kernel, particle, pace.step, pace.scale, num_steps)
    finite = torch.isfinite(energy)
    acceptance = torch.where(finite, (-energy).clamp_max(0).exp(), 0.0)
    accepted = torch.rand(len(theta), generator=rng, dtype=torch.float64, device=theta.device) < acceptance
    return chosen(accepted, end, particle), Info(acceptance, energy, ~finite)


def chosen(which: Tensor, one: Particle, other: Particle) -> Particle:
    """The chains of one where `which` (K,), of the other elsewhere."""
    return Particle(
        *(torch.where(which[:, None] if a.dim() == 2 else which, a, b) for a, b in zip(one, other, strict=True))
    )
