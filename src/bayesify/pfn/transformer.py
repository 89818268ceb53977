"""The network of a prior-data fitted network: a transformer over rows, without positions.

Rows with targets (the context) attend to each other; rows without (the queries) attend to the context only. So the
order of the context does not matter, and queries do not see each other: what is predicted at one does not depend on
which others are asked for.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bayesify.errors import DataError, MethodError, SaveError
from bayesify.files import replacing
from bayesify.model.bars import Bars
from bayesify.predictive import Predictive

JOINT_BLOCKS = 256
"""Blocks of a joint density that go through the network together."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a prior-data fitted network, and the units that it sees rows in.

    Attributes:
        num_inputs: d.
        max_context: rows with targets that it was trained on, at most.
        width: of a row's representation.
        num_layers: attention blocks.
        num_heads: a divisor of the width.
        input_loc: subtracted from inputs, which are then divided by `input_scale`; likewise targets.
        input_scale: see above.
        target_loc: see above.
        target_scale: see above.
    """

    num_inputs: int
    max_context: int
    width: int = 64
    num_layers: int = 3
    num_heads: int = 4
    input_loc: float = 0.0
    input_scale: float = 1.0
    target_loc: float = 0.0
    target_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("num_inputs", "max_context", "width", "num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise MethodError(f"a prior-data fitted network with {name}={getattr(self, name)}: at least 1.")
        if self.width % self.num_heads:
            raise MethodError(
                f"a prior-data fitted network of width={self.width} cannot have num_heads={self.num_heads}: the heads "
                "must divide the width."
            )


class PFN(nn.Module):
    """Predicts y at new rows from a whole data set in one pass; made by `fit_pfn`."""

    def __init__(self, shape: Shape, bars: Bars) -> None:
        nn.Module.__init__(self)
        self.shape, self.bars = shape, bars
        width = shape.width
        self.embed_inputs = nn.Sequential(nn.Linear(shape.num_inputs, width), nn.GELU(), nn.Linear(width, width))
        self.embed_targets = nn.Linear(1, width)
        self.nothing = nn.Parameter(torch.zeros(1, 1, width))  # what there is to attend to before any data
        self.blocks = nn.ModuleList(_Block(width, shape.num_heads) for _ in range(shape.num_layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(bars.edges) + 1))

    def forward(self, inputs: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
        """Logits of bars: context (S, n, d) and (S, n), queries (S, m, d) → (S, m, K)."""
        shape = self.shape
        rows = torch.cat([inputs, queries], 1)
        embedded = self.embed_inputs((rows - shape.input_loc) / shape.input_scale)
        known = self.embed_targets((targets.unsqueeze(-1) - shape.target_loc) / shape.target_scale)
        embedded = embedded + F.pad(known, (0, 0, 0, queries.shape[1]))
        states = torch.cat([self.nothing.expand(len(rows), -1, -1), embedded], 1)
        context = 1 + inputs.shape[1]
        for block in self.blocks:
            states = block(states, context)
        logits: Tensor = self.head(states[:, context:])
        return logits

    def predict(self, inputs: Any, targets: Any, queries: Any) -> Predictive:
        """The posterior predictive at `queries`, given a data set.

        Its `joint_log_prob` goes by the chain rule: each target joins the context of the next. It is as good as
        the rest while context and block together have no more rows than `max_context`.

        Args:
            inputs: (n, d), 0 ≤ n ≤ `max_context`; in the units of the prior.
            targets: (n,).
            queries: (B, d).

        Raises:
            DataError: the shapes do not fit, there are more rows than it was trained on, or numbers are not finite.
        """
        like = self.nothing
        x, y, new = (torch.as_tensor(one, dtype=like.dtype, device=like.device) for one in (inputs, targets, queries))
        self._check(x, y, new)

        def joint(values: Tensor, blocks: Tensor) -> Tensor:
            parts = torch.split(blocks, JOINT_BLOCKS)
            return torch.cat([self._chained(x, y, new[part], values[part, 0]) for part in parts])

        logits = self._logits(x, y, new)
        return Predictive(self.bars, logits.unsqueeze(0), logits.new_zeros(1, 0), joint=joint)

    def save(self, path: str | Path) -> None:
        """Writes weights and sizes to one safetensors file; see `load_pfn`."""
        header = json.dumps({"shape": asdict(self.shape), "edges": self.bars.edges, "tails": self.bars.tails})
        tensors = {name: value.contiguous().cpu() for name, value in self.state_dict().items()}
        with replacing(Path(path)) as partial:
            save_file(tensors, str(partial), {"pfn": header})

    @torch.no_grad()
    def _logits(self, inputs: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
        logits: Tensor = self(inputs.unsqueeze(0), targets.unsqueeze(0), queries.unsqueeze(0))
        return logits.squeeze(0)

    @torch.no_grad()
    def _chained(self, inputs: Tensor, targets: Tensor, rows: Tensor, values: Tensor) -> Tensor:
        """Joint log densities (M,) of values (M, τ) at rows (M, τ, d), one after the other, given one data set."""
        seen, known = (one.expand(len(rows), *one.shape) for one in (inputs, targets))
        total = values.new_zeros(len(rows))
        for place in range(rows.shape[1]):
            row, value = rows[:, place : place + 1], values[:, place : place + 1]
            total = total + self.bars.distribution(self(seen, known, row)).log_prob(value).squeeze(1)
            seen, known = torch.cat([seen, row], 1), torch.cat([known, value], 1)
        return total

    def _check(self, inputs: Tensor, targets: Tensor, queries: Tensor) -> None:
        d = self.shape.num_inputs
        fits = inputs.dim() == queries.dim() == 2 and inputs.shape[1] == queries.shape[1] == d
        if not fits or targets.shape != inputs.shape[:1]:
            raise DataError(
                f"inputs {tuple(inputs.shape)}, targets {tuple(targets.shape)} and queries {tuple(queries.shape)}: "
                f"this network was trained for (n, {d}), (n,) and (B, {d})."
            )
        if len(inputs) > self.shape.max_context:
            raise DataError(
                f"{len(inputs)} rows with targets: this network was trained on at most {self.shape.max_context}; fit "
                "one with a larger max_context."
            )
        if not all(bool(torch.isfinite(one).all()) for one in (inputs, targets, queries)):
            raise DataError("inputs, targets and queries must be finite numbers: drop or impute the rows that are not.")


class _Block(nn.Module):
    """Attention to the context and a perceptron, each added to what it read (after Xiong et al. 2020)."""

    def __init__(self, width: int, num_heads: int) -> None:
        nn.Module.__init__(self)
        self.num_heads = num_heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.answer = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.mix = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, states: Tensor, context: int) -> Tensor:
        """(S, T, width) → the same; all rows attend to the first `context` ones."""
        read = self.before_attention(states)
        asked = self._heads(self.ask(read))
        keys, values = (self._heads(one) for one in self.answer(read[:, :context]).chunk(2, -1))
        heard = F.scaled_dot_product_attention(asked, keys, values)
        states = states + self.mix(heard.transpose(1, 2).flatten(2))
        found: Tensor = states + self.perceptron(self.before_perceptron(states))
        return found

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.reshape(*rows.shape[:-1], self.num_heads, -1).transpose(1, 2)


def load_pfn(path: str | Path) -> PFN:
    """A network that `PFN.save` wrote; reading it runs no code.

    Raises:
        SaveError: the file is missing, damaged or something else.
    """
    try:
        with safe_open(str(path), "pt") as file:
            header = json.loads((file.metadata() or {})["pfn"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        low, high = header["tails"]
        found = PFN(Shape(**header["shape"]), Bars(tuple(header["edges"]), (low, high)))
        found.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise SaveError(f"{path} holds no prior-data fitted network ({error}): save one with PFN.save.") from error
    return found.eval()
