"""Holm's procedure, against statsmodels."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from bayesify.arena.statistics import Difference, holm
from bayesify.arena.statistics.multiplicity import match_interval, simultaneous_tail


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_agrees_with_statsmodels(p_values):
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], atol=1e-15)


def test_tails_of_simultaneous_intervals():
    assert simultaneous_tail(0.95, 1) == np.float64(1 - 0.95) / 2
    np.testing.assert_allclose(simultaneous_tail(0.95, 10), 0.0025)


def test_an_interval_is_cut_at_zero_where_holm_rejects_and_nowhere_else():
    up = Difference(0.3, -0.1, 0.7, 0.1, 0.01, 10.0, 0.95)
    assert match_interval(up, 0.06) == up
    assert match_interval(up, 0.04) == up._replace(low=0.0)
    down = Difference(-0.3, -0.7, 0.1, 0.1, 0.01, 10.0, 0.95)
    assert match_interval(down, 0.04) == down._replace(high=0.0)
    clear = up._replace(low=0.2)
    assert match_interval(clear, 0.04) == clear
