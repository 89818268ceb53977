import pytest
import torch
from small_problems import plain, regression_data

import bayesify as bay
from bayesify.engine.denormals import denormals_flushed, is_flushing

pytestmark = pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot flush denormals")


def test_flushed_inside_and_restored() -> None:
    tiny = torch.full((1,), torch.finfo(torch.float32).tiny)
    assert float(tiny / 4) > 0
    with denormals_flushed():
        assert float(tiny / 4) == 0
        with denormals_flushed():
            pass
        assert is_flushing()
    assert not is_flushing()
    assert float(tiny / 4) > 0


def test_every_thread_flushes() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tiny = torch.full((1_000_000,), torch.finfo(torch.float32).tiny)
        assert bool((tiny * 0.5 > 0).all())  # threads are there before the block, as after any earlier work
        with denormals_flushed():
            assert bool((tiny * 0.5 == 0).all())
        assert bool((tiny * 0.5 > 0).all())
    finally:
        torch.set_num_threads(before)


def test_restored_after_an_error_and_where_it_was_on() -> None:
    with pytest.raises(ZeroDivisionError), denormals_flushed():
        raise ZeroDivisionError
    assert not is_flushing()
    torch.set_flush_denormal(True)
    try:
        with denormals_flushed():
            pass
        assert is_flushing()
    finally:
        torch.set_flush_denormal(False)


def test_a_fit_flushes_and_restores() -> None:
    seen: set[bool] = set()
    bay.fit(
        plain(),
        regression_data(),
        method="map",
        budget=bay.Budget(epochs=1),
        progress=lambda _: seen.add(is_flushing()),
    )
    assert seen == {True}
    assert not is_flushing()
