"""The wheel is whole: built, installed into an empty folder, used from another one, away from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import mmalign

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
INSTALLED_AS = {"mmalign": "mmalign"} | {name: f"mmalign/{name}" for name in ("configs", "serve", "shards", "tools")}
STAYS_BEHIND = {"Dockerfile", "Dockerfile.dockerignore", "compose.yaml"}  # an image is built from a checkout


def run(*command, cwd, **environment):
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"{command} failed:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: an old `build/` in the checkout would put files into the wheel that are gone from the tree."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in INSTALLED_AS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", built, source, cwd=source)
    [path] = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Run Python in an empty folder with the wheel and its requirements, and without the editable install.

    An editable install hooks the import system from a `.pth` file, and would quietly supply from the checkout what the
    wheel lacks. `-S` skips those files; `-P` keeps the working directory out.
    """
    site = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    run(*install, site, wheel, cwd=site)
    search = os.pathsep.join([str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])

    def run_python(*arguments, cwd=None):
        cwd = cwd or tmp_path_factory.mktemp("elsewhere")
        return run(sys.executable, "-S", "-P", *arguments, cwd=cwd, PYTHONPATH=search)

    run_python.site = site
    return run_python


def test_every_file_of_the_product_is_in_the_wheel(names):
    missing = [
        str(path.relative_to(ROOT))
        for folder, installed in INSTALLED_AS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name not in STAYS_BEHIND
        if f"{installed}/{path.relative_to(ROOT / folder).as_posix()}" not in names
    ]
    assert not missing, "add them to `packages` or `package-data` in pyproject.toml"


@pytest.mark.parametrize(
    ("folder", "ending"),
    [
        ("mmalign/configs/", "dpo.yaml"),
        ("mmalign/configs/scale/", "tiny.yaml"),
        ("mmalign/world/llava/", "config.json"),
        ("mmalign/world/llava/", "tokenizer.json"),
        ("mmalign/world/llava/", ".safetensors"),
        ("mmalign/shards/", ".tar"),
        ("mmalign/shards/", ".arrow"),
        ("mmalign/shards/", "README.md"),
        ("mmalign/serve/", ".py"),
        ("mmalign/serve/page/", "page.html"),
        ("mmalign/serve/deploy/", "nginx.conf"),
        ("mmalign/tools/", "demo.py"),
        ("mmalign/", "py.typed"),
        (f"mmalign-{mmalign.__version__}.dist-info/", "LICENSE"),
        (f"mmalign-{mmalign.__version__}.dist-info/", "entry_points.txt"),
    ],
)
def test_the_wheel_holds(names, folder, ending):
    assert any(name.startswith(folder) and name.endswith(ending) for name in names)


def test_the_wheel_holds_nothing_else(names):
    """No top-level `serve` or `tools` that could clash with other distributions, no tests, no caches."""
    assert {name.split("/")[0] for name in names} == {"mmalign", f"mmalign-{mmalign.__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


@pytest.mark.parametrize("module", sorted(path.replace("/", ".") for path in INSTALLED_AS.values()))
def test_a_package_comes_from_the_wheel(python, module):
    program = f"import importlib.resources, {module}; print(importlib.resources.files('{module}'))"
    assert Path(python("-c", program).strip()) == python.site / module.replace(".", "/")


def test_the_checkout_is_out_of_reach(python):
    """Otherwise the tests here would pass with an empty wheel."""
    program = "import sys; print(*sys.path, *sys.meta_path, sep='\\n')"
    seen = python("-c", program)
    assert "editable" not in seen.lower()
    assert str(ROOT) not in [line.strip() for line in seen.splitlines()]


def test_help(python):
    assert "fit" in python("-m", "mmalign.cli", "--help")


def test_it_trains(python, tmp_path):
    """The shipped configs, the embedded model and the demo shards are all found, none of them in a checkout."""
    configs = ["--config", "dpo.yaml", "--config", "scale/tiny.yaml"]
    run_here = ["--trainer.max_steps", "2", "--trainer.default_root_dir", tmp_path / "run"]
    python("-m", "mmalign.cli", "fit", *configs, *run_here, cwd=tmp_path)
    assert any((tmp_path / "run").rglob("*.safetensors")), "no checkpoint was written"
