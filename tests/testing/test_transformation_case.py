"""Cases build factories, run steps, and know which way updates point."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jaxopt_lite as jol
from jaxopt_lite.testing import ConformanceError, TransformationCase, check_transformation
from jaxopt_lite.testing.transformation_case import build, name_of
from tests.testing.right import State, descend, momentum, stateless, with_slot


def ascends():
    return stateless(lambda g, p: 0.01 * g)


def test_a_factory_is_built_and_one_that_cannot_be_says_what_it_needs():
    assert check_transformation(optax.sgd, laws=["descends"]).item == "sgd"
    with pytest.raises(ConformanceError, match="it needs max_norm"):
        check_transformation(optax.clip_by_global_norm, laws=["descends"])
    with pytest.raises(TypeError, match="expected a transformation"):
        TransformationCase(3)
    assert build(optax.scale, step_size=2.0).update(1.0, optax.EmptyState())[0] == 2.0


def test_parts_of_a_chain_need_not_descend_by_themselves():
    check_transformation(optax.clip(1.0), laws=["descends"])
    check_transformation(optax.scale_by_adam(), laws=["descends"])
    check_transformation(jol.optimizers.scale_by_lion, laws=["descends"])
    check_transformation(ascends(), laws=["descends"], claims={"part"})
    check_transformation(lambda: optax.clip(1.0), laws=["descends"])


def test_a_users_factory_without_a_learning_rate_makes_an_optimizer():
    check_transformation(lambda: optax.sgd(0.1), laws=["descends"])
    check_transformation(lambda: jol.wrappers.accumulate(optax.sgd(0.1), 2), laws=["descends"])
    with pytest.raises(ConformanceError, match="does not fall"):
        check_transformation(ascends, laws=["descends"])


def test_names_are_short_and_readable():
    assert name_of(jol.adam(0.1)) == "adam(learning_rate=0.1)"
    assert name_of(optax.scale_by_adam()) == "scale_by_adam"
    assert name_of(optax.lamb) == "lamb"


def test_extra_arguments_come_from_the_gradient_and_the_parameters():
    seen = {}

    def update(grads, state, params=None, *, value, value_fn):
        seen.update(value=value, at=value_fn(params), further=value_fn({"w": params["w"] + 1.0}))
        return grads, state

    tx = optax.GradientTransformationExtraArgs(lambda p: (), update)
    extra = lambda fn, params: {"value": fn(params), "value_fn": fn}
    case = TransformationCase(tx, extra=extra, params={"w": jnp.ones(2)})
    case.update({"w": jnp.full(2, 3.0)}, (), case.params, 5.0)
    assert (float(seen["value"]), float(seen["at"])) == (5.0, 5.0)
    assert float(seen["further"]) == 5.0 + 2 * 3.0 + 0.5 * 2


@pytest.mark.parametrize(
    ("factory", "names"),
    [
        (optax.polyak_sgd, {"value", "grad", "value_fn"}),
        (optax.contrib.sophia, {"obj_fn"}),
        (optax.sgd, None),
    ],
)
def test_usual_extra_arguments_are_given_where_update_refuses_without(factory, names):
    case = TransformationCase(factory)
    assert case.traceable
    found = case.extra and set(case.extra(lambda q: jnp.sum(q["bias"]), case.params))
    assert found == names
    assert check_transformation(factory, laws=["structure_kept", "descends"]).passed


def test_the_value_survives_a_huge_gradient():
    seen = []
    tx = optax.GradientTransformationExtraArgs(
        lambda p: (), lambda g, s, p, *, value: (seen.append(value), (g, s))[1]
    )
    case = TransformationCase(tx, extra=lambda fn, params: {"value": fn(params)})
    case.update(jax.tree.map(lambda p: jnp.full_like(p, 1e10), case.params), (), case.params, 3.0)
    assert float(seen[0]) == 3.0


def test_a_run_moves_the_parameters_or_does_not():
    case = TransformationCase(stateless(descend))
    moved, held = (case.run(case.gradients(2), move=move).params for move in (True, False))
    assert held is case.params
    want = case.params["bias"] - 0.01 * sum(g["bias"] for g in case.gradients(2))
    np.testing.assert_allclose(moved["bias"], want, rtol=1e-6)


def test_the_compiled_step_is_shared_and_three_steps_are_remembered():
    case = TransformationCase(with_slot(momentum))
    assert case.step is case.step
    assert case.ordinary() is case.ordinary()
    assert isinstance(case.ordinary().state, State)
