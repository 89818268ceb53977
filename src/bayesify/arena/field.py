"""Who enters the comparison: the control, the reference runs, and the default field of methods."""

from typing import NamedTuple

from bayesify.errors import MethodError, suggest
from bayesify.methods.registry import SHORT, get_method, method_names

CONTROL_MEMBERS = 10
TOTAL_EXAMPLES = 200_000
"""Examples one member of the control sees by default: small data get more epochs, large data fewer."""
MIN_EPOCHS, MAX_EPOCHS = 40, 220


class Entrant(NamedTuple):
    """A method as it enters: a label for people, its written form, and its part in the comparison."""

    label: str
    spec: str
    """May hold {epochs}: the epochs of one member of the control."""
    role: str = "method"
    """'control', 'reference' (a run without posterior, for orientation) or 'method'."""
    title: str = ""
    """How reports write it; the label where it is empty."""


CONTROL = Entrant(
    "deep_ensemble",
    f"temperature_scaled(deep_ensemble({CONTROL_MEMBERS}, epochs={{epochs}}))",
    "control",
    "Deep ensemble + temperature",
)

FIELD = (
    CONTROL,
    Entrant("map", "map(epochs={epochs})", "reference", "MAP"),
    Entrant("map+temperature", "temperature_scaled(map(epochs={epochs}))", "reference", "MAP + temperature"),
    Entrant("map_whole_budget", "map", "reference", "MAP, whole budget"),
    Entrant("mc_dropout", "mc_dropout", title="MC dropout"),
    Entrant("swag", "swag", title="SWAG"),
    Entrant("multi_swag", SHORT["multi_swag"], title="Multi(SWAG, 5)"),
    Entrant("laplace", "laplace", title="Laplace (kron)"),
    Entrant("laplace_last_layer", SHORT["laplace_last_layer"], title="Last-layer Laplace (full)"),
    Entrant("multi_laplace", SHORT["multi_laplace"], title="Multi(Laplace, 5)"),
    Entrant("ivon", "ivon", title="IVON"),
    Entrant("multi_ivon", SHORT["multi_ivon"], title="Multi(IVON, 5)"),
    Entrant("hmc", "hmc", title="HMC"),
)


def default_epochs(num_train: int) -> int:
    """Epochs of one member of the control on a training set of this size."""
    return max(MIN_EPOCHS, min(MAX_EPOCHS, round(TOTAL_EXAMPLES / num_train)))


def entrants(names: list[str] | None, control: str | None = None) -> tuple[Entrant, ...]:
    """The field: the control first, then the default field or the methods named.

    Args:
        names: labels of the default field or written forms such as 'multi(swag, 3)'; None is the whole default field.
        control: another control, likewise; None is the temperature-scaled deep ensemble.

    Raises:
        MethodError: a name is unknown.
    """
    chosen = list(FIELD) if names is None else [_entrant(name) for name in names]
    leader = CONTROL if control is None else _entrant(control)._replace(role="control")
    others = [one for one in chosen if one.label != leader.label]
    return (leader, *dict.fromkeys(others))


def tuned(entrant: Entrant, trials: int) -> Entrant:
    """The entrant with its declared hyperparameters tuned; the trials are charged to its budget."""
    return entrant._replace(spec=f"tuned({entrant.spec}, {trials})")


def _entrant(name: str) -> Entrant:
    known = {one.label: one for one in FIELD}
    if name in known:
        return known[name]
    try:
        get_method(name)
    except MethodError as error:
        if name.isidentifier():
            raise MethodError(f"unknown method {name!r}. {suggest(name, [*known, *method_names()])}") from error
        raise
    return Entrant(name, name)
