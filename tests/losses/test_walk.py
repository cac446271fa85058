"""Walking an axis in blocks: every entry once, written and added in place."""

import numpy as np
import pytest

from jaxopt_lite.losses import walk


@pytest.mark.parametrize(("total", "size"), [(43, 8), (43, 43), (43, 50), (8, 4), (5, 3), (1, 1), (0, 4)])
def test_every_entry_is_in_one_block(total, size):
    seen = []

    def body(start, width, carry):
        assert 0 < width <= size
        seen.append(width)
        here = walk.part(carry, start, width)
        return walk.put(carry, here + 1, start)

    visits = walk.over_blocks(body, np.zeros(total, np.int32), total, size)
    np.testing.assert_array_equal(visits, np.ones(total))
    assert len(seen) <= 2  # the body is traced for a whole block and for the rest


def test_nothing_is_put_or_added_into_none():
    assert walk.put(None, None, 0) is None
    assert walk.add(None, np.ones(2), 0) is None


def test_a_block_is_put_and_added_at_its_place_along_an_axis():
    whole, block = np.zeros((2, 5), np.float32), np.ones((2, 2), np.float64)
    added = walk.add(walk.put(whole, block, 2, axis=1), block, 3, axis=1)
    assert added.dtype == np.float32
    np.testing.assert_array_equal(added, [[0, 0, 1, 2, 1]] * 2)
