"""Networks for those who bring none."""

from bayesify.models.convolutional import lenet as lenet
from bayesify.models.convolutional import resnet20_frn as resnet20_frn
from bayesify.models.mlp import mlp as mlp
from bayesify.models.mlp import mlp_for as mlp_for
from bayesify.models.named import MODELS as MODELS
from bayesify.models.named import model_for as model_for
