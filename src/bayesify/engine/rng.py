"""Randomness: explicit generators everywhere; torch's global one is only ever borrowed and given back."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


def generator(device: torch.device | str, *seed: object) -> torch.Generator:
    """A generator seeded by anything printable, so that every stream has a name of its own."""
    return torch.Generator(device).manual_seed(seed_of(*seed))


def seed_of(*parts: object) -> int:
    """A 63-bit seed from printable parts; unlike `hash`, the same in every process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generators inside the block and restores them after it.

    Dropout layers and initialisers of users' modules take no generator; this is how they become reproducible without
    disturbing the caller's randomness.
    """
    initialised = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    devices = [torch.cuda.current_device()] if initialised else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class GlobalState(NamedTuple):
    """Where torch's global generators are."""

    cpu: Tensor
    cuda: list[Tensor]

    @staticmethod
    def now() -> "GlobalState":
        """Of all devices in use."""
        initialised = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
        return GlobalState(torch.get_rng_state(), torch.cuda.get_rng_state_all() if initialised else [])

    def restore(self) -> None:
        """Goes back to it."""
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)

    def equals(self, other: "GlobalState") -> bool:
        """Whether nothing was drawn between the two."""
        same = len(self.cuda) == len(other.cuda) and torch.equal(self.cpu, other.cpu)
        return same and all(map(torch.equal, self.cuda, other.cuda))


def draws_nothing(function: Callable[[], None]) -> bool:
    """Whether a function leaves torch's global generators alone; they are as before in either case."""
    before = GlobalState.now()
    function()
    is_same = before.equals(GlobalState.now())
    before.restore()
    return is_same
