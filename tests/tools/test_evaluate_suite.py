"""`mmalign evaluate --suite` and its report, through the command line: a random LLaVA and adapter, a mock judge."""

import json

import pytest
import torch
import yaml
from mock_api import MockApi
from peft import LoraConfig, get_peft_model

from mmalign.backbone import LANGUAGE_LINEARS, load_llava
from mmalign.cli import main
from mmalign.evaluation.benchmarks.registry import BENCHMARKS
from mmalign.evaluation.steps.generating_local import PolicyAnswerer
from mmalign.evaluation.steps.scored import read_scored
from mmalign.evaluation.suite.results import read_suite
from mmalign.tools.evaluation.suite_file import read_suite_file

pytestmark = pytest.mark.slow

QUESTIONS = {
    "v1_0": {"imagename": "a.png", "question": "What colour is it?", "answer": "red", "capability": ["rec"]},
    "v1_1": {"imagename": "b.png", "question": "Which word?", "answer": "stop<OR>halt", "capability": ["ocr", "rec"]},
}


@pytest.fixture(scope="module")
def adapter(tiny_llava, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(3)
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=LANGUAGE_LINEARS, init_lora_weights=False)
    get_peft_model(load_llava(tiny_llava, dtype=torch.float32), lora).save_pretrained(folder)
    (folder / "lineage.json").write_text(json.dumps({"base": tiny_llava, "template": "llava_hf"}))
    return str(folder)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """A random model never ends its answers."""
    monkeypatch.setattr("mmalign.evaluation.benchmarks.world.ANSWER_TOKENS", 8)


@pytest.fixture(scope="module")
def judge():
    with MockApi(answer=lambda body: "0.5") as api:
        yield api


@pytest.fixture
def data(tmp_path, png):
    """Data of MM-Vet in its authors' layout."""
    folder = tmp_path / "data/mm-vet"
    (folder / "images").mkdir(parents=True)
    (folder / "mm-vet.json").write_text(json.dumps(QUESTIONS))
    for name, colour in (("a.png", "red"), ("b.png", "white")):
        (folder / "images" / name).write_bytes(png(colour))
    return folder.parent


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "suite.yaml"
    mm_vet = {"questions": "{data}/mm-vet/mm-vet.json", "images": "{data}/mm-vet/images"}
    path.write_text(yaml.safe_dump({"world": {"describe": 3, "yes_no": 6, "text": 3, "other": 2}, "mm_vet": mm_vet}))
    return str(path)


@pytest.fixture
def evaluate(tiny_llava, adapter, data, suite, judge, tmp_path):
    def run(*options, out=tmp_path / "out"):
        models = ["--checkpoint", tiny_llava, "--adapter", adapter, "--data", str(data)]
        asked = ["--judge.url", judge.url, "--judge.model", "judge-1"]
        given = ["--suite", suite, "--out", str(out), "--batch_size", "6", "--resamples", "100", *models, *asked]
        return main(["evaluate", *given, *options])

    return run


def test_a_suite_runs_on_base_and_aligned_and_makes_a_page(evaluate, tmp_path, capsys):
    evaluate()
    out = tmp_path / "out"
    results = read_suite(out)
    assert [bench.name for bench in results.benches] == ["mm_vet", "world"]
    assert results["mm_vet"].headline.base.value == 0.5
    assert "MM-Vet" in capsys.readouterr().out
    main(["report", "--evaluation", str(out)])
    page = (out / "report.html").read_text()
    assert all(word in page for word in ("MM-Vet", "Embedded world", "judge-1", "adapter_hash", "training: template"))
    assert "MM-Vet" in (out / "report.md").read_text()


def test_run_again_nothing_is_asked_twice(evaluate, judge, tmp_path, monkeypatch):
    evaluate()
    calls = len(judge.asked)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("score*.json*")}
    monkeypatch.setattr(PolicyAnswerer, "answer", lambda *asked: pytest.fail("it is asked again"))
    evaluate()
    assert len(judge.asked) == calls
    assert {path: path.read_bytes() for path in before} == before


def test_a_benchmark_that_cannot_be_run_is_named_and_the_others_are_there(evaluate, data, tmp_path):
    (data / "mm-vet/images/b.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 benchmarks have no score:\n  mm_vet: (?s:.*)b\.png"):
        evaluate()
    assert read_scored(tmp_path / "out/aligned/world").num_scored == 14
    main(["report", "--evaluation", str(tmp_path / "out")])
    assert "b.png" in (tmp_path / "out/report.html").read_text()


def test_a_file_that_is_not_there_is_named_first_and_the_others_go_on(evaluate, data, tmp_path, capsys):
    (data / "mm-vet/mm-vet.json").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 benchmarks have no score:\n  mm_vet: No file .*mm-vet\.json"):
        evaluate()
    assert capsys.readouterr().out.startswith("MM-Vet: No file")
    assert read_scored(tmp_path / "out/aligned/world").num_scored == 14


def test_what_fails_later_has_no_score_of_before(evaluate, data, tmp_path):
    """Other pictures, so other questions: what stands there is of the old ones."""
    evaluate()
    (data / "mm-vet/images/a.png").write_bytes((data / "mm-vet/images/b.png").read_bytes())
    with pytest.raises(ValueError, match=r"mm_vet: .*pictures differ"):
        evaluate()
    assert not (tmp_path / "out/base/mm_vet/score.json").exists()
    assert "pictures differ" in read_suite(tmp_path / "out")["mm_vet"].problem


def test_benchmarks_one_after_another_end_in_one_page(evaluate, tmp_path):
    evaluate("--only", "[mm_vet]")
    evaluate("--only", "[world]")
    assert [bench.name for bench in read_suite(tmp_path / "out").benches if bench.headline] == ["mm_vet", "world"]


def test_one_judge_is_asked_for_base_and_aligned(evaluate, judge, tmp_path):
    evaluate("--only", "[mm_vet]")
    assert {read_scored(tmp_path / "out" / who / "mm_vet").judge for who in ("base", "aligned")} == {
        "judge-1-mock"
    }  # as it names itself


def test_the_base_is_shared(evaluate, judge, tmp_path):
    evaluate("--base_folder", str(tmp_path / "base"), "--only", "[mm_vet]", out=tmp_path / "one")
    score = (tmp_path / "one/base/mm_vet/score.json").read_bytes()
    calls = len(judge.asked)
    evaluate("--base_folder", str(tmp_path / "base"), "--only", "[mm_vet]", out=tmp_path / "two")
    assert len(judge.asked) == calls + len(QUESTIONS)  # of the aligned model only
    assert (tmp_path / "two/base/mm_vet/score.json").read_bytes() == score
    assert read_suite(tmp_path / "two")["mm_vet"].headline is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popes": {}}, "No benchmark 'popes'"),
        ({"pope": {"question": "x"}}, "evaluate score pope --help"),
        (["pope"], "is no suite"),
        ({"mm_vet": {"questions": "{data}/x"}}, "name its folder with `--data`"),
        ({}, "is no suite"),
        ({"../up": {"benchmark": "world"}}, "cannot be a benchmark's name"),
    ],
)
def test_a_broken_suite_is_refused(tmp_path, adapter, settings, message):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match=message):
        main(["evaluate", "--suite", str(tmp_path / "own.yaml"), "--out", str(tmp_path), "--adapter", adapter])


def test_what_the_judge_lacks_is_said_before_anything_is_answered(adapter, suite, data, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="OPENAI_API_KEY must hold the API key"):
        main(["evaluate", "--suite", suite, "--data", str(data), "--out", str(tmp_path / "out"), "--adapter", adapter])
    assert not (tmp_path / "out").exists()


def test_what_a_server_does_not_obey_is_refused(suite, data, tmp_path):
    served = ["--served.url", "http://127.0.0.1:1/v1", "--served.aligned", "dpo", "--dtype", "bfloat16"]
    with pytest.raises(ValueError, match="leave `--dtype` out"):
        main(["evaluate", "--suite", suite, "--data", str(data), "--out", str(tmp_path), *served])


def test_the_aligned_model_must_be_named(suite, data, tmp_path):
    with pytest.raises(ValueError, match=r"either `--adapter DIR`, or `--served\.url`"):
        main(["evaluate", "--suite", suite, "--data", str(data), "--out", str(tmp_path)])


@pytest.mark.parametrize("name", ["paper", "embedded"])
def test_shipped_suites_can_be_read(name, tmp_path):
    entries = read_suite_file(name, tmp_path)
    assert all(entry.bench.name == label for label, entry in entries.items())
    assert (set(entries) == set(BENCHMARKS) - {"world", "llava_table"}) == (name == "paper")
