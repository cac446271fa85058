"""Everything is lowered for CPUs, GPUs of both makers and TPUs: benchmarks/compile_for.py says what."""

import pathlib
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benchmarks"))
import compile_for
import programs

import jaxopt_lite as jol

PROGRAMS = [(f"{kind} {name}", step, arguments) for kind, name, step, arguments in programs.programs()]


@pytest.mark.parametrize(("name", "step", "arguments"), PROGRAMS, ids=[name for name, _, _ in PROGRAMS])
def test_lowers_for_every_platform(name, step, arguments):
    with jax.numpy_rank_promotion("allow"):  # as where the examples run
        exported = compile_for.lower(step, arguments)
    assert exported.platforms == ("cpu", "cuda", "rocm", "tpu")
    assert exported.mlir_module_serialized


def test_none_is_left_out():
    named = {name.split(" ", 1)[1] for name, _, _ in PROGRAMS}
    assert set(jol.losses.__all__) <= named
    helpers = {name for name, make in programs.FACTORIES.items() if make is None}
    assert set(jol.optimizers.__all__) - named == helpers
    examples = pathlib.Path(__file__).parents[1] / "examples"
    trained = {path.stem for path in examples.glob("*.py") if "def main(" in path.read_text()}
    same = {"compare_optimizers"}  # the step of pretrain_gpt, once for each optimizer
    assert trained - same == {name.split()[0] for name in programs.examples()}


def test_collectives_are_counted_from_the_compiled_text():
    text = """
      %a = f32[8,4]{1,0} all-gather(%p), dimensions={0}
      %b = (f32[2]{0}, bf16[3]{0}) all-reduce(%q, %r), to_apply=%sum
      %c = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%p), dimensions={0}
      %d = f32[8,4]{1,0} all-gather-done(%c)
      %e = (f32[2,4]{1,0}, f32[2,4]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%p)
    """
    assert compile_for.collectives(text) == {
        "all-gather": (2, 256),
        "all-reduce": (1, 14),
        "collective-permute": (1, 32),
    }
