"""Strict settings for every test: no silent rank promotion, warnings are errors, fixed hypothesis profiles.

XLA compiles for the answer, not for speed: nearly all of a test's time would go into compiling. ``XLA_FLAGS= pytest``
compiles as users do; tests of memory always do.
"""

import gc
import os

import hypothesis
import jax
import pytest

# Read when the first program is compiled, so after the import is early enough.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):  # a flag that XLA does not know ends the process
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", QUICK)

# Tracing makes many short-lived objects; looking for cycles among them after every 700 takes 6 % of the time.
gc.set_threshold(50_000, 20, 100)

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_runtest_setup(item):
    """On a machine with an accelerator, all tests run there but those of a CPU's programs."""
    if item.get_closest_marker("cpu") and jax.default_backend() != "cpu":
        pytest.skip("looks at what is compiled for a CPU")


COMMON = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("dev", max_examples=20, **COMMON)
hypothesis.settings.register_profile("ci", max_examples=100, derandomize=True, **COMMON)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")
