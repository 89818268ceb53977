"""One file of tensors (safetensors) with a JSON header. Reading it runs no code and checks everything first."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bayesify.engine.budget import Cost
from bayesify.errors import SaveError, UnsupportedError
from bayesify.files import replacing
from bayesify.model.likelihoods import Loss, likelihood_from_settings, likelihood_settings
from bayesify.model.model import Model
from bayesify.model.network import Network
from bayesify.model.transform import transformed
from bayesify.posterior.base import Diagnostics, Posterior, Record
from bayesify.posterior.calibrated import Calibrated
from bayesify.posterior.draws import Draws
from bayesify.posterior.gaussian import Gaussian
from bayesify.posterior.linearised import Linearised
from bayesify.posterior.mixture import Mixture

FORMAT = 1


def save(posterior: Posterior, path: Path) -> None:
    """Writes the posterior by rename, so that a crash leaves the old file or none.

    Raises:
        SaveError: the folder does not exist or cannot be written.
        UnsupportedError: the likelihood is a user's function, which a file of numbers cannot hold.
    """
    network = posterior.model.network
    if isinstance(posterior.model.likelihood, Loss):
        raise UnsupportedError(
            "a posterior under a Loss cannot be saved, because the loss is your own function: save posterior.sample()."
        )
    tensors = {name: value.detach().cpu().contiguous() for name, value in posterior.tensors().items()}
    tensors |= {f"frozen.{name}": value.cpu().contiguous() for name, value in _frozen(posterior).items()}
    header = {
        "format": FORMAT,
        "posterior": {"form": posterior.form, **posterior.settings()},
        "likelihood": likelihood_settings(posterior.model.likelihood),
        "layout": network.layout.describe(),
        "transform": network.transform,
        "record": asdict(posterior.record),
    }
    try:
        with replacing(path) as partial:
            # Views of one tensor (members sharing weights) are separate entries in the file.
            own = {name: value.clone() for name, value in tensors.items()}
            save_file(own, partial, {"bayesify": json.dumps(header)})
    except (OSError, SafetensorError) as error:
        raise SaveError(f"cannot write {path} ({error}): does its folder exist, and is there space?") from error


def load(path: str | Path, model: nn.Module) -> Posterior:
    """Reads a saved posterior for `model`, which supplies the architecture and is not changed.

    Raises:
        SaveError: the file is missing, damaged, not ours, or was saved from another architecture.
    """
    header, tensors = _read(Path(path))
    likelihood = likelihood_from_settings(header["likelihood"])
    frozen = {n.removeprefix("frozen."): t for n, t in tensors.items() if n.startswith("frozen.")}
    tensors = {name: value for name, value in tensors.items() if not name.startswith("frozen.")}

    def build(frozen: dict[str, Tensor]) -> Model:
        return Model(_network(Path(path), model, header, frozen), likelihood)

    posterior = _restore(build, frozen, tensors, header["posterior"])
    record = header["record"]
    diagnostics = Diagnostics(record["diagnostics"]["values"], tuple(record["diagnostics"]["warnings"]))
    posterior.record = Record(**(record | {"cost": Cost(**record["cost"]), "diagnostics": diagnostics}))
    return posterior


def _frozen(posterior: Posterior) -> dict[str, Tensor]:
    """Values of what is not inferred but was trained: one set, or one for each component of a mixture."""
    if isinstance(posterior, Calibrated):
        return _frozen(posterior.base)
    network = posterior.model.network
    if not isinstance(posterior, Mixture) or all(part.model.network is network for part in posterior.components):
        return network.frozen() if network.is_restricted else {}
    parts = enumerate(posterior.components)
    return {f"{_component(i)}{name}": value for i, part in parts for name, value in _frozen(part).items()}


def _component(index: int) -> str:
    return f"component-{index}/"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.exists():
        raise SaveError(f"there is no file {path}: check the path.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = json.loads((file.metadata() or {})["bayesify"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise SaveError(f"{path} is damaged or truncated ({error}): restore it from a copy, or fit again.") from error
    except (KeyError, ValueError) as error:
        raise SaveError(f"{path} was not saved by bayesify: give a file written by posterior.save().") from error
    if header["format"] > FORMAT:
        raise SaveError(
            f"{path} has format {header['format']}, newer than this version reads ({FORMAT}): upgrade bayesify."
        )
    return header, tensors


def _network(path: Path, model: nn.Module, header: dict[str, Any], frozen: dict[str, Tensor]) -> Network:
    module = transformed(model, header["transform"])
    own = {name: list(p.shape) for name, p in (*module.named_parameters(), *module.named_buffers())}
    saved: list[list[Any]] = header["layout"]
    for name, shape in [*saved, *([name, list(value.shape)] for name, value in frozen.items())]:
        if own.get(name) != shape:
            found = f"has shape {own[name]} there" if name in own else "does not exist there"
            raise SaveError(
                f"{path} was saved from another architecture: its parameter {name!r} of shape {shape} {found}: pass "
                "the model it was fitted with."
            )
    inferred = {name for name, _ in saved}
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    if not frozen and trainable - inferred:
        raise SaveError(
            f"{path} was saved from another architecture: the model has trainable parameters it does not know, such as "
            f"{min(trainable - inferred)!r}: pass the model it was fitted with."
        )
    return Network(module, header["transform"]).with_frozen(inferred, frozen)


def _place(value: Tensor, network: Network) -> Tensor:
    return value.to(network.device, network.dtype) if value.is_floating_point() else value.to(network.device)


def _restore(
    build: Callable[[dict[str, Tensor]], Model],
    frozen: dict[str, Tensor],
    tensors: dict[str, Tensor],
    settings: dict[str, Any],
) -> Posterior:
    form = settings["form"]
    if form == Mixture.form:
        shared = None if any(name.startswith(_component(0)) for name in frozen) else build(frozen)
        components = []
        for i, part in enumerate(settings["components"]):
            own = _group(frozen, _component(i))
            maker = build if shared is None else (lambda _, model=shared: model)
            components.append(_restore(maker, own, _group(tensors, f"{i}."), part))
        return Mixture(components)
    if form == Calibrated.form:
        base = _restore(build, frozen, _group(tensors, "base."), settings["base"])
        return Calibrated(base, settings["temperature"])
    restored = {kind.form: kind.restored for kind in (Draws, Gaussian, Linearised)}
    if form not in restored:
        raise SaveError(f"unknown posterior form {form!r}: the file comes from a newer bayesify; upgrade.")
    model = build(frozen)
    return restored[form](model, {name: _place(value, model.network) for name, value in tensors.items()}, settings)


def _group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
