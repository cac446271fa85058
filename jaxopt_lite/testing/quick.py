"""`quick_jit`: compile for the answer, not for speed.

The kit runs each program a few times, so nearly all of its time would go into compiling. On CPUs it asks XLA to
leave out LLVM's optimiser and the splitting into threads; everywhere, to round 16-bit numbers wherever the program
says so (by default CPUs and GPUs keep them in float32 between operations, which hides sums in 16 bits that other
devices round).
Laws about memory and communication compile as users do.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax

ROUNDED = {"xla_allow_excess_precision": False}
ON_CPU = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


@cache
def options() -> dict[str, Any]:
    """The compiler options for this backend, as far as its version of XLA knows them."""
    chosen = ROUNDED | (ON_CPU if jax.default_backend() == "cpu" else {})
    return {name: value for name, value in chosen.items() if _known(name, value)}


def _known(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except Exception:  # XLA's own, whose class depends on the version
        return False
    return True


def quick_jit(function: Callable[..., Any], **keywords: Any) -> Callable[..., Any]:
    """``jax.jit`` that compiles three to ten times faster into a slower program.

    >>> float(quick_jit(lambda x: 2 * x)(3.0))
    6.0
    """
    return jax.jit(function, compiler_options=options(), **keywords)
