import pytest
from suites import GAIN, write_suite

from mmalign.evaluation.suite.results import read_suite

RESAMPLES = 300


@pytest.fixture(scope="session")
def suite(tmp_path_factory):
    """`suite(...)`: a made-up suite folder, its options those of `write_suite`."""

    def make(**options):
        return write_suite(tmp_path_factory.mktemp("suites") / "suite", **options)

    return make


@pytest.fixture(scope="session")
def results_of(suite):
    """`results_of(...)`: the same, read."""

    def make(**options):
        return read_suite(suite(**options), resamples=RESAMPLES)

    return make


@pytest.fixture(scope="session")
def good(results_of):
    """Most benchmarks gained, none lost; CHAIR, where less is better, fell."""
    return results_of(shifts={**GAIN, "chair": -0.1})
