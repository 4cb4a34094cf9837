import json
import shlex
from pathlib import Path

from suites import without

from mmalign.evaluation.steps.scored import read_scored
from mmalign.evaluation.suite.cache import digest
from mmalign.evaluation.suite.origins import command, failures_of, lineage_of, origins_of
from mmalign.evaluation.suite.results import read_suite


def test_failures_are_listed_by_reason_with_the_first_ids(suite):
    folder = suite(names=["mm_vet"])
    path = folder / "aligned" / "mm_vet"
    without(read_scored(path), 8, "no answer").write(path)
    (failed,) = failures_of(read_suite(folder, resamples=100))
    assert failed[:4] == ("MM-Vet", "aligned", "no answer", 8)
    assert failed.ids == "fake-0, fake-1, fake-2, fake-3, fake-4 and 3 more"


def test_every_score_is_named_with_its_hash(good):
    origins = origins_of(good)
    assert len(origins) == 2 * len(good.benches)
    sha256 = digest(good.folder / "base" / "mt_bench" / "score.json")
    assert origins[0].score == f"base/mt_bench/score.json, sha256 {sha256[:12]}"
    assert (origins[0].judge, origins[0].protocol, origins[0].compat) == ("fake-judge-0", "mt_bench/fake-1", "strict")


def test_lineage_names_models_shards_and_draws(good):
    lineage = lineage_of(good)
    assert lineage["aligned: adapter"] == "runs/fake"
    assert lineage["shards"] == "fake-pairs sha256 00ff"
    assert lineage["bootstrap"] == "300 paired resamples of the questions, seed 0"


def test_the_command_makes_the_page_again():
    out = Path("my runs/suite")
    told = command(out, Path("run"), Path("page"), {"0.25": Path("quarter")}, paper_values=True)
    words = shlex.split(told)
    assert words[:4] == ["mmalign", "report", "--evaluation", "my runs/suite"]
    assert json.loads(words[words.index("--scaling") + 1]) == {"0.25": "quarter"}
    assert command(out, None, out, {}, paper_values=False) == "mmalign report --evaluation 'my runs/suite'"
