"""Your own training loop, unchanged but for the optimizer: IVON, with SWAG and SGHMC beside it."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import bayesify as bay

X, y = torch.tensor(load_digits().data / 16, dtype=torch.float32), torch.tensor(load_digits().target)
train, test = slice(0, 1400), slice(1400, None)
loader = DataLoader(TensorDataset(X[train], y[train]), 64, shuffle=True, generator=torch.Generator().manual_seed(0))


def posterior_by(name: str) -> bay.Posterior:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = {
        "ivon": lambda: bay.optim.IVON(model.parameters(), lr=0.1, num_data=1400, prior_precision=2.0, hess_init=0.1),
        "sghmc": lambda: bay.optim.SGHMC(model.parameters(), lr=0.02, num_data=1400, prior_precision=2.0),
        "swag": lambda: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2.0 / 1400),
    }[name]()
    collector = bay.optim.SWAG() if name == "swag" else bay.optim.Samples()
    for epoch in range(20):
        for inputs, targets in loader:

            def closure(inputs=inputs, targets=targets):
                optimizer.zero_grad()
                cross_entropy(model(inputs), targets).backward()

            optimizer.step(closure)
        if epoch >= 10:
            collector.collect(model)
    return (optimizer if name == "ivon" else collector).posterior(model, "categorical")


for name in ("ivon", "sghmc", "swag"):
    print(name, bay.evaluate(posterior_by(name).predict(X[test]), y[test]))
