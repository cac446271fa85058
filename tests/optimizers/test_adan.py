"""Adan: the paper's formula; optax's numbers but for the weight of the differences, where the paper rules."""

import numpy as np
import optax
import pytest

from jaxopt_lite import optimizers
from tests.oracles import optimizers as oracle
from tests.oracles.optimizers_check import (
    ALL,
    DECAY,
    against_golden,
    against_optax,
    check,
    data,
    path,
    rules,
    same_signature,
    schedule,
)

ROWS = [{}, {"b1": 0.9, "b2": 0.5, "b3": 0.9, "eps": 1e-3}, DECAY]


@pytest.mark.parametrize("options", ROWS, ids=["default", "betas", "decay"])
def test_adan_is_the_papers(options):
    check(optimizers.adan, oracle.adan, options, learning_rate=schedule)


def test_optax_is_the_same_where_1_minus_b2_is_b2():
    tx, peer = (f(0.01, b2=0.5, weight_decay=0.1) for f in (optimizers.adan, optax.adan))
    against_optax(tx, peer)


def test_optax_weighs_the_differences_by_1_minus_b2():
    """With 0.08 in place of the paper's 0.92 the oracle is optax, and is not ours."""
    params, grads = data()
    rule = rules(oracle.adan, 1e-2, {"weight": 0.08})("kernel")
    theirs = oracle.trajectory(rule, params["kernel"], grads["kernel"][:100])
    optaxs, ours = (
        np.sum(path(f(1e-2), names)["kernel"][:100], axis=0)
        for f, names in ((optax.adan, ("bias", "kernel")), (optimizers.adan, ALL))
    )
    change = theirs[-1] - theirs[0]
    np.testing.assert_allclose(optaxs, change, atol=1e-5 * np.max(np.abs(change)), rtol=0)
    assert np.max(np.abs(ours - change)) > 0.1 * np.max(np.abs(change))


def test_adan_is_the_code_of_its_authors():
    against_golden(optimizers.adan(0.01, eps_root=0.0), "optimizers_more.json", "adan", rtol=1e-12)


def test_signatures():
    same_signature(optimizers.adan, optax.adan)
    same_signature(optimizers.scale_by_adan, optax.scale_by_adan)
