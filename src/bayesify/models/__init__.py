"""Networks for those who bring none."""

from bayesify.models.mlp import mlp as mlp
from bayesify.models.mlp import mlp_for as mlp_for
