"""How tests compile: as users do, where they look at a program's memory, and whole functions for speed elsewhere."""

import functools
import inspect
import os

import jax
import numpy as np

OPTIONS = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_parallel_codegen_split_count": 32,
}


def compiled(lowered):
    """The executable of a lowered program, with XLA's own settings."""
    return lowered.compile(OPTIONS if "fusion_emitters" in os.environ.get("XLA_FLAGS", "") else None)


class Jitted:
    """A module whose functions are compiled whole, which takes a test less time than operation by operation."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        found = getattr(self.module, name)
        return jitted(found) if inspect.isfunction(found) else found


def jitted(f):
    """``f`` under ``jit``, where every option that is no array is static."""

    @functools.wraps(f)
    def call(*args, **options):
        arrays = {name: value for name, value in options.items() if isinstance(value, jax.Array | np.ndarray)}
        static = tuple((name, value) for name, value in options.items() if name not in arrays)
        return _program(f, static)(args, arrays)

    return call


@functools.cache
def _program(f, static):
    return jax.jit(lambda args, arrays: f(*args, **arrays, **dict(static)))
