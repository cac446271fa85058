"""What was judged by hand: which laws accuse, and which only show a difference of convention.

For every law that an item of optax breaks, one or two of its confirmed scripts were read. ``FAULT`` is a wrong number,
a NaN, an error on legal input or a second compilation; ``CONVENTION`` is what optax documents or offers an argument
for. Only faults are counted.
"""

import inspect
from typing import NamedTuple

FAULT, CONVENTION, UNJUDGED = "fault", "convention", "not judged"


class Verdict(NamedTuple):
    """A grade and the reason for it."""

    grade: str
    reason: str


VERDICTS = {
    "mixed_dtypes": Verdict(FAULT, "the state changes its dtype at step 2: a recompilation, an error in scan"),
    "huge_gradients": Verdict(
        FAULT, "squares above 3e38 are infinite: the step is lost or NaN, and a moment or norm infinite"
    ),
    "zero_gradient_in_16_bit": Verdict(FAULT, "the default ε is 0 in float16, so a zero gradient gives NaN"),
    "differentiable_at_zero": Verdict(FAULT, "the derivative is NaN, and no eps_root is offered"),
    "survives_donation": Verdict(FAULT, "the state holds the parameters' own arrays, or one array twice; XLA refuses"),
    "init_equals_eval_shape": Verdict(FAULT, "eval_shape of init fails: no shapes of a state without making it"),
    "state_is_a_fixed_point": Verdict(FAULT, "a weak type in the first state: step 2 compiles again"),
    "traced_once": Verdict(FAULT, "the second step compiles again"),
    "zero_gradient_gives_zero_update": Verdict(FAULT, "a zero gradient gives NaN or moves the parameters"),
    "tiny_gradients": Verdict(FAULT, "a norm or a product of 1e-30 is 0, and is divided by"),
    "zero_size_leaves": Verdict(FAULT, "an error on a leaf without entries"),
    "scalar_leaves": Verdict(FAULT, "an error on a 0-d parameter"),
    "empty_tree": Verdict(FAULT, "an error on a tree without leaves, as masking can leave one"),
    "none_leaves": Verdict(FAULT, "an error on None, which JAX counts as no leaf"),
    "structure_kept": Verdict(FAULT, "an error on a dictionary of matrices, though all parameters are matrices"),
    "state_maps_over_params": Verdict(FAULT, "optax's own tree_map_params fails on the state"),
    "one_hot_targets": Verdict(FAULT, "0·log 0 is NaN where the divergence is finite"),
    "small_predictions_are_accurate": Verdict(FAULT, "all digits are lost: 0 in place of 5e-9"),
    "gradient_has_the_arguments_dtype": Verdict(FAULT, "the gradient of 16-bit predictions raises"),
    "bfloat16_tracks_float32": Verdict(
        CONVENTION, "optax keeps state in the parameter's dtype, by choice (mu_dtype); this is its price"
    ),
    "float16_tracks_float32": Verdict(
        CONVENTION, "optax keeps state in the parameter's dtype, by choice (mu_dtype); this is its price"
    ),
    "learning_rate_kinds": Verdict(
        CONVENTION, "JAX's promotion: a float32 array times bfloat16 is float32; apply_updates casts back"
    ),
    "shape_mismatch_raises": Verdict(CONVENTION, "optax checks dtypes and lets NumPy's broadcasting decide shapes"),
    "complex64": Verdict(CONVENTION, "optax has split_real_and_imaginary for what is not meant for complex numbers"),
    "labels_out_of_range": Verdict(CONVENTION, "optax documents labels in range only"),
    "zero_predictions": Verdict(CONVENTION, "an argument epsilon is offered; its default is 0"),
    "absent_class": Verdict(CONVENTION, "safe_softmax_cross_entropy is offered for logits of −∞"),
}  # fmt: skip

# Not held against an item, and why.
NOISE = "adds noise, as named"
CURVATURE = "an estimate of the curvature, no direction"
BY_VALUE = "the step asked for is (value − bound)/‖g‖², below rounding for such a gradient"
EXEMPT = {
    "adadelta": {"descends": "learning_rate=None, its default, leaves out the sign too, as documented"},
    "scale_by_cocob": {"descends": "its updates point downhill already"},
    "scale_by_madgrad": {"descends": "its updates point downhill already"},
    "scale_by_rprop": {"descends": "a part: rprop turns its sign"},
    "scale": {"descends": "a positive number climbs, as asked"},
    "keep_params_nonnegative": {
        "descends": "stands after the learning rate",
        "complex64": "orders the parameters",
        "zero_gradient_gives_zero_update": "moves negative parameters, as named",
    },
    "set_to_zero": {"descends": "never moves, as named", "huge_gradients": "zero, as named"},
    "noisy_sgd": dict.fromkeys(
        ("zero_gradient_gives_zero_update", "complex64", "bfloat16_tracks_float32", "float16_tracks_float32"), NOISE
    ),
    "yogi": {"zero_gradient_gives_zero_update": "both moments start at initial_accumulator_value, as documented"},
    "polyak_sgd": {"huge_gradients": BY_VALUE},
    "scale_by_polyak": {"huge_gradients": BY_VALUE},
    "momo": {"huge_gradients": BY_VALUE},
    "hutchinson_estimator_diag_hessian": dict.fromkeys(
        ("descends", "zero_gradient_gives_zero_update", "complex64"), CURVATURE
    ),
    "scale_by_lbfgs": {
        "differentiable": "two equal points have no difference to learn from",
        "differentiable_at_zero": "two equal points have no difference to learn from",
    },
    "lbfgs": {
        "differentiable": "a line search is a while loop",
        "differentiable_at_zero": "a line search is a while loop",
        "ignores_extra_arguments": "hands them to value_fn and says so",
    },
}  # fmt: skip
EXEMPT["scale_by_yogi"] = EXEMPT["yogi"]


def verdict(law, item, script):
    """The grade of a confirmed accusation: the law's, unless item or script show that optax offers a way out."""
    names = inspect.signature(item).parameters
    if law == "differentiable_at_zero" and any("eps_root" in n or n == "base_optimizer" for n in names):
        return Verdict(CONVENTION, "eps_root (or a base_optimizer with one) is offered; its default is 0")
    if law == "init_equals_eval_shape" and "lambda: tx.init(shapes)" in script:
        return Verdict(CONVENTION, "optax promises init for arrays; eval_shape of it works")
    return VERDICTS.get(law, Verdict(UNJUDGED, "nobody has read it yet"))
