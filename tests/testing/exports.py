"""What the kit checks of ours: every exported factory and loss, with what each claims about itself.

The exports are the registry. One that builds with defaults and has no row here is checked without claims of its
own; one that needs arguments must have a row, or stand in ``NOT_CHECKED`` with the reason.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxopt_lite as jol
from jaxopt_lite import compose, losses, optimizers, schedules, wrappers
from jaxopt_lite.testing import LossCase, TransformationCase, loss_laws, transformation_laws
from jaxopt_lite.testing.transformation_case import is_transformation, required

# What every transformation of ours keeps, see types.py.
ALWAYS = {"pickles", "strict", "gradient_dtype"}
ENTRY = {"elementwise", "odd"}
PURE = ENTRY | {"linear"}
SIGN = ENTRY | {"scale_invariant"}
LEAF = {"leafwise", "odd"}
RATE = 1e-2


def adam():
    return optimizers.adam(RATE)


def scalars(params):
    return jax.tree.map(lambda p: p.ndim < 1, params)


def arrays(params):
    return jax.tree.map(lambda p: p.ndim > 0, params)


def by_rank(path, leaf):
    return "vector" if jnp.ndim(leaf) == 1 else "rest"


def hessian(value_fn, params):
    """Sophia's Hutchinson estimate wants the loss as a function of the parameters."""
    return {"obj_fn": value_fn}


def slope(value_fn, params):
    """The gradient as a function of the parameters, for complex ones the direction of steepest ascent."""
    return {"grad_fn": lambda p: jax.tree.map(jnp.conj, jax.grad(value_fn)(p))}


def row(make=None, *claims, **facts):
    return {"make": make, "claims": set().union(*claims), **facts}


# The wrappers whose float32 updates land exactly on 16-bit parameters.
EXACT = {
    "dtypes_kept": "emits float32 updates for 16-bit parameters",
    "mixed_dtypes": "emits float32 updates for 16-bit gradients",
    "bfloat16_tracks_float32": "its updates land on bfloat16 numbers",
    "float16_tracks_float32": "its updates land on float16 numbers",
}

ROWS = {
    # elementwise rules
    "adabelief": row(None, SIGN),
    "adadelta": row(None, ENTRY),
    "adagrad": row(None, ENTRY),
    "adam": row(None, SIGN),
    "adamax": row(None, SIGN),
    "adamaxw": row(None, ENTRY, {"decays"}),
    "adamw": row(None, ENTRY, {"decays"}),
    "adan": row(None, ENTRY),
    "ademamix": row(None, SIGN),
    "add_decayed_weights": row(lambda: optimizers.add_decayed_weights(0.1), ENTRY, {"decays"}),
    "amsgrad": row(None, SIGN),
    "ema": row(lambda: optimizers.ema(0.9), PURE),
    "identity": row(None, PURE),
    "lion": row(None, ENTRY, {"decays"}),
    "nadam": row(None, SIGN),
    "nadamw": row(None, ENTRY, {"decays"}),
    "radam": row(None, ENTRY),
    "rmsprop": row(None, SIGN),
    "rprop": row(None, SIGN),
    "scale": row(lambda: optimizers.scale(-0.5), PURE),
    "scale_by_learning_rate": row(lambda: optimizers.scale_by_learning_rate(RATE), PURE),
    "scale_by_rprop": row(lambda: optimizers.scale_by_rprop(RATE), SIGN),
    "scale_by_schedule": row(lambda: optimizers.scale_by_schedule(schedules.linear(1.0, 0.5, 100)), PURE),
    "scale_by_sign": row(None, SIGN),
    "sgd": row(None, PURE),
    "sign_sgd": row(None, SIGN),
    "signum": row(None, SIGN),
    "trace": row(lambda: optimizers.trace(0.9), PURE),
    "yogi": row(None, ENTRY),
    # rules for a leaf
    "adafactor": row(None, {"leafwise"}),
    "adam_mini": row(None, LEAF),
    "fromage": row(None, LEAF, {"decays"}),
    "lamb": row(None, LEAF),
    "lars": row(None, LEAF, {"decays"}),
    "mars": row(None, LEAF),
    "muon": row(None, LEAF),
    "normuon": row(None, LEAF),
    "novograd": row(None, LEAF),
    "shampoo": row(None, LEAF),
    "soap": row(None, LEAF, {"decays"}),
    # rules that need more than gradients
    "hutchinson_estimator_diag_hessian": row(
        None,
        {"part"},
        extra=hessian,
        without={
            "mixed_dtypes": "estimates of the curvature have the parameter's dtype",
            "complex64": "estimates of the curvature are real",
            "zero_gradient_gives_zero_update": "the curvature does not depend on the gradient",
            "descends": "the curvature is no direction",
        },
    ),
    "schedule_free": row(lambda: optimizers.schedule_free(adam(), RATE)),
    "scale_by_stddev": row(
        None,
        without={"bfloat16_tracks_float32": "a constant gradient has no spread, so only rounding is left"},
    ),
    "scale_by_sophia": row(None, extra=hessian),
    "sophia": row(None, {"decays"}, extra=hessian),
    # composition
    "chain": row(lambda: compose.chain(wrappers.clip_by_global_norm(1.0), adam())),
    "freeze": row(lambda: compose.freeze(scalars), {"part"}),
    "masked": row(lambda: compose.masked(adam(), arrays)),
    "named_chain": row(lambda: compose.named_chain(("adam", adam()), ("scale", optimizers.scale(0.5)))),
    "partition": row(
        lambda: compose.partition(
            {"vector": adam(), "rest": optimizers.sgd(RATE)},
            by_rank,
        )
    ),
    # wrappers
    "accumulate": row(lambda: wrappers.accumulate(optimizers.sgd(RATE), 2), {"odd"}),
    "adaptive_grad_clip": row(lambda: wrappers.adaptive_grad_clip(0.1), LEAF),
    "cautious": row(lambda: wrappers.cautious(adam()), LEAF),
    "clip": row(
        lambda: wrappers.clip(1.0),
        ENTRY,
        without={"complex64": "raises, since complex numbers have no order"},
    ),
    "clip_by_block_rms": row(lambda: wrappers.clip_by_block_rms(1.0), LEAF),
    "clip_by_global_norm": row(lambda: wrappers.clip_by_global_norm(1.0), {"odd", "nan_stays"}),
    "decay": row(lambda: wrappers.decay(adam(), 1e-3), ENTRY, {"decays"}),
    "dynamic_loss_scale": row(
        lambda: wrappers.dynamic_loss_scale(optimizers.sgd(RATE), initial=1.0), {"odd"}
    ),
    "ema_params": row(lambda: wrappers.ema_params(adam(), 0.9), ENTRY),
    "lookahead": row(lambda: wrappers.lookahead(optimizers.sgd(0.1)), ENTRY),
    "monitor": row(lambda: wrappers.monitor(adam()), {"odd"}),
    "sam": row(lambda: wrappers.sam(optimizers.sgd(RATE)), extra=slope),
    "skip_nonfinite": row(lambda: wrappers.skip_nonfinite(adam()), {"odd", "skips_nonfinite"}),
    "tunable": row(lambda: wrappers.tunable(optimizers.adamw, learning_rate=RATE), ENTRY, {"decays"}),
    # storage
    "kahan": row(lambda: jol.precision.kahan(adam()), without=EXACT),
    "low_memory_adamw": row(lambda: jol.low_memory_adamw(RATE, min_size=1), {"decays"}, without=EXACT),
    "master_weights": row(lambda: jol.precision.master_weights(adam()), without=EXACT),
    "quantize_state": row(lambda: jol.precision.quantize_state(jol.adamw(RATE), min_size=1), {"decays"}),
    "stochastic_rounding": row(lambda: jol.precision.stochastic_rounding(adam()), without=EXACT),
}
NOT_CHECKED = {
    "diloco": "its inner and outer steps belong to a mesh, see tests/wrappers/test_diloco.py",
    "hyperball": "keeps norms, so that it needs matrices away from zero, see tests/wrappers",
    "per_example_clip": "gradients carry one more axis than parameters, see tests/wrappers/test_per_example.py",
}


def modules():
    """The modules whose exports make transformations; ``precision`` where it is exported."""
    found = [optimizers, wrappers, compose]
    return found + ([jol.precision] if hasattr(jol, "precision") else [])


def factories():
    """Every exported function that makes a transformation: has a row or builds with a learning rate at most."""
    names = {}
    for module in modules():
        for name in getattr(module, "__all__", ("chain", "freeze", "masked", "named_chain", "partition")):
            value = getattr(module, name)
            if callable(value) and not isinstance(value, type):
                names[name] = value
    return {name: value for name, value in sorted(names.items()) if _makes_transformations(name, value)}


def _makes_transformations(name, value):
    if name in ROWS or name in NOT_CHECKED:
        return True
    if not set(required(value)) <= {"learning_rate"}:
        return False
    try:
        return is_transformation(value(RATE) if required(value) else value())
    except Exception:
        return False


def transformation(name):
    """The case of an export: its row, or its defaults without claims of its own."""
    facts = dict(ROWS.get(name, row()))
    make, claims, _ = facts.pop("make"), facts.pop("claims") | ALWAYS, facts.pop("without", None)
    return TransformationCase(make or factories()[name], claims=claims, name=name, **facts)


def checked():
    """Names of all transformations that the laws run on."""
    return [name for name in factories() if name not in NOT_CHECKED]


# --- losses ---

N, C = 6, 5
RNG = np.random.default_rng(5)  # begins anew for every row, see drawn()
FLOATS = {"float32_result"}
BELOW = FLOATS | {"non_negative"}
BOWL = BELOW | {"convex"}


def drawn(name, make):
    """The inputs of a row, the same whatever has been drawn before."""
    RNG.bit_generator.state = np.random.default_rng(list(name.encode())).bit_generator.state
    return make()


def normal(*shape, scale=1.0):
    return jnp.asarray(RNG.normal(0.0, scale, (N, *shape)), jnp.float32)


def simplex(*shape):
    return jnp.asarray(RNG.dirichlet(np.ones(C), (N, *shape)), jnp.float32)


def ids(high=C, *shape):
    return jnp.asarray(RNG.integers(0, high, (N, *shape)), jnp.int32)


def nats():
    return -jnp.abs(normal()) - 0.1


def bits(*shape):
    return jnp.asarray(RNG.integers(0, 2, (N, *shape)), jnp.float32)


def two():
    return normal(), normal()


def rows():
    return normal(C), simplex()


def labels():
    return normal(C), ids()


def logs():
    return jnp.log(simplex()), jnp.log(simplex())


def signs():
    return normal(), 2 * bits() - 1


def graded():
    return normal(C), jnp.asarray(RNG.permuted(np.tile(np.arange(C) / 1.0, (N, 1)), axis=1), jnp.float32)


def images():
    return normal(4, C), jnp.asarray(np.eye(C)[RNG.integers(0, C, (N, 4))], jnp.float32)


def ctc():
    paddings = jnp.asarray((np.arange(3) >= 2) * np.ones((N, 1)), jnp.float32)
    return normal(5, C), jnp.zeros((N, 5)), 1 + ids(C - 1, 3), paddings


def loss_row(inputs, *claims, options=None, **facts):
    return {"inputs": inputs, "claims": set().union(*claims), "options": options or {}, **facts}


COUPLED = FLOATS | {"couples_examples", "temporaries<=64"}
CLASSES = {"shift_invariant"}
HEAD = {"kernel": RNG.normal(size=(4, C)).astype(np.float32)}
HEADED = FLOATS | {"temporaries<=64"}
FUSED = {
    "forward_equals_reverse": "the backward pass recomputes the logits: a reverse rule only",
    "shape_mismatch_raises": "the second argument is a kernel, not a target",
}
LOSS_ROWS = {
    "absolute_error": loss_row(two, BOWL, {"zero_at_target"}),
    "binary_dice_loss": loss_row(lambda: (normal(4), bits(4)), BELOW),
    "bradley_terry_loss": loss_row(two, BOWL),
    "clipped_surrogate_loss": loss_row(lambda: (nats(), nats(), normal()), FLOATS),
    "cosine_distance": loss_row(lambda: (normal(C), normal(C)), BELOW),
    "cosine_similarity": loss_row(lambda: (normal(C), normal(C)), FLOATS),
    "cpo_loss": loss_row(lambda: (nats(), nats()), FLOATS),
    "cross_entropy": loss_row(lambda: (simplex(), simplex()), BOWL, {"probabilities"}),
    "ctc_loss": loss_row(ctc, FLOATS, {"non_negative", "temporaries<=64"}, CLASSES),
    "dice_loss": loss_row(images, BELOW),
    "distillation_loss": loss_row(lambda: (normal(C), normal(C)), BELOW, CLASSES, {"zero_at_target"}),
    "dpo_loss": loss_row(lambda: (nats(), nats(), nats(), nats()), BOWL),
    "gaussian_nll": loss_row(lambda: (normal(), normal(), 0.5 + normal() ** 2), FLOATS, {"convex"}),
    "generalized_kl_divergence": loss_row(lambda: (logs()[0], simplex()), BOWL, {"log_probabilities"}),
    "hinge_loss": loss_row(signs, BOWL),
    "huber_loss": loss_row(two, BOWL, {"zero_at_target"}),
    "info_nce": loss_row(lambda: (normal(C), normal(C)), COUPLED),
    "ipo_loss": loss_row(lambda: (nats(), nats(), nats(), nats()), BOWL),
    "js_divergence": loss_row(logs, BELOW, {"log_probabilities", "log_targets", "zero_at_target"}),
    "k3_kl": loss_row(lambda: (nats(), nats()), BOWL),
    "kl_divergence": loss_row(lambda: (logs()[0], simplex()), FLOATS, {"log_probabilities"}),
    "kl_divergence_with_log_targets": loss_row(logs, FLOATS, {"log_probabilities", "log_targets"}),
    "kto_loss": loss_row(lambda: (nats(), nats(), bits() > 0), BELOW, options={"kl": 0.3}),
    "l2_loss": loss_row(two, BOWL, {"zero_at_target"}),
    "linear_distillation_loss": loss_row(
        lambda: (normal(4), HEAD["kernel"], normal(4), HEAD["kernel"] + 0.1), HEADED, without=FUSED
    ),
    "linear_softmax_cross_entropy": loss_row(
        lambda: (normal(4), HEAD["kernel"], ids()), HEADED, without=FUSED
    ),
    "list_mle": loss_row(graded, BOWL, CLASSES),
    "log_cosh": loss_row(two, BOWL, {"zero_at_target"}),
    "make_fenchel_young_loss": loss_row(
        rows, FLOATS, CLASSES, loss=losses.make_fenchel_young_loss(jax.nn.logsumexp)
    ),
    "multiclass_generalized_dice_loss": loss_row(images, COUPLED),
    "multiclass_hinge_loss": loss_row(labels, BOWL, CLASSES),
    "multiclass_perceptron_loss": loss_row(labels, BOWL, CLASSES),
    "multiclass_sparsemax_loss": loss_row(labels, BOWL, CLASSES),
    # One positive to each row, so that a mean over pairs is one over rows.
    "ntxent": loss_row(lambda: (normal(C), jnp.array([0, 1, 2, 0, 2, 1])), COUPLED),
    "orpo_loss": loss_row(lambda: (nats(), nats()), FLOATS),
    "pairwise_logistic_loss": loss_row(graded, BOWL, CLASSES, {"temporaries<=64"}),
    "perceptron_loss": loss_row(signs, BOWL),
    "poisson_nll": loss_row(lambda: (normal(), jnp.abs(normal())), FLOATS, {"convex"}),
    "policy_entropy": loss_row(lambda: (normal(C),), FLOATS, CLASSES, {"non_negative"}),
    "poly_loss_cross_entropy": loss_row(rows, BELOW, CLASSES, {"logits"}),
    "quantile_loss": loss_row(two, BOWL, {"zero_at_target"}, options={"quantile": 0.9}),
    "ranking_softmax_loss": loss_row(graded, FLOATS, CLASSES, {"convex"}),
    "safe_softmax_cross_entropy": loss_row(rows, BOWL, CLASSES, {"logits"}),
    "sigmoid_binary_cross_entropy": loss_row(lambda: (normal(), bits()), BOWL),
    "sigmoid_focal_loss": loss_row(lambda: (normal(), bits()), BELOW),
    "siglip_loss": loss_row(
        lambda: (normal(C), normal(C)), COUPLED, options={"temperature": 10.0, "bias": -10.0}
    ),
    "simpo_loss": loss_row(lambda: (nats(), nats()), BOWL),
    "softmax_cross_entropy": loss_row(rows, BOWL, CLASSES, {"logits"}),
    "softmax_cross_entropy_with_integer_labels": loss_row(labels, BOWL, CLASSES, {"logits"}),
    "softmax_focal_loss": loss_row(labels, BELOW, CLASSES),
    "sparsemax_loss": loss_row(
        lambda: (normal(), ids(2)), BOWL, without={"labels_out_of_range": "labels 0 and 1 beside one logit"}
    ),
    "squared_error": loss_row(two, BOWL, {"zero_at_target"}),
    "squared_hinge_loss": loss_row(signs, BOWL),
    "triplet_margin_loss": loss_row(lambda: (normal(C), normal(C), normal(C)), BELOW),
    "tversky_loss": loss_row(images, FLOATS),
    "value_clip_loss": loss_row(lambda: (normal(), normal(), normal()), BELOW),
}
NOT_LOSSES = {
    "ctc_loss_with_forward_probs": "returns the forward probabilities too; ctc_loss is checked",
    "group_advantages": "makes advantages from rewards, no loss",
    "grpo_loss": "needs its mask in the place of where=, see tests/losses/test_policy.py",
    "linear_log_probs": "returns log-probabilities, see tests/losses/test_language.py",
    "smooth_labels": "makes targets, no loss",
}


def loss(name):
    """The case of an exported loss: its row, or guessed inputs without claims."""
    facts = dict(LOSS_ROWS.get(name, loss_row(None)))
    function = facts.pop("loss", None) or getattr(losses, name)
    options, make, _ = facts.pop("options"), facts.pop("inputs"), facts.pop("without", None)
    function = partial(function, **options) if options else function
    inputs = None if make is None else (lambda key: drawn(name, make))
    return LossCase(function, inputs=inputs, name=name, **facts)


def laws_for(name):
    """The laws that an export is held to: all but those its row takes out, with the reason."""
    rows, laws = (LOSS_ROWS, loss_laws) if name in losses.__all__ else (ROWS, transformation_laws)
    return [law for law in laws if law not in rows.get(name, {}).get("without", ())]


def checked_losses():
    """Names of all losses that the laws run on: those with a row, and unknown ones whose inputs can be guessed."""
    names = [n for n in losses.__all__ if n not in NOT_LOSSES and callable(getattr(losses, n))]
    return [n for n in sorted(names) if n in LOSS_ROWS or _guessed(n)]


def _guessed(name):
    try:
        return bool(loss(name).inputs)
    except TypeError:
        return False
