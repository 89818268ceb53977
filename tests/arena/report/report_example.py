"""A made-up but plausible result of the default field, for the tests and for looking at the page.

``python tests/arena/report/report_example.py FOLDER`` writes a gallery of reports: regression, classification with
several budgets, a half-finished run, and one whose every name is hostile.
"""

import copy
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

CONTROL = "deep_ensemble+temperature"
BUDGET = 4_860_000
JOINTLY = 2.77  # standard errors that 9 intervals need to hold together with probability 95%

# name, label, family, exactness, role, gain per example, spread, cost multiple, seconds, prediction seconds
FIELD: list[tuple[str, str, str, str, str, float, float, float, float, float]] = [
    ("map", "MAP", "point", "approximate", "null", -0.118, 0.030, 0.1, 3.1, 0.0021),
    ("map+temperature", "MAP + temperature", "point", "approximate", "null", -0.071, 0.024, 0.1, 3.2, 0.0022),
    ("map_full", "MAP, whole budget", "point", "approximate", "null", -0.155, 0.041, 1.0, 29.4, 0.0021),
    (CONTROL, "Deep ensemble + temperature", "ensemble", "approximate", "control", 0, 0, 1.0, 31.6, 0.0183),
    ("mc_dropout", "MC dropout", "variational", "approximate", "", -0.044, 0.013, 1.0, 33.8, 0.0912),
    ("swag", "SWAG", "trajectory", "approximate", "", -0.012, 0.014, 1.0, 32.7, 0.0655),
    ("multi(swag,5)", "Multi(SWAG, 5)", "trajectory", "approximate", "", 0.021, 0.0062, 1.0, 34.0, 0.3041),
    ("laplace", "Laplace (kron)", "laplace", "approximate", "", -0.031, 0.019, 0.38, 14.9, 0.0244),
    ("subset(laplace)", "Last-layer Laplace (full)", "laplace", "approximate", "", -0.026, 0.018, 0.36, 12.2, 0.0067),
    ("multi(laplace,5)", "Multi(Laplace, 5)", "laplace", "approximate", "", 0.0011, 0.0030, 1.0, 38.1, 0.1224),
    ("ivon", "IVON", "variational", "approximate", "", 0.004, 0.013, 1.0, 35.2, 0.0689),
    ("multi(ivon,5)", "Multi(IVON, 5)", "variational", "approximate", "", 0.016, 0.0075, 1.0, 36.9, 0.3377),
    ("hmc", "HMC", "mcmc", "asymptotically exact", "", 0.034, 0.0101, 1.0, 61.5, 0.7110),
]


def example(kind: str = "regression", *, budgets: bool = False, seed: int = 0) -> dict[str, Any]:
    """A complete result of 13 methods; `kind` is regression, binary or multiclass."""
    rng = np.random.default_rng(seed)
    methods = [_method(row, kind, rng) for row in FIELD]
    counts = {v: sum(m["verdict"] == v and not m["is_null"] for m in methods) for v in ("better", "worse")}
    best = max((m for m in methods if m["difference"]), key=lambda m: m["difference"]["estimate"])
    result: dict[str, Any] = {
        "schema": 1,
        "sentence": f"{counts['better']} of 9 Bayesian methods beat a deep ensemble on {_task(kind)['name']} "
        f"at equal compute: {best['label']} leads by {best['difference']['estimate']:.3f} nats per example.",
        "task": _task(kind),
        "control": CONTROL,
        "level": 0.95,
        "margin": 0.01,
        "budget": {
            "gradient_evaluations": BUDGET,
            "multiple": 1.0,
            "description": "10 ensemble members trained to convergence",
        },
        "environment": {
            "bayesify": "0.1.0",
            "torch": "2.13.0+cpu",
            "python": "3.11.7",
            "platform": "Linux x86_64, 2 cores",
            "threads": 1,
            "timing_exclusive": False,
            "command": "bayesify compare concrete --splits 5 --seeds 1 --out bayesify-results/concrete",
            "date": "2026-11-05 14:12 UTC",
        },
        "methods": methods,
        "reliability": {m["name"]: _reliability(m, kind, rng) for m in methods},
        "curve": _curve(methods, rng) if budgets else [],
        "chains": {"hmc": _chains(rng)},
        "prior_check": _prior_check(kind),
        "progress": {"done": 65, "planned": 65, "failed": 0},
        "missing": [],
        "caveats": ["The standard splits of this data set overlap: intervals are corrected for it."],
    }
    return result


def half_finished() -> dict[str, Any]:
    """A run in the middle: some methods done, one partial, one failed, some without anything."""
    result = example()
    result["sentence"] = "So far, 1 of 9 Bayesian methods beats a deep ensemble on concrete; 24 of 65 runs are missing."
    result["progress"] = {"done": 39, "planned": 65, "failed": 2}
    for method in result["methods"][8:]:
        name, label = method["name"], method["label"]
        keep = {"name": name, "label": label, "is_control": False, "is_null": False}
        method.clear()
        method.update(keep, status="missing", reason=None, scores={}, difference=None, verdict=None, spent={})
        result["reliability"].pop(name)
        result["missing"] += [
            {"method": name, "split": split, "seed": 0, "reason": "not run yet"} for split in range(5)
        ]
    laplace = result["methods"][7]
    laplace.update(
        status="failed",
        reason="out of memory: the GGN of 215,370 parameters needs 186 GB",
        difference=None,
        verdict=None,
        scores={},
        scores_by_split={},
        p_adjusted=None,
        minimum_detectable=None,
        spent={"gradient_evaluations": 1.9e6},
        predict_seconds=None,
    )
    result["missing"] += [
        {"method": "laplace", "split": split, "seed": 0, "reason": "out of memory"} for split in (3, 4)
    ]
    result["methods"][6]["status"] = "partial"
    return result


def hostile() -> dict[str, Any]:
    """Every string of a complete result replaced by one that would run code in a careless page."""
    attack = "<script>alert(1)</script>"
    nasty = f"{attack}\"'><img src=x onerror=alert(2)>|`**[x](javascript:alert(3))\n</style>{{{{7*7}}}}\u202e\x00\ud800"

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poison(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [poison(item, key) for item in value]
        keep = {"kind", "metric", "name", "control", "method", "status", "verdict"}
        return f"{key} {nasty}" if isinstance(value, str) and key not in keep else value

    result = poison(example(budgets=True))
    result["task"]["target"] = attack
    result["task"]["name"] = nasty
    for method in result["methods"]:
        method["scores"][attack] = 1.0
    result["missing"] = [{"method": attack, "split": 0, "seed": 0, "reason": nasty}]
    return dict(result)


def _task(kind: str) -> dict[str, Any]:
    regression = kind == "regression"
    return {
        "name": "concrete" if regression else "segment",
        "kind": kind,
        "target": "compressive_strength" if regression else "class",
        "rows": 1030 if regression else 2310,
        "features": 8 if regression else 19,
        "classes": None if regression else ["brickface", "cement", "foliage", "grass", "path", "sky", "window"],
        "metric": "nll",
        "metric_label": "negative log likelihood (nats per example)",
        "splits": 5,
        "seeds": 1,
        "split_kind": "random",
        "num_train": 927 if regression else 2079,
        "num_test": 103 if regression else 231,
        "notes": [],
    }


def _method(row: tuple[Any, ...], kind: str, rng: np.random.Generator) -> dict[str, Any]:
    name, label, family, exactness, role, gain, spread, cost, seconds, predict = row
    base = 2.93 if kind == "regression" else 0.148
    per_split = base - gain + 0.05 * rng.standard_normal(5) * (1 if kind == "regression" else 0.2)
    low, high = gain - JOINTLY * spread, gain + JOINTLY * spread
    p_value = math.erfc(abs(gain) / max(spread, 1e-9) / math.sqrt(2))
    p_adjusted = min(1.0, 8 * p_value)
    verdict = _verdict(low, high, p_adjusted, role)
    return {
        "name": name,
        "label": label,
        "family": family,
        "exactness": exactness,
        "is_control": role == "control",
        "is_null": role == "null",
        "status": "done",
        "reason": None,
        "scores": _scores(float(per_split.mean()), gain, kind, rng),
        "scores_by_split": {"nll": per_split.tolist()},
        "difference": None if role == "control" else {"metric": "nll", "estimate": gain, "low": low, "high": high},
        "p_value": None if role == "control" else p_value,
        "p_adjusted": None if role == "control" else p_adjusted,
        "minimum_detectable": None if role == "control" else (JOINTLY + 0.84) * spread,
        "verdict": verdict,
        "verdict_sentence": f"{label} is {verdict}: {gain:+.3f} nats [{low:.3f}, {high:.3f}]",
        "spent": {
            "gradient_evaluations": round(cost * BUDGET),
            "forward_evaluations": round(0.2 * cost * BUDGET),
            "seconds": seconds,
            "flops": 2.1e4 * cost * BUDGET,
            "peak_memory_bytes": 3.1e8 + 4e6 * seconds,
        },
        "budget_fraction": cost,
        "unspent_reason": "one network converged; Laplace adds no training" if cost < 1 else None,
        "predict_seconds": predict,
        "warnings": ["3 of 4,000 transitions diverged"] if name == "hmc" else [],
        "diagnostics": ["R-hat 1.03 over 4 chains, in function space"] if name == "hmc" else [],
    }


def _verdict(low: float, high: float, p_adjusted: float, role: str) -> str:
    if role == "control":
        return "control"
    if low > -0.01 and high < 0.01:
        return "equivalent"
    if p_adjusted < 0.05:
        return "better" if low > 0 else "worse"
    return "undecided"


def _scores(nll: float, gain: float, kind: str, rng: np.random.Generator) -> dict[str, float]:
    noise = rng.standard_normal(5)
    if kind == "regression":
        return {
            "nll": nll,
            "rmse": 4.62 - 6 * gain + 0.05 * noise[0],
            "mae": 3.1 - 4 * gain + 0.04 * noise[1],
            "crps": 2.31 - 3 * gain + 0.03 * noise[2],
            "coverage_90": min(0.99, 0.895 + 1.1 * min(gain, 0) + 0.006 * noise[3]),
            "width_90": 14.2 + 20 * gain + 0.2 * noise[4],
        }
    return {
        "nll": nll,
        "accuracy": 0.962 + 0.2 * gain + 0.003 * noise[0],
        "brier": 0.0614 - 0.2 * gain + 0.001 * noise[1],
        "ece": 0.018 + 0.3 * abs(min(gain, 0)) + 0.002 * abs(noise[2]),
        "auroc": min(0.999, 0.991 + 0.03 * gain),
    }


def _reliability(method: dict[str, Any], kind: str, rng: np.random.Generator) -> list[dict[str, float]]:
    lean = min((method["difference"] or {"estimate": 0.0})["estimate"], 0.02)
    if kind == "regression":
        levels = np.linspace(0.1, 0.95, 10)
        covered = levels + 4.5 * lean * levels * (1 - levels) + 0.012 * rng.standard_normal(10)
        return [{"level": float(a), "coverage": float(b)} for a, b in zip(levels, covered, strict=True)]
    bins = np.linspace(0.35, 0.985, 9)
    rows = []
    for index, confidence in enumerate(bins):
        count = int(20 + 18 * 1.6**index)
        right = float(
            np.clip(confidence + 3 * lean * (1 - confidence) + 0.4 / np.sqrt(count) * rng.standard_normal(), 0, 1)
        )
        half = 1.96 * np.sqrt(max(right * (1 - right), 0.01) / count)
        rows.append({
            "confidence": float(confidence), "accuracy": right, "count": count,
            "low": float(max(0, right - half)), "high": float(min(1, right + half)),
        })  # fmt: skip
    return rows


def _chains(rng: np.random.Generator) -> dict[str, Any]:
    """Four chains of 100 kept draws at 2 test inputs, one chain a little apart."""
    from bayesify.arena.chains import chain_summary

    values = rng.standard_normal((4, 100, 2))
    for step in range(1, 100):
        values[:, step] = 0.7 * values[:, step - 1] + 0.71 * values[:, step]
    values[2, :, 1] += 0.6
    found = chain_summary({"chains": values.astype(np.float32), "rows": np.arange(50), "chain_rows": np.array([3, 17])})
    assert found is not None
    return found


def _prior_check(kind: str) -> dict[str, Any]:
    """A prior without faults for regression, a saturated one for classes."""
    found: dict[str, Any] = {
        "prior": "Normal(scale='fan_in', gain=3.0)", "reason": None, "kind": "regression", "num_functions": 100,
        "num_inputs": 500, "one_class": None, "one_class_certain": None, "confidence": None, "entropy": None,
        "between_functions": 4.12, "across_inputs": 3.07, "constant": 0.0, "exploding": 0.02, "warnings": [],
    }  # fmt: skip
    if kind == "regression":
        return found
    saturated = "prior functions are saturated: their largest class probability is 0.971 on average"
    return found | {
        "kind": "classification", "one_class": 0.12, "one_class_certain": 0.08, "confidence": 0.971, "entropy": 0.041,
        "exploding": None, "warnings": [saturated],
    }  # fmt: skip


def _curve(methods: list[dict[str, Any]], rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for method in methods:
        gain = (method["difference"] or {"estimate": 0.0})["estimate"]
        for multiple in (1, 4, 16):
            score = method["scores"]["nll"] - 0.02 * np.log2(multiple) + 0.2 * gain * np.log2(multiple)
            score += 0.004 * rng.standard_normal()
            rows.append({
                "method": method["name"], "multiple": multiple, "gradient_evaluations": BUDGET * multiple,
                "score": float(score), "low": float(score - 0.02), "high": float(score + 0.02),
                "verdict": method["verdict"],
            })  # fmt: skip
    return rows


def main(folder: Path) -> None:
    """Write the gallery."""
    from bayesify.arena.report import write_report

    gallery = {
        "regression": example(),
        "classification": example("multiclass", budgets=True, seed=1),
        "half-finished": half_finished(),
        "hostile": hostile(),
        "empty": {},
    }
    outlier = copy.deepcopy(gallery["regression"])
    outlier["methods"][-1]["difference"].update(estimate=-9.4, low=-14.0, high=-4.9)
    outlier["methods"][-1].update(verdict="worse", scores={**outlier["methods"][-1]["scores"], "nll": 12.33})
    gallery["outlier"] = outlier
    for name, result in gallery.items():
        print(write_report(result, folder / name).html)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
