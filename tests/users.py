"""Compile as users do, where a test looks at the program's memory and conftest's quick flags would change it."""

import os

OPTIONS = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_parallel_codegen_split_count": 32,
}


def compiled(lowered):
    """The executable of a lowered program, with XLA's own settings."""
    return lowered.compile(OPTIONS if "fusion_emitters" in os.environ.get("XLA_FLAGS", "") else None)
