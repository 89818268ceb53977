"""Telling out-of-distribution inputs from in-distribution ones by a score.

A score is any number per example that should be higher out of distribution (predictive entropy, mutual
information, −max probability). Out-of-distribution is the positive class, as in OpenOOD. For the opposite
convention (in-distribution positive, as in ODIN's FPR95) pass `(-out_scores, -in_scores)`. Only the order of
the scores matters; ties count half in `auroc` and are never split in the others. Scores may be infinite.
"""

import numpy as np
import numpy.typing as npt

from bayesify.metrics.checks import FloatArray, as_array


def auroc(in_scores: npt.ArrayLike, out_scores: npt.ArrayLike) -> float:
    """P(out > in) + ½ P(out = in): the area under the ROC curve; ½ is chance, 1 is perfect.

    Args:
        in_scores: scores of in-distribution examples (B,).
        out_scores: scores of out-of-distribution examples (B',).

    Raises:
        DataError: NaN, empty, or not one axis.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_detection(in_scores, out_scores)))


def aupr(in_scores: npt.ArrayLike, out_scores: npt.ArrayLike) -> float:
    """Average precision of detecting out-of-distribution examples; chance is their share B' / (B + B').

    Arguments and errors as for `auroc`. Depends on that share: compare only on the same examples.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_detection(in_scores, out_scores)))


def fpr95(in_scores: npt.ArrayLike, out_scores: npt.ArrayLike) -> float:
    """The smallest share of in-distribution examples flagged when at least 95% of the others are.

    Arguments and errors as for `auroc`; lower is better.
    """
    from sklearn.metrics import roc_curve

    false_rate, true_rate, _ = roc_curve(*_detection(in_scores, out_scores), drop_intermediate=False)
    return float(false_rate[np.argmax(true_rate >= 0.95)])


def _detection(in_scores: npt.ArrayLike, out_scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Labels (1 = out) and ranks of the scores: ranks keep order and ties, and admit infinite scores."""
    inside = as_array(in_scores, "in_scores", ndim=1)
    outside = as_array(out_scores, "out_scores", ndim=1)
    is_out = np.concatenate((np.zeros(inside.size), np.ones(outside.size)))
    ranks = np.unique(np.concatenate((inside, outside)), return_inverse=True)[1]
    return is_out, ranks.astype(np.float64)
