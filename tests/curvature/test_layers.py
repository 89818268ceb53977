"""What goes into layers, and whether rows go through a network on their own."""

import pytest
import torch
from curvature_cases import problem_of
from torch import Tensor, nn
from torch.nn import functional as F

from bayesify.curvature.layers import Layer, find_layers, input_columns
from bayesify.fitting import make_problem


class Mixing(nn.Module):
    """Every row's outputs depend on all rows of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        return self.last(hidden - hidden.mean(0))


class Folded(nn.Module):
    """Positions are rows to its layer, with the examples next to each other or the positions."""

    def __init__(self, examples_first: bool) -> None:
        super().__init__()
        self.layer, self.last, self.examples_first = nn.Linear(3, 4), nn.Linear(4, 2), examples_first

    def forward(self, x: Tensor) -> Tensor:  # (B, 5, 3)
        x = x if self.examples_first else x.transpose(0, 1)
        hidden = torch.tanh(self.layer(x.reshape(-1, 3))).reshape(*x.shape[:2], 4)
        return self.last(hidden.sum(1 if self.examples_first else 0))


def is_batched(module: nn.Module, inputs: Tensor) -> bool:
    problem = make_problem(module.double(), (inputs, torch.zeros(len(inputs), dtype=torch.int64)), pretrained=True)
    found = find_layers(problem, problem.initial(), {}, torch.Generator().manual_seed(0))
    return found.batched


def test_mixed_rows_are_noticed() -> None:
    rng = torch.Generator().manual_seed(0)
    vectors, sequences = torch.randn(6, 3, generator=rng), torch.randn(6, 5, 3, generator=rng)
    assert not is_batched(Mixing(), vectors)
    assert is_batched(Folded(examples_first=True), sequences)
    assert not is_batched(Folded(examples_first=False), sequences)


@pytest.mark.parametrize(("name", "expected"), [("mlp", True), ("conv", True), ("batch_norm", False), ("tied", False)])
def test_a_batch_shows_every_example_where_layers_hold_everything(name: str, expected: bool) -> None:
    problem = problem_of(name)
    buffers = {key: value[0] for key, value in problem.network.buffers(1).items()}
    assert find_layers(problem, problem.initial(), buffers, torch.Generator().manual_seed(0)).batched == expected


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"padding": 2}, {"stride": (2, 1)}, {"dilation": (1, 2), "padding": (0, 1)}, {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect", "stride": 3},
    ],
)  # fmt: skip
def test_patches_times_weights_are_the_convolution(options: dict[str, object], bias: bool) -> None:
    rng = torch.Generator().manual_seed(1)
    kernel = (3, 5) if options.get("padding") == "same" else (3, 2)
    module = nn.Conv2d(2, 4, kernel, bias=bias, dtype=torch.float64, **options)  # type: ignore[arg-type]
    inputs = torch.randn(3, 7, 6, 2, generator=rng, dtype=torch.float64).permute(0, 3, 1, 2)  # not contiguous
    matrix = module.weight.flatten(1)
    if bias:
        matrix = torch.cat([matrix, module.bias[:, None]], dim=1)
    layer = Layer("", module, torch.arange(matrix.numel()), 4, bias)
    found = (input_columns(layer, inputs) @ matrix.mT).mT
    torch.testing.assert_close(found, module(inputs).flatten(2))
    if options == {"padding": 2} and not bias:
        torch.testing.assert_close(input_columns(layer, inputs), F.unfold(inputs, (3, 2), padding=2).mT)
