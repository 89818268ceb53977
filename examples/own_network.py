"""Make your own network Bayesian, look at its uncertainty, keep it, and ask whether it was worth it."""

import torch
from torch import nn

import bayesify as bay

generator = torch.Generator().manual_seed(0)
X = torch.rand(200, 1, generator=generator) * 6 - 3
y = torch.sin(2 * X[:, 0]) + 0.1 * torch.randn(200, generator=generator)
network = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

posterior = bay.fit(network, (X, y), likelihood="gaussian", method="laplace", budget=bay.Budget(epochs=100))
inside, outside = torch.tensor([[0.5]]), torch.tensor([[6.0]])
for name, point in {"inside the data": inside, "far outside": outside}.items():
    predictive = posterior.predict(point)
    low, high = predictive.interval(0.9)
    print(f"{name}: {float(predictive.mean):+.2f}, 90% between {float(low):+.2f} and {float(high):+.2f}")
print(bay.evaluate(posterior.predict(X), y))
print(posterior.cost)

posterior.save("sine.bayes")
same = bay.load("sine.bayes", network)
assert torch.allclose(same.predict(X).mean, posterior.predict(X).mean)
