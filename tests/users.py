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
    """``f`` under ``jit``, where every argument that is no array is static."""

    @functools.wraps(f)
    def call(*args, **options):
        given = {str(i): value for i, value in enumerate(args)} | options
        arrays = {
            name: value for name, value in given.items() if isinstance(value, jax.Array | np.ndarray | list)
        }
        static = tuple((name, value) for name, value in given.items() if name not in arrays)
        return _program(f, static, len(args))(arrays)

    return call


@functools.cache
def _program(f, static, count):
    def run(arrays):
        given = dict(static) | arrays
        args = [given.pop(str(i)) for i in range(count)]
        return f(*args, **given)

    return jax.jit(run)
