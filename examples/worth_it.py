"""Does any of these methods beat a deep ensemble of my network on my table, at equal compute?"""

from sklearn.datasets import load_iris
from torch import nn

import bayesify as bay

frame = load_iris(as_frame=True).frame
network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

if __name__ == "__main__":
    result = bay.compare(network, frame, target="target", methods=["laplace", "multi(swag, 3)"], splits=3, epochs=10)
    print(result.sentence)
    for name, verdict in result.verdicts.items():
        print(f"{name}: {verdict}")
    print(result.report().html)
