"""What the arrays of an optimizer's state are, told by the fields that hold them: averages, squares, parameters."""

import jax

from jaxopt_lite.compose import path_string
from jaxopt_lite.types import OptState

# Averages of either sign, averages of squares (a small one must not become 0), and what a step must not move by a
# rounding error: parameters, sums of few gradients, values that stand for a whole step.
SIGNED, SQUARE, EXACT = "signed", "square", "exact"

KINDS = {
    SIGNED: "mu m m1 m2 trace ema exp_avg grad_sum s g prev_updates step_sizes previous left right",
    SQUARE: "nu v nu_max n v_row v_col sum_of_squares e_g e_x exp_avg_sq grad_sum_sq",
    EXACT: "z params params0 init_params slow slow_params fast_state x0 ema_params anchor acc_grads cache grad updates",
}
BY_NAME = {name: kind for kind, names in KINDS.items() for name in names.split()}

# States that use such a name for something else, of this package and of optax.
BY_STATE = {
    "COCOBState": {
        "init_particles": EXACT,
        "cumulative_gradients": SIGNED,
        "scale": SQUARE,
        "subgradients": SQUARE,
        "reward": SQUARE,
    },
    "ScaleByAdanState": {"v": SIGNED},
    "ScaleByLBFGSState": {"diff_params_memory": EXACT, "diff_updates_memory": EXACT},
    "ScaleBySM3State": {"mu": SQUARE, "nu": SIGNED},
    "SophiaState": {"nu": SIGNED},
}


def kind_of(path: tuple, exceptions: dict[str, str]) -> str:
    """``SIGNED``, ``SQUARE`` or ``EXACT`` of the array at a path of the state.

    The first field with a known name decides; keys of dictionaries are names of parameters, a ``v`` among them too.

    >>> import optax
    >>> state = optax.scale_by_adam().init({"v": 1.0})
    >>> [kind_of(path, {}) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    ['signed', 'signed', 'square']
    """
    text = path_string(path)
    for prefix, kind in exceptions.items():
        if f"{text}/".startswith(prefix):
            return kind
    fields = (key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey))
    return next((BY_NAME[field] for field in fields if field in BY_NAME), SIGNED)


def exceptions_of(state: OptState) -> dict[str, str]:
    """Path → kind of the fields of ``BY_STATE`` that are in this state."""
    is_exception = lambda x: type(x).__name__ in BY_STATE
    nodes = jax.tree_util.tree_leaves_with_path(state, is_leaf=is_exception)
    return {
        f"{path_string(path)}/{field}/".lstrip("/"): kind
        for path, node in nodes
        if is_exception(node)
        for field, kind in BY_STATE[type(node).__name__].items()
    }
