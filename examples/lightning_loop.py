"""A LightningModule is Bayesian by its optimizer: IVON samples in every step, and gives a posterior at the end."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import bayesify as bay

X, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
X = X.float() / 16
train, test = slice(0, 1400), slice(1400, None)


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, index):
        inputs, targets = batch
        return cross_entropy(self.network(inputs), targets)

    def configure_optimizers(self):
        return bay.optim.IVON(self.parameters(), lr=0.1, num_data=1400, prior_precision=2.0, hess_init=0.1)


lightning.seed_everything(0, verbose=False)
module = Digits()
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = lightning.Trainer(max_epochs=20, accelerator="cpu", **quiet)
trainer.fit(module, DataLoader(TensorDataset(X[train], y[train]), 64, shuffle=True))
posterior = module.optimizers().optimizer.posterior(module.network, "categorical")
print(bay.evaluate(posterior.predict(X[test]), y[test]))
