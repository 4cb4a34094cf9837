"""lm_eval's tasks on our models: tiny tasks in files, the embedded model, a mock of an endpoint."""

import json

import pytest
import torch
from lm_eval.tasks import TaskManager as OwnTasks
from mock_api import MockApi, words

from mmalign.api.endpoint import Endpoint
from mmalign.data.records import RecordFile
from mmalign.evaluation.benchmarks.text import TextKnowledge
from mmalign.evaluation.benchmarks.text_models import Decoding, Done, PolicyLM
from mmalign.evaluation.benchmarks.text_run import REQUESTS_FILE, run_text
from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.steps.reading import read_answers, read_runs
from mmalign.sampling.policy import load_policy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of lm_eval's libraries, in their own code
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
COLORS = ("red", "green", "blue", "yellow")
CHOICE = """task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
WRITTEN = """task: tiny_written
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["\\n", "."], max_gen_toks: 12, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder with two tasks on eight questions."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"question": f"What colour is thing {i}?", "choices": list(COLORS), "answer": i % 4} for i in range(8)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "choice.yaml").write_text(CHOICE.format(data=data))
    (folder / "written.yaml").write_text(WRITTEN.format(data=data))
    return str(folder)


@pytest.fixture(autouse=True)
def no_inventory(monkeypatch):
    """lm_eval lists the machine and all packages, by programs, after each run: seconds, and nothing of ours."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture(scope="module")
def policy():
    return load_policy("embedded")


def bench(tasks, *names, **more):
    return TextKnowledge(tasks=list(names) or ["tiny_choice", "tiny_written"], task_definitions=tasks, **more)


def test_the_scores_are_the_librarys_and_the_files_are_ours(tasks, policy, tmp_path):
    out = tmp_path / "out"
    asked = bench(tasks)
    found = asked.score(*run_text(asked, policy, out), Handling())
    said = json.loads((out / "results.json").read_text())["results"]
    assert found["tiny_choice/acc"].official == said["tiny_choice"]["acc,none"]
    assert found["tiny_choice/acc_norm"].official == said["tiny_choice"]["acc_norm,none"]
    assert found["tiny_written/exact_match"].official == said["tiny_written"]["exact_match,none"]
    assert found.headline.value == pytest.approx(
        (said["tiny_choice"]["acc,none"] + said["tiny_written"]["exact_match,none"]) / 2
    )
    assert (found.num_scored, found.model) == (16, "embedded")
    assert {item.answer for item in found.items if item.category == "tiny_choice"} <= set(COLORS)
    again = asked.score(read_answers(asked, str(out)), read_runs(asked, str(out)), Handling())
    assert [each.value for each in again.metrics] == [each.value for each in found.metrics]


@pytest.mark.parametrize("chat", [False, True])
def test_nothing_depends_on_the_batch_size_and_nothing_is_done_twice(tasks, policy, tmp_path, monkeypatch, chat):
    asked = bench(tasks, chat=chat)
    one = run_text(asked, policy, tmp_path / "one", batch_size=1)
    many = run_text(asked, policy, tmp_path / "many", batch_size=16)
    assert one == many
    values = [
        {
            each["id"]: each["value"]
            for each in map(json.loads, (tmp_path / name / REQUESTS_FILE).read_text().splitlines())
        }
        for name in ("one", "many")
    ]
    assert values[0].keys() == values[1].keys()
    pairs = [(values[0][key][0], values[1][key][0]) for key in values[0] if isinstance(values[0][key], list)]
    assert [a for a, _ in pairs] == pytest.approx([b for _, b in pairs], abs=1e-4)

    lines = (tmp_path / "many" / REQUESTS_FILE).read_text().splitlines(keepends=True)
    (tmp_path / "many" / REQUESTS_FILE).write_text("".join(lines[:20]))  # killed there
    done = []
    score = PolicyLM._score
    monkeypatch.setattr(PolicyLM, "_score", lambda self, rows: done.extend(rows) or score(self, rows))
    assert run_text(asked, policy, tmp_path / "many") == one
    assert len(done) == 32 - 20
    run_text(asked, policy, tmp_path / "many")
    assert len(done) == 32 - 20


def test_log_probabilities_equal_a_plain_forward_pass(policy, tmp_path):
    """Continuation " red" behind `<s>The colour is`, token by token from the logits of the whole text."""
    lm = PolicyLM(policy, RecordFile(tmp_path / REQUESTS_FILE, Done, {}), batch_size=4)
    context, continuation = lm._encode_pair("The colour is", " red and green")
    ((logp, greedy),) = lm._loglikelihood_tokens([(("The colour is", " red and green"), context, continuation)])
    ids = torch.tensor([context + continuation])
    with torch.no_grad():
        logits = policy.model(input_ids=ids).logits[0].double().log_softmax(-1)
    places = range(len(context) - 1, ids.shape[1] - 1)
    assert logp == pytest.approx(sum(float(logits[i, ids[0, i + 1]]) for i in places), abs=1e-4)
    assert greedy == all(int(logits[i].argmax()) == int(ids[0, i + 1]) for i in places)


def test_a_text_longer_than_the_context_loses_its_beginning(policy, tmp_path):
    lm = PolicyLM(policy, RecordFile(tmp_path / REQUESTS_FILE, Done, {}))
    long = lm.tok_encode("word " * 2 * policy.context)
    found = lm._loglikelihood_tokens([(("long", " red"), long, [5, 6]), (("short", " red"), long[:4], [5, 6])])
    assert all(logp < 0 for logp, _ in found)


def test_an_endpoint_writes_answers(tasks, tmp_path):
    asked = bench(tasks, "tiny_written")
    with MockApi(answer=lambda body: COLORS[int(words(body)[-2]) % 4] + ". Sure.") as api:
        endpoint = Endpoint(model="m", url=api.url)
        found = asked.score(*run_text(asked, endpoint, tmp_path / "out"), Handling())
        assert found.headline.value == 1
        assert (found["words"].value, found.model) == (1, "m")
        run_text(asked, endpoint, tmp_path / "out")
        assert api.count() == 8


def test_an_endpoint_has_no_log_probabilities(tasks, tmp_path):
    with pytest.raises(ValueError, match="tiny_choice needs log-probabilities"):
        run_text(bench(tasks, "tiny_choice"), Endpoint(model="m", url="http://127.0.0.1:9/v1"), tmp_path / "out")


def test_an_unknown_task_is_named(tasks, policy, tmp_path, monkeypatch):
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **more: OwnTasks(**more | {"include_defaults": False}))
    with pytest.raises(ValueError, match=r"no task tiny_chioce.*--task_definitions"):
        run_text(bench(tasks, "tiny_chioce"), policy, tmp_path / "out")


def test_results_of_another_model_are_not_mixed(tasks, policy, tmp_path):
    run_text(bench(tasks, "tiny_choice"), policy, tmp_path / "out")
    with pytest.raises(ValueError, match="--overwrite"):
        run_text(bench(tasks, "tiny_choice", chat=True), policy, tmp_path / "out")


def test_data_that_is_gone_is_an_error_that_says_what_to_do(tasks, policy, tmp_path):
    (tmp_path / "data.jsonl").unlink()
    with pytest.raises(ValueError, match="cannot read the data of tiny_choice"):
        run_text(bench(tasks, "tiny_choice"), policy, tmp_path / "out")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"until": ["a", "b"], "max_gen_toks": 5}, Decoding(("a", "b"), 5, 0.0)),
        ({"until": "a", "do_sample": True, "temperature": 0.7}, Decoding(("a",), 256, 0.7)),
        ({"temperature": 0.7, "do_sample": False}, Decoding((), 256, 0.0)),
    ],
)
def test_decoding_is_as_the_task_wants(wanted, found):
    assert Decoding.of(wanted) == found


def test_an_answer_ends_before_its_first_stop():
    assert Decoding(("\n", "."), 9, 0.0).cut("Red. Blue\n") == "Red"
