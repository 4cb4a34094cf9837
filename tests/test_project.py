"""What pyproject.toml, the constraints and the licence promise, compared with what is there."""

import ast
import importlib
import importlib.metadata
import importlib.resources
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mmalign

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"mmalign": "mmalign"} | {name: f"mmalign.{name}" for name in ("configs", "serve", "shards", "tools")}
PRODUCT_FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def requirements(*extras: str) -> dict[str, Requirement]:
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def constraints() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def imported_from(program: str) -> set[str]:
    """The modules that a fresh interpreter holds after running a program."""
    program += "\nimport sys\nprint('\\nMODULES', *sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(result.stdout.rpartition("MODULES ")[2].split())


HEAVY = {"torch", "transformers", "lightning", "peft", "litserve", "matplotlib", "openai", "pyarrow", "webdataset"}


def test_importing_mmalign_imports_nothing_heavy():
    assert not imported_from("import mmalign") & HEAVY


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_imports_nothing_heavy(arguments):
    """So that it stays under two seconds: torch alone takes longer on a cold disk."""
    program = f"from mmalign.cli import main\ntry:\n    main({arguments})\nexcept SystemExit:\n    pass"
    assert not imported_from(program) & HEAVY


def test_the_version_is_the_installed_one_and_in_the_changelog():
    assert importlib.metadata.version("mmalign") == mmalign.__version__
    assert f"## {mmalign.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert PYPROJECT["project"]["license"] == "Apache-2.0"


def test_every_package_is_listed():
    """The list is what a wheel takes; an editable install works without it, so nothing else would notice."""
    on_disk = {
        ".".join([package, *init.parent.relative_to(ROOT / folder).parts])
        for folder, package in FOLDERS.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == on_disk, "bring `packages` in pyproject.toml up to date"


def test_every_folder_of_code_is_a_package():
    """Without an `__init__.py` a folder works in the checkout and is missing in the wheel."""
    bare = {str(path.parent.relative_to(ROOT)) for path in PRODUCT_FILES if not (path.parent / "__init__.py").exists()}
    assert not bare, f"add an __init__.py to {sorted(bare)}"


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_a_mapped_folder_is_found_by_its_installed_name(folder):
    module = importlib.import_module(FOLDERS[folder])
    assert Path(module.__file__) == ROOT / folder / "__init__.py"
    assert importlib.resources.files(FOLDERS[folder]).joinpath("__init__.py").is_file()


@pytest.mark.parametrize("name", sorted(requirements("test")))
def test_every_requirement_is_pinned_and_has_a_floor_it_meets(name):
    requirement = requirements("test")[name]
    assert [spec.operator for spec in requirement.specifier] == [">="], f"{requirement}: one floor, no ceiling"
    assert name in constraints(), f"constraints.txt pins no {name}"
    [pin] = constraints()[name].specifier
    assert requirement.specifier.contains(pin.version), f"{pin} is below the floor of {requirement}"


def test_every_floor_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    bare = [line for line in text.splitlines() if re.match(r'\s+"[\w.\-\[\]]+>=[\d.]+",', line) and "#" not in line]
    assert not bare


def test_every_pin_is_exact_and_names_no_place():
    """A local version would tie the pin to one build, a URL or a path to one machine."""
    for name, pin in constraints().items():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), f"{name}: {pin}"
        assert pin.url is None
        assert not pin.extras


def test_the_installed_versions_are_the_pinned_ones():
    """Every distribution that ours pulls in, followed through their own requirements."""
    pins, waiting, seen = constraints(), [(name, "") for name in requirements("test")], set()
    waiting += [(name, extra) for name, need in requirements("test").items() for extra in need.extras]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        assert name in pins, f"constraints.txt pins no {name}"
        installed = importlib.metadata.version(name)
        assert pins[name].specifier.contains(installed.partition("+")[0], prereleases=True), f"{name} is {installed}"
        for line in importlib.metadata.requires(name) or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                # The CUDA build of torch asks for its libraries by exact versions itself.
                if name == "torch" and re.match(r"nvidia|cuda|triton", need.name):
                    continue
                waiting += [(canonicalize_name(need.name), asked) for asked in ("", *need.extras)]


def third_party_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"mmalign"}


def test_every_import_is_a_declared_requirement():
    """What arrives only because somebody else requires it, leaves when they stop."""
    declared = set(requirements("alpaca", "amber", "hub", "lm-eval", "similarity"))
    distributions = importlib.metadata.packages_distributions()
    undeclared = {
        f"{module} in {path.relative_to(ROOT)}"
        for path in PRODUCT_FILES
        for module in third_party_imports(path)
        if not declared & {canonicalize_name(owner) for owner in distributions.get(module, [module])}
    }
    assert not undeclared, "declare them in pyproject.toml, with a floor and its reason"


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"^\s*(import|from) torchvision\b", "not a requirement; transformers' PIL processors do without it"),
        (r"trust_remote_code\s*=\s*True", "runs code from a model hub"),
        (r"weights_only\s*=\s*False", "unpickles what may come from another machine"),
        (r"\b(pickle|dill|cloudpickle|joblib)\.(loads?|Unpickler)\b", "unpickles what may come from another machine"),
    ],
)
def test_the_product_never(pattern, why):
    hits = [str(path.relative_to(ROOT)) for path in PRODUCT_FILES if re.search(pattern, path.read_text(), re.MULTILINE)]
    assert not hits, f"{hits} match {pattern!r}, which {why}"


def test_the_oldest_python_is_the_same_everywhere():
    assert PYPROJECT["project"]["requires-python"] == ">=3.11"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py311"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == "3.11"
