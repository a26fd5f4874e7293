"""Many intervals at once, against scipy's own correction."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from levelhead.statistics.multiplicity import holm


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-6, 6), min_size=1, max_size=12))
def test_holm_is_the_step_down(zs):
    """Findings would be marked that twelve looks at noise give, or plain ones be lost."""
    half = stats.norm.ppf(0.975)
    stand = holm([(z, z - half, z + half) for z in zs])
    p = 2 * stats.norm.sf(np.abs(zs))
    order, m = np.argsort(p), len(p)
    adjusted = np.maximum.accumulate((m - np.arange(m)) * p[order])
    assert stand == {int(i) for i, a in zip(order, adjusted, strict=True) if a <= 0.05}


def test_what_has_no_interval_is_no_test():
    """A row without a number would take from the share of error of the others."""
    assert holm([(None, None, None), (1.0, 0.1, 1.9), (0.5, None, 1.0)]) == {1}
    assert holm([(0.0, 0.0, 0.0)]) == set(), "two equal networks"
