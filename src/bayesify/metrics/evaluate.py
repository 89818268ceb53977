"""`evaluate`: every score that fits the task, from a predictive and the targets."""

from typing import Any

import numpy as np

from bayesify import metrics
from bayesify.predictive import Predictive

INTERVAL_LEVEL = 0.9
CLOSED_FORM_LIMIT = 20_000_000
"""Above this many (draw, draw, example) triples the mixture's CRPS is estimated from samples instead of summed."""
CRPS_SAMPLES = 500
DYADIC_BLOCKS = 500
"""Pairs of anchors that the joint score is averaged over, at least: small test sets are paired repeatedly."""


def evaluate(predictive: Predictive, targets: Any) -> dict[str, float]:
    """Scores of a predictive on held-out targets.

    Args:
        predictive: of B examples, in the units of the targets.
        targets: (B,) class indices, or real values (B,) or (B, D).

    Returns:
        Means over examples. All tasks: nll (nats), dyadic_nll (joint, in nats per block of 10 targets, see
        `dyadic_nll`; not of a loss, nor of one example). Classification: accuracy, brier, ece, adaptive_ece, entropy,
        mutual_information, aurc (area under the risk–coverage curve of errors by entropy). Regression: rmse, mae,
        crps, coverage_90, width_90, calibration_error. Counts: rmse, mae.
    """
    targets = np.asarray(targets)
    scores = {"nll": float(np.mean(metrics.negative_log_likelihood(_numpy(predictive.log_prob(targets)))))}
    if predictive.kind == "classification":
        return scores | _joint(predictive, targets) | _classification(predictive, targets)
    if predictive.kind == "loss":
        return scores
    scores |= _joint(predictive, targets)
    mean = _numpy(predictive.mean)
    scores |= {"rmse": metrics.rmse(targets, mean), "mae": metrics.mae(targets, mean)}
    return scores | _regression(predictive, targets) if predictive.kind == "regression" else scores


def dyadic_nll(predictive: Predictive, targets: Any, *, order: int = 10, num_anchors: int = 2, seed: int = 0) -> float:
    """The joint log-loss of order τ with polyadic sampling: −log (1/M) Σ_m Π_t p_m(y_t | x_t), mean over blocks.

    A block is `order` examples drawn with replacement from `num_anchors` anchors (Osband et al., "Evaluating high-order
    predictive distributions in deep learning", 2022: κ = 2, τ = 10). The label of an anchor is repeated, so that a
    predictive that commits to a function is rewarded; order 1 is the negative log likelihood.

    M is `predictive.num_draws`. M draws of a larger posterior give too high a loss, by about the relative variance of
    the products over 2 M: compare methods at the M they predict with, and say it. An ensemble has M members by
    definition; the closed form of a linearised regression has no M.

    Args:
        predictive: of B examples, at least as many as anchors.
        targets: of them.
        order: τ.
        num_anchors: κ; 2 is dyadic sampling.
        seed: of the blocks: the same for all predictives of the same examples.

    Raises:
        DataError: fewer examples than anchors.
    """
    rng, count = np.random.default_rng(seed), predictive.batch_shape[0]
    pairings = -(-DYADIC_BLOCKS // max(1, count // num_anchors))
    blocks = [metrics.dyadic_blocks(count, rng, order, num_anchors=num_anchors) for _ in range(pairings)]
    return -float(predictive.joint_log_prob(targets, np.concatenate(blocks)).double().mean())


def _joint(predictive: Predictive, targets: np.ndarray) -> dict[str, float]:
    return {"dyadic_nll": dyadic_nll(predictive, targets)} if predictive.batch_shape[0] > 1 else {}


def _classification(predictive: Predictive, labels: np.ndarray) -> dict[str, float]:
    probs = _normalised(predictive)
    labels = labels.astype(np.int64).reshape(-1)
    entropy = metrics.entropy(probs)
    errors = 1.0 - metrics.correct(probs, labels)
    return {
        "accuracy": metrics.accuracy(probs, labels),
        "brier": float(np.mean(metrics.brier(probs, labels))),
        "ece": metrics.expected_calibration_error(probs, labels),
        "adaptive_ece": metrics.adaptive_calibration_error(probs, labels),
        "entropy": float(np.mean(entropy)),
        "mutual_information": float(predictive.epistemic.mean()),
        "aurc": metrics.area_under_risk_coverage(errors, entropy),
    }


def _regression(predictive: Predictive, targets: np.ndarray) -> dict[str, float]:
    low, high = predictive.interval(INTERVAL_LEVEL)
    lows, highs = _numpy(low), _numpy(high)
    return {
        "crps": float(np.mean(crps(predictive, targets))),
        "coverage_90": metrics.interval_coverage(targets, lows, highs),
        "width_90": float(np.mean(metrics.interval_width(lows, highs))),
        "calibration_error": metrics.calibration_error_regression(_numpy(predictive.cdf(targets)).reshape(-1)),
    }


def crps(predictive: Predictive, targets: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score per target: closed form for Gaussian mixtures, else the fair estimator."""
    mixture = predictive.normal_mixture()
    flat = targets.reshape(-1)
    if mixture is not None and mixture[0].shape[0] ** 2 * flat.size <= CLOSED_FORM_LIMIT:
        means, scales = (_numpy(part).reshape(part.shape[0], -1) for part in mixture)
        return metrics.crps_gaussian_mixture(flat, means, scales)
    return metrics.crps_samples(flat, _numpy(predictive.sample((CRPS_SAMPLES,))).reshape(CRPS_SAMPLES, -1))


def _normalised(predictive: Predictive) -> np.ndarray:
    # In float32 probabilities of many classes sum to 1 only to 1e-6; the scores want the exact simplex.
    return np.asarray(predictive.logits.double().softmax(-1).cpu())


def _numpy(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().double().cpu())
