"""The tree is as the design says: tests mirror modules, ``__all__`` is sorted and true, every example runs."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import jaxopt_lite as jol

ROOT = pathlib.Path(jol.__file__).parent
TESTS = pathlib.Path(__file__).parent
EXAMPLES = TESTS.parent / "examples"
MODULES = sorted(
    m.name for m in pkgutil.walk_packages([str(ROOT)], "jaxopt_lite.") if "__main__" not in m.name
)

# Settings with which each example runs in seconds, and still ends in its own assertion where it can.
SMALL = {
    "chunked_preference": {"steps": 12, "vocabulary": 512},
    "classify_digits": {},
    "linear_regression": {},
}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_its_test_file(name):
    path = ROOT.parent / pathlib.Path(*name.split("."))
    if (path / "__init__.py").exists():
        assert (TESTS / pathlib.Path(*name.split(".")[1:]) / "__init__.py").exists()
        return
    *folders, leaf = name.split(".")[1:]
    assert (TESTS / pathlib.Path(*folders) / f"test_{leaf}.py").exists()


@pytest.mark.parametrize("name", ["jaxopt_lite", *MODULES])
def test_all_is_sorted_and_true(name):
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None)
    if names is None:
        assert not hasattr(module, "__path__"), f"{name} is a package and needs an __all__"
        return
    assert list(names) == sorted(set(names))
    for exported in names:
        assert hasattr(module, exported), f"{name}.__all__ names {exported}, which does not exist"
    public = {n for n, v in vars(module).items() if not n.startswith("_") and _defined_under(v, name)}
    if hasattr(module, "__path__"):
        assert public <= set(names), f"missing from {name}.__all__: {sorted(public - set(names))}"


def _defined_under(value, package: str) -> bool:
    """Functions and classes of this package that its ``__init__`` brings in, submodules aside."""
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return False
    return value.__module__.startswith(package)


@pytest.mark.parametrize("name", ["jaxopt_lite", *MODULES])
def test_public_functions_teach(name):
    module = importlib.import_module(name)
    for exported in getattr(module, "__all__", ()):
        value = getattr(module, exported)
        if inspect.isfunction(value):
            assert value.__doc__, f"{name}.{exported} has no docstring"


def test_files_and_functions_are_short():
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 400, f"{path} has over 400 lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                assert node.end_lineno - body[0].lineno < 50, f"{path}:{node.lineno} {node.name} is too long"


def test_importing_the_package_imports_no_test_or_example_library():
    code = (
        "import sys, jaxopt_lite\n"
        "heavy = {'hypothesis', 'pytest', 'orbax', 'matplotlib', 'tqdm', 'rich', 'sklearn', 'torch'}\n"
        "found = heavy & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def examples() -> list[str]:
    return sorted(p.stem for p in EXAMPLES.glob("*.py") if "def main(" in p.read_text())


def test_every_example_is_run_here_or_in_its_own_test():
    own = {p.stem.removeprefix("test_") for p in (TESTS / "examples").glob("test_*.py")}
    assert set(examples()) == set(SMALL) | own


@pytest.mark.parametrize("name", examples())
def test_examples_are_short(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert text.count("\n") < 150
    assert "assert" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    importlib.import_module(name).main(**SMALL[name])
