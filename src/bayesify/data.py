"""What users have (arrays, tensors, DataFrames, Datasets, DataLoaders, dict batches) → inputs and targets in memory.

Full-batch methods and curvature need all the data, and minibatches by index are cheaper than any loader: everything
is held as tensors. Inputs may be any nest of tensors whose first dimension is the example (a dict of token ids and
masks, say).
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.dataloader import default_collate

from bayesify.errors import DataError

MINIMUM_VALIDATION = 10
"""At least this many rows are held out: fewer show neither the best step nor the calibration."""


class Data(NamedTuple):
    """Inputs (a pytree of (N, ...) tensors) and targets (N,) or (N, D)."""

    inputs: Any
    targets: Tensor

    @property
    def num_examples(self) -> int:
        """N."""
        return len(self.targets)

    def select(self, rows: Tensor | slice) -> "Data":
        """The given rows; an index of shape (K, B) gives leaves (K, B, ...)."""
        if isinstance(rows, slice):
            return Data(pytree.tree_map(lambda leaf: leaf[rows], self.inputs), self.targets[rows])
        flat = rows.reshape(-1)  # copies whole rows: several times quicker than indexing by a matrix

        def taken(leaf: Tensor) -> Tensor:
            return leaf.index_select(0, flat.to(leaf.device)).view(*rows.shape, *leaf.shape[1:])

        return Data(pytree.tree_map(taken, self.inputs), taken(self.targets))

    def chunks(self, size: int) -> Iterator["Data"]:
        """Consecutive pieces of at most `size` rows, all but the last equally many and that one hardly fewer."""
        count = -(-self.num_examples // size)
        if count <= 1:
            yield self
            return
        size = -(-self.num_examples // count)
        for start in range(0, self.num_examples, size):
            yield self.select(slice(start, start + size))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Data":
        """Moves to a device; floating inputs take the network's dtype. Targets keep theirs."""
        return Data(as_inputs(self.inputs, device, dtype), self.targets.to(device))


def num_rows(inputs: Any) -> int:
    """The number of examples in a pytree of inputs."""
    return len(pytree.tree_leaves(inputs)[0])


def chunk_inputs(inputs: Any, size: int) -> Iterator[Any]:
    """Consecutive pieces of at most `size` rows of a pytree of inputs."""
    for start in range(0, num_rows(inputs), size):
        yield pytree.tree_map(lambda leaf, s=start: leaf[s : s + size], inputs)


def as_inputs(inputs: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Arrays, tensors, DataFrames or a mapping of them → tensors on a device; floats take the given dtype.

    Raises:
        DataError: text or object columns, no rows, values that are NaN, infinite, or too large for the dtype.
    """
    inputs = _tensors(inputs)
    placed = pytree.tree_map(lambda x: x.to(device, dtype) if x.is_floating_point() else x.to(device), inputs)
    for leaf in pytree.tree_leaves(placed):
        if len(leaf) == 0:
            raise DataError("the inputs have 0 rows: there is nothing to predict.")
        _require_finite(leaf, "the inputs")
    return placed


def as_data(data: Any) -> Data:
    """Anything a user holds data in → `Data` in memory.

    Args:
        data: (X, y) of arrays, tensors, DataFrames or mappings; a map-style Dataset of (x, y) or of dicts with a
            'labels' or 'label' entry; a DataLoader of such batches; or a `Data`.

    Raises:
        DataError: the type is unknown, X and y differ in length, are empty, or hold NaN or infinite values.
    """
    if isinstance(data, Data):
        result = data
    elif isinstance(data, DataLoader):
        result = _concatenate([_pair(batch) for batch in data])
    elif isinstance(data, IterableDataset):
        raise DataError("cannot read an IterableDataset, which may never end: pass a DataLoader of it, or its rows.")
    elif isinstance(data, Dataset):
        result = _collated([data[i] for i in range(len(data))])  # type: ignore[arg-type]
    elif isinstance(data, (tuple, list)) and len(data) == 2:
        result = Data(_tensors(data[0]), _as_tensor(data[1], "the targets"))
    else:
        raise DataError(
            f"cannot read data from a {type(data).__name__}: pass (X, y) of arrays, tensors or DataFrames, a Dataset, "
            "or a DataLoader."
        )
    _check(result)
    return result


def _tensors(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _as_tensor(value, f"inputs[{name!r}]") for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(_as_tensor(value, f"inputs[{i}]") for i, value in enumerate(inputs))
    return _as_tensor(inputs, "the inputs")


def _pair(batch: Any) -> Data:
    if isinstance(batch, Mapping):
        label = next((name for name in ("labels", "label") if name in batch), None)
        if label is None:
            raise DataError(
                f"dict batches need a 'labels' entry; this one has {sorted(batch)}: rename the target entry."
            )
        inputs = {name: value for name, value in batch.items() if name != label}
        return Data(inputs, _as_tensor(batch[label], "the targets"))
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return Data(batch[0], _as_tensor(batch[1], "the targets"))
    raise DataError(f"batches must be (inputs, targets) pairs or dicts with 'labels', got {type(batch).__name__}.")


def _collated(rows: list[Any]) -> Data:
    if not rows:
        raise DataError("the data have 0 rows: there is nothing to learn from.")
    return _pair(default_collate(rows))


def _concatenate(parts: list[Data]) -> Data:
    if not parts:
        raise DataError("the DataLoader gave no batch: it is empty.")
    inputs = pytree.tree_map(lambda *leaves: torch.cat(leaves), *[part.inputs for part in parts])
    return Data(inputs, torch.cat([part.targets for part in parts]))


def _as_tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return _with_rows(value.detach(), name)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name} have rows of different lengths: pad or cut them to one length.") from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{name} hold {array.dtype} values, not numbers: encode text and categories first (`bayesify compare` does "
            "it for tables)."
        )
    return _with_rows(torch.from_numpy(np.array(array, copy=True)), name)  # torch warns on read-only arrays


def _with_rows(tensor: Tensor, name: str) -> Tensor:
    if tensor.dim() == 0:
        raise DataError(f"{name} are a single number, not one entry per example: pass an array with rows.")
    return tensor


def _require_finite(tensor: Tensor, name: str) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = ~torch.isfinite(tensor)
        row = int(bad.reshape(len(tensor), -1).any(1).nonzero()[0])
        raise DataError(
            f"{name} hold {int(bad.sum())} NaN or infinite values, the first in row {row}: impute or drop them first."
        )


def _check(data: Data) -> None:
    leaves = pytree.tree_leaves(data.inputs)
    if data.num_examples == 0 or not leaves:
        raise DataError("the data have 0 rows: there is nothing to learn from.")
    for leaf in leaves:
        if len(leaf) != data.num_examples:
            raise DataError(
                f"X has {len(leaf)} rows but y has {data.num_examples}: every input needs exactly one target."
            )
        _require_finite(leaf, "the inputs")
    _require_finite(data.targets, "the targets")
