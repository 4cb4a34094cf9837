"""The import direction of the design, enforced."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAPPED = ("serve", "tools", "configs", "shards")

# From the bottom up. A layer imports those above it in this list, and its neighbours on its own line.
LAYERS = [
    {"batch", "messages", "configs", "shards"},
    {"template", "steering", "pictures", "processor", "sharding", "embedding", "logps", "losses", "metrics"},
    {"adapters", "architecture", "attention", "generate", "data", "api"},
    {"backbone"},
    {"fingerprints", "flops", "memory", "nonfinite"},
    {"reference"},
    {"sampling", "evaluation", "world", "checkpoint"},
    {"contrast", "judges", "agreement"},
    {"methods"},
    {"speed", "preflight", "strategies", "signals", "watchdog", "plan", "planned", "logs", "training"},
    {"tools", "serve"},
    {"cli"},
]
LEVEL = {layer: level for level, layers in enumerate(LAYERS) for layer in layers}
# Narrower than their line allows: a loss is a pure function of records.
ONLY = {"losses": {"batch", "losses"}}
METHOD_BASE = {"mmalign.methods.base"}

FILES = sorted(
    [path for path in (ROOT / "mmalign").rglob("*.py") if path != ROOT / "mmalign/__init__.py"]
    + [path for folder in MAPPED for path in (ROOT / folder).rglob("*.py")]
)


def module_name(path: Path) -> str:
    """The name a file has when installed: `serve/app.py` is `mmalign.serve.app`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "mmalign" else ("mmalign", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    return module.split(".")[1]


def imports(source: str, package: str) -> set[str]:
    """Every module of ours that the source imports, anywhere in it; `package` is what `from .` means there."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            # `from mmalign import data` and `from . import dpo` name a module, not something in one.
            names_modules = base == "mmalign" or (node.level and not node.module)
            found |= {f"{base}.{alias.name}" for alias in node.names} if names_modules else {base}
    return {name for name in found if name.startswith("mmalign.") and name != "mmalign.__version__"}


def imports_of(path: Path) -> set[str]:
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return imports(path.read_text(), package)


def forbidden(layer: str, imported: set[str]) -> set[str]:
    """The layers among `imported` that `layer` may not import."""
    allowed = ONLY.get(layer) or {other for other in LEVEL if LEVEL[other] <= LEVEL[layer]}
    return {layer_of(name) for name in imported} - allowed


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_downwards(path):
    layer = layer_of(module_name(path))
    assert layer in LEVEL, f"{relative(path)}: say in LAYERS of {__file__} where mmalign.{layer} stands"
    wrong = forbidden(layer, imports_of(path))
    assert not wrong, f"{relative(path)}: mmalign.{layer} must not import {sorted(wrong)}; see LAYERS in {__file__}"


def test_neighbours_do_not_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        layer = layer_of(module_name(path))
        graph.setdefault(layer, set()).update({layer_of(name) for name in imports_of(path)} - {layer})

    def walk(trail: list[str]) -> None:
        for following in graph.get(trail[-1], ()):
            assert following not in trail, " -> ".join([*trail, following])
            walk([*trail, following])

    for layer in graph:
        walk([layer])


def test_no_method_imports_another():
    for path in (ROOT / "mmalign/methods").glob("*.py"):
        module = module_name(path)
        if path.name == "__init__.py" or module in METHOD_BASE:
            continue
        others = {name for name in imports_of(path) if name.startswith("mmalign.methods")} - METHOD_BASE
        assert not others, f"{relative(path)} imports {sorted(others)}; share through losses/ or methods/base.py"


@pytest.mark.parametrize("name", ["utils", "util", "common", "helpers", "helper", "misc"])
def test_a_file_is_named_after_what_it_does(name):
    everything = [*FILES, *(ROOT / "tests").rglob("*.py")]
    vague = [relative(path) for path in everything if name in (path.stem, path.parent.name)]
    assert not vague, f"{vague}: name what it does"


def test_serve_and_tools_import_themselves_relatively():
    """Their absolute names work only once installed; relative imports work from anywhere."""
    for path in FILES:
        if layer_of(module_name(path)) in ("serve", "tools"):
            absolute = {
                node.module
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.ImportFrom)
                and not node.level
                and (node.module or "").startswith(f"mmalign.{layer_of(module_name(path))}")
            }
            assert not absolute, f"{relative(path)}: write `from .` for {sorted(absolute)}"


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("import mmalign.tools.demo", "mmalign", {"mmalign.tools.demo"}),
        ("from mmalign import cli", "mmalign.data", {"mmalign.cli"}),
        ("from mmalign import __version__", "mmalign.data", set()),
        ("from ..methods import dpo", "mmalign.tools", {"mmalign.methods"}),
        ("from . import dpo", "mmalign.methods", {"mmalign.methods.dpo"}),
        ("def f():\n    from .app import serve", "mmalign.serve", {"mmalign.serve.app"}),
        ("import torch\nfrom transformers import AutoModel", "mmalign", set()),
    ],
)
def test_every_form_of_import_is_seen(source, package, found):
    assert imports(source, package) == found


def test_a_step_upwards_is_found():
    """The rules above are not vacuous, whatever the tree holds."""
    for lower, upper in pairwise(LAYERS):
        for below in lower:
            for above in upper:
                assert forbidden(below, {f"mmalign.{above}.x"}) == {above}
    assert forbidden("losses", {"mmalign.backbone"}) == {"backbone"}
    assert forbidden("losses", {"mmalign.template"}) == {"template"}
