"""Warm motors: held at one temperature, resumed at a lower one."""

import numpy as np
import pytest

from fleet.heat import HeatWatch


def temperatures(peak):
    return np.array([20, 20, peak, 20, 20, 20, 20, 20], dtype=np.uint8)


@pytest.mark.parametrize(("which", "hold", "resume"), [(0, 100, 85), (1, 85, 70)])
def test_hot_from_the_higher_bound_until_below_the_lower(which, hold, resume):
    watch, said = HeatWatch(), []
    for peak in (hold - 1, hold, hold - 1, resume, resume - 1, hold - 1):
        pair = [temperatures(30), temperatures(30)]
        pair[which] = temperatures(peak)
        watch.see(*pair)
        said.append(bool(watch.hot))
    assert said == [False, True, True, True, False, False]
