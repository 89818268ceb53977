"""Everything users hold data in becomes the same tensors; what cannot be used is refused in one line."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from bayesify.data import Data, as_data, as_inputs, chunk_inputs, num_rows
from bayesify.errors import DataError

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.array([0, 1, 2, 0, 1, 2])


class Pairs(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.from_numpy(X[i]), int(Y[i])


class Records(Dataset[dict[str, Any]]):
    """As Hugging Face data sets give them."""

    def __init__(self, label: str = "labels") -> None:
        self.label = label

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": torch.from_numpy(X[i]), self.label: int(Y[i])}


def records(label: str = "labels") -> DataLoader[dict[str, Any]]:
    return DataLoader(Records(label), batch_size=4)


ACCEPTED: dict[str, Any] = {
    "arrays": (X, Y),
    "read-only arrays": (np.broadcast_to(X, X.shape), np.broadcast_to(Y, Y.shape)),
    "tensors": (torch.from_numpy(X), torch.from_numpy(Y)),
    "lists": (X.tolist(), Y.tolist()),
    "a list of two": [X, Y],
    "frames": (pd.DataFrame(X, columns=["a", "b"]), pd.Series(Y)),
    "a Dataset of pairs": Pairs(),
    "a TensorDataset": TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    "a DataLoader of pairs": DataLoader(Pairs(), batch_size=4),
    "Data": Data(torch.from_numpy(X), torch.from_numpy(Y)),
    "a mapping": ({"x": X}, Y),
    "a Dataset of records": Records(),
    "a Dataset of records with label": Records("label"),
    "a DataLoader of records": records(),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_accepted_type(name: str) -> None:
    found = as_data(ACCEPTED[name])
    inputs = found.inputs["x"] if isinstance(found.inputs, dict) else found.inputs
    assert found.num_examples == 6
    assert inputs.tolist() == X.tolist()
    assert found.targets.tolist() == Y.tolist()
    assert not found.targets.is_floating_point()


def test_the_users_data_are_not_shared() -> None:
    x = X.copy()
    found = as_data((x, Y))
    found.inputs.zero_()
    assert np.array_equal(x, X)
    trainable = torch.ones(6, 2, requires_grad=True)
    assert not as_data((trainable, Y)).inputs.requires_grad


def test_several_inputs() -> None:
    found = as_data(({"tokens": np.ones((6, 3), dtype=np.int64), "mask": np.ones((6, 3))}, Y.astype(np.float64)))
    placed = found.to(torch.device("cpu"), torch.float32)
    assert placed.inputs["tokens"].dtype == torch.int64  # token ids stay integers
    assert placed.inputs["mask"].dtype == torch.float32
    assert placed.targets.dtype == torch.float64  # the likelihood decides about targets
    part = found.select(torch.tensor([[0, 1], [2, 3], [4, 5]]))
    assert part.inputs["tokens"].shape == (3, 2, 3)
    assert part.targets.shape == (3, 2)
    assert as_data(((X, 2 * X), Y)).inputs[1].tolist() == (2 * X).tolist()


def test_chunks_are_all_rows_in_order() -> None:
    data = as_data(({"x": X}, Y))
    parts = list(data.chunks(4))
    assert [part.num_examples for part in parts] == [3, 3]  # as few pieces as 4 rows allow, and those even
    assert [part.num_examples for part in data.chunks(6)] == [6]
    assert torch.cat([part.inputs["x"] for part in parts]).tolist() == X.tolist()
    assert [num_rows(chunk) for chunk in chunk_inputs(data.inputs, 4)] == [4, 2]


def test_several_targets() -> None:
    found = as_data((X, pd.DataFrame({"a": Y * 1.0, "b": -Y})))
    assert found.targets.shape == (6, 2)
    assert found.targets.is_floating_point()


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield 1


def with_value(value: float, row: int) -> np.ndarray:
    x = X.copy()
    x[row, 1] = value
    return x


REFUSED: list[tuple[Any, str]] = [
    ((X, Y[:5]), "X has 6 rows but y has 5"),
    (({"a": X, "b": X[:4]}, Y), "X has 4 rows but y has 6"),
    ((X[:0], Y[:0]), "0 rows"),
    (({}, Y), "0 rows"),
    ((with_value(np.nan, 3), Y), "the inputs hold 1 NaN or infinite values, the first in row 3"),
    ((with_value(-np.inf, 0), Y), "the first in row 0"),
    ((X, np.where(Y == 2, np.inf, Y)), "the targets hold 2 NaN or infinite values, the first in row 2"),
    ((X.astype(str), Y), "not numbers"),
    ((pd.DataFrame({"a": ["red"] * 6}), Y), "the inputs hold object values|not numbers"),
    ((X, ["a"] * 6), "the targets hold .* values, not numbers"),
    ((X, Y.astype(complex)), "complex128 values, not numbers"),
    (np.zeros(3), "cannot read data from a ndarray"),
    ("data.csv", "cannot read data from a str"),
    (None, "cannot read data from a NoneType"),
    ((X, Y, Y), "cannot read data from a tuple"),
    ((1.0, Y), "the inputs are a single number"),
    ((X, 1.0), "the targets are a single number"),
    ([[1.0, 2.0], [[3.0], [4.0, 5.0]]], "the targets have rows of different lengths"),
    (records("target"), "dict batches need a 'labels' entry; this one has .*'target'"),
    (DataLoader(TensorDataset(torch.zeros(0, 2), torch.zeros(0))), "gave no batch"),
    (DataLoader(TensorDataset(torch.zeros(3, 2))), "pairs or dicts with 'labels'"),
    (TensorDataset(torch.zeros(0, 2), torch.zeros(0)), "0 rows"),
    (DataLoader(Endless()), "pairs or dicts with 'labels'"),
    (Endless(), "cannot read an IterableDataset"),
]


@pytest.mark.parametrize(("data", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_bad_data_are_refused_in_one_line(data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        as_data(data)
    assert "\n" not in str(caught.value)


def test_inputs_alone_are_checked_too() -> None:
    place = (torch.device("cpu"), torch.float32)
    assert as_inputs(X.astype(np.float64), *place).dtype == torch.float32
    assert as_inputs(pd.DataFrame(X), *place).tolist() == X.tolist()
    with pytest.raises(DataError, match="row 2"):
        as_inputs(with_value(np.nan, 2), *place)
    with pytest.raises(DataError, match="not numbers"):
        as_inputs(X.astype(str), *place)
    with pytest.raises(DataError, match="0 rows"):
        as_inputs(X[:0], *place)
    with pytest.raises(DataError, match="2 NaN or infinite"):
        as_inputs(np.full((2, 1), 1e300), *place)  # beyond float32
