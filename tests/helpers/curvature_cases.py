"""Small networks of every kind, and the Gauss–Newton matrix by the definition."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesify.fitting import make_problem
from bayesify.model.network import Mode
from bayesify.model.problem import Problem


class Tied(nn.Module):
    """The second layer's weight is the first's, transposed nowhere: one parameter in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Twice(nn.Module):
    """A layer that is called twice in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class Around(nn.Module):
    """A weight that is used past its module as well: hooks see only half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.layer(x)) + F.linear(x, self.layer.weight))


class Attention(nn.Module):
    """Embeddings, self-attention, layer norm; inputs are token numbers (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.last = nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.last(self.norm(x + self.attend(x, x, x, need_weights=False)[0]).mean(1))


class Recurrent(nn.Module):
    """An LSTM: neither vmap nor forward mode knows it. Inputs (B, 3, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.lstm(x)[0][:, -1])


def frozen_first() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    module[0].weight.requires_grad_(False)
    return module


def module_and_inputs(name: str) -> tuple[nn.Module, Tensor]:
    """A float64 module with two outputs, and 7 examples."""
    rng = torch.Generator().manual_seed(5)
    vectors = torch.randn(7, 3, generator=rng, dtype=torch.float64)
    images = torch.randn(7, 2, 5, 5, generator=rng, dtype=torch.float64)
    makers = {
        "linear": (lambda: nn.Linear(3, 2), vectors),
        "no_bias": (lambda: nn.Linear(3, 2, bias=False), vectors),
        "mlp": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), vectors),
        "in_place": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), vectors),
        "batch_norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)), vectors),
        "frozen": (frozen_first, vectors),
        "tied": (Tied, vectors),
        "twice": (Twice, vectors),
        "around": (Around, vectors),
        "conv": (
            lambda: nn.Sequential(
                nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 3, padding="same"),
                nn.Flatten(), nn.Linear(18, 2),
            ),
            images,
        ),
        "grouped": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(36, 2)), images),
        "attention": (Attention, torch.randint(7, (7, 4), generator=rng)),
        "recurrent": (Recurrent, torch.randn(7, 3, 2, generator=rng, dtype=torch.float64)),
    }  # fmt: skip
    make, inputs = makers[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = make().double()
    return module, inputs


NAMES = (
    "linear", "no_bias", "mlp", "in_place", "batch_norm", "frozen", "tied", "twice", "around", "conv", "grouped",
    "attention", "recurrent",
)  # fmt: skip


def problem_of(name: str, likelihood: str = "categorical", count: int = 7, way: str = "auto") -> Problem:
    """The module of that name with made-up targets."""
    module, inputs = module_and_inputs(name)
    rng = torch.Generator().manual_seed(6)
    if likelihood == "categorical":
        targets = torch.randint(2, (len(inputs),), generator=rng)
    else:
        targets = torch.randn(len(inputs), 2, generator=rng, dtype=torch.float64)
    return make_problem(module, (inputs[:count], targets[:count]), likelihood=likelihood, pretrained=True, way=way)


class Parts:
    """Per-example Jacobians, Fisher information and scores, one example and one output at a time by autograd."""

    def __init__(self, problem: Problem, theta: Tensor | None = None) -> None:
        theta = problem.initial() if theta is None else theta
        network, own = problem.model.split(theta)
        buffers = {name: value[0] for name, value in problem.network.buffers(1).items()}
        network = network.clone().requires_grad_()
        jacobians, fishers, gradients, values = [], [], [], []
        for n in range(problem.num_examples):
            row = problem.data.select(slice(n, n + 1))
            outputs = problem.network(network, buffers, row.inputs, Mode.PREDICT)
            rows = [torch.autograd.grad(f, network, retain_graph=True)[0] for f in outputs[0]]
            value = problem.likelihood.log_prob(outputs, row.targets, own).sum()
            gradients.append(torch.autograd.grad(value, network)[0])
            jacobians.append(torch.stack(rows))
            fishers.append(problem.likelihood.fisher(outputs.detach(), own)[0])
            values.append(value.detach())
        self.jacobian, self.fisher = torch.stack(jacobians), torch.stack(fishers)  # (N, C, P), (N, C, C)
        self.gradient, self.log_likelihood = torch.stack(gradients).sum(0), torch.stack(values).sum()
        self.ggn = torch.einsum("ncp,ncd,ndq->pq", self.jacobian, self.fisher, self.jacobian)
