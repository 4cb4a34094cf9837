"""What the fault tests share: they write down what they counted, for the table of `make faults`."""

import json
import os
from pathlib import Path

import pytest
from killing import Mortal


@pytest.fixture(scope="session")
def mortal_run(ranks, tiny_args, tmp_path_factory):
    """`mortal_run(*options, config="dpo.yaml", fit=...)`: a run of the tiny model, see killing.py; begins nothing."""

    def make(*options, config="dpo.yaml", **more):
        return Mortal(ranks, tmp_path_factory.mktemp("mortal"), *tiny_args(*options, config=config), **more)

    return make


@pytest.fixture
def record():
    """`record(id, faults=50, passed=50, worst_s=3.2)`: a line of the table, if `MMALIGN_FAULTS_OUT` names a file."""

    def write(id, *, faults, passed, worst_s=None):
        if target := os.environ.get("MMALIGN_FAULTS_OUT"):
            line = {"id": id, "faults": faults, "passed": passed, "worst_s": worst_s and round(worst_s, 1)}
            with Path(target).open("a") as file:
                file.write(json.dumps(line) + "\n")

    return write
