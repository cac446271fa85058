"""The recommended combination: AdamW with moments of one byte and 16-bit parameters that do not stall."""

from typing import Any

from jaxopt_lite.optimizers.adam import adamw
from jaxopt_lite.precision.master import master_weights
from jaxopt_lite.precision.quantized import quantize_state
from jaxopt_lite.transformation import transformation
from jaxopt_lite.types import Mask, Scalar, ScalarOrSchedule


@transformation
def low_memory_adamw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    *,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
    nesterov: bool = False,
    codec: Any = "int8",
    correction: str = "int16",
    min_size: int = 4096,
):
    """``master_weights(quantize_state(adamw(...), codec), correction)``: 6.01 bytes a parameter in all.

    | bytes a parameter | bfloat16 parameters | the same in float32 optax with master weights |
    |---|---|---|
    | parameter | 2 | 2 + 4 |
    | correction, int16 (int8: 1) | 2 | 0 |
    | m and v, int8 (int4: 1.01) | 2.01 | 8 |
    | together | 6.01 | 14 |

    Parameters of 32 bits are left in them and have no correction: 4 + 2.01. Arguments: those of ``adamw``, and
      codec, min_size: as in ``quantize_state``.
      correction: as in ``master_weights``.

    The updates of 16-bit parameters come out in float32, for ``optax.apply_updates`` or this package's.

    >>> import jax.numpy as jnp
    >>> from jaxopt_lite.precision import state_bytes
    >>> params = jnp.zeros((512, 1024), jnp.bfloat16)
    >>> round((params.nbytes + state_bytes(low_memory_adamw(1e-3).init(params))) / params.size, 2)
    6.01
    """
    inner = adamw(
        learning_rate, b1, b2, eps, eps_root, weight_decay=weight_decay, mask=mask, nesterov=nesterov
    )
    return master_weights(quantize_state(inner, codec, min_size=min_size), correction)
