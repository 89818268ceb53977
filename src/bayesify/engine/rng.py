"""Randomness: explicit generators everywhere; torch's global one is only ever borrowed and given back."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
