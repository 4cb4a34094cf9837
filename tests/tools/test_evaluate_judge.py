"""`mmalign evaluate judge`: from answers through a judge to the published numbers, and what it says on the way."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from graded import Graded
from killed_judge import judge_with_kills, texts_of_all
from mock_api import Canned, MockApi
from mt_bench import stored_answers
from published import published
from replay import ReplayApi, texts_of

from mmalign import cli
from mmalign.api.endpoint import Endpoint
from mmalign.data.records import read_records
from mmalign.evaluation.benchmarks.llava_bench import LlavaBench
from mmalign.evaluation.benchmarks.mm_vet import MMVet
from mmalign.evaluation.benchmarks.mt_bench import MTBench
from mmalign.evaluation.steps.faults import OTHER_PROMPT, UNREADABLE, Handling
from mmalign.evaluation.steps.judging import LibraryJudged
from mmalign.evaluation.steps.reading import read_answers, read_runs
from mmalign.evaluation.steps.records import ANSWERS_FILE, Answer, JudgeReply
from mmalign.evaluation.steps.sources import load
from mmalign.tools.evaluation import judge as command
from mmalign.tools.evaluation.judge import judge_answers

KEY = "sk-very-secret-0123456789"
BENCH = Graded(num=9, following=1)


@pytest.fixture
def said(monkeypatch):
    """Lines that the command prints."""
    lines = list[str]()
    monkeypatch.setattr(command.CONSOLE, "print", lines.append)
    return lines


@pytest.fixture
def given(tmp_path):
    """The folder of BENCH's answers."""
    return write_answers(BENCH.answers(), tmp_path / "given")


def write_answers(answers, folder):
    folder.mkdir(parents=True)
    (folder / ANSWERS_FILE).write_text("".join(json.dumps(each._asdict()) + "\n" for each in answers))
    return str(folder)


def test_mm_vet_through_the_command_line_gives_the_published_total(tmp_path):
    """31.2, rec 37.0, ocr 21.0: the answers, graded over HTTP, then scored."""
    bench = MMVet(questions=str(published("mm_vet", "mm-vet.json")))
    answers = str(published("mm_vet", "llava-v1.5-7b.json"))
    stored = read_runs(bench, str(published("mm_vet", "llava-v1.5-7b_gpt-4-grade-1runs.json")))[0]
    with ReplayApi(texts_of(bench.calls(read_answers(bench, answers)), stored)) as api:
        where = [f"--questions={bench.questions}", f"--answers={answers}", f"--out={tmp_path}"]
        prices = ["--prices.input=30", "--prices.output=60", "--max_cost=50"]
        cli.main(["evaluate", "judge", "mm_vet", *where, f"--url={api.url}", *prices])
        assert (api.count(), api.unknown) == (218, 0)
        assert {body["max_completion_tokens"] for body in api.bodies} == {3}
        assert {body["model"] for body in api.bodies} == {"gpt-4-0613"}
    cli.main(["evaluate", "score", "mm_vet", *where, "--judgments", str(tmp_path)])
    score = json.loads((tmp_path / "score.json").read_text())
    official = {each["name"]: each["official"] for each in score["metrics"]}
    assert (official["total"], official["rec"], official["ocr"]) == (31.2, 37.0, 21.0)
    assert (score["judge"], score["num_scored"], score["failures"]) == ("gpt-4-0613", 218, {})


def test_mm_vet_asks_again_as_its_script_does_warmer_and_warmer(tmp_path, said):
    bench = MMVet(questions=str(published("mm_vet", "mm-vet.json")))
    place = write_answers([Answer("v1_0", ["x is -1 or -5."])], tmp_path / "given")
    with MockApi(answer=lambda body: "0.9" if body["temperature"] == 1.0 else "I would say") as api:
        (file,) = judge_answers(bench, place, tmp_path, url=api.url)
        assert [body["temperature"] for body in api.bodies] == [0.0, 0.0, 0.5, 1.0]
    (reply,) = read_records(file, JudgeReply)
    assert (reply.text, reply.temperature, reply.tries) == ("0.9", 1.0, ["I would say"] * 3)


@pytest.mark.parametrize(("number", "headline"), [(1, 64.7), (2, 65.3), (3, 66.3)])
def test_llava_bench_gives_the_published_number_of_each_run(tmp_path, said, number, headline):
    bench = LlavaBench(questions=str(published("llava_bench", "questions.jsonl")))
    answers = str(published("llava_bench", "answers_llava-v1.5-7b.jsonl"))
    stored = read_runs(bench, str(published("llava_bench", f"llava-v1.5-7b-eval{number}.jsonl")))[0]
    with ReplayApi(texts_of(bench.calls(read_answers(bench, answers)), stored), models=["gpt-4-0314"]) as api:
        judge_answers(bench, answers, tmp_path, url=api.url)
        assert (api.count(), api.unknown) == (60, 0)
    scored = bench.score(read_answers(bench, answers), read_runs(bench, str(tmp_path)), Handling())
    assert scored.headline.official == headline
    assert scored.judge == "gpt-4-0314"


def mt_bench(name):
    """The benchmark, and the judged model's answers as the stored prompts have them."""
    bench = MTBench(
        questions=str(published("mt_bench", "question.jsonl")),
        references=str(published("mt_bench", "reference_answers_gpt-4.jsonl")),
    )
    rows = load(published("mt_bench", name))
    return bench, stored_answers(rows, bench._prompts, bench._questions, bench._references)[0]


def test_mt_bench_gives_the_published_number_by_server_and_by_replay(tmp_path, said):
    """functionary: 6.984, turn 1 7.406, turn 2 6.562; what a server says and what is replayed by prompt is the same."""
    file = "judgment_functionary.jsonl"
    bench, answers = mt_bench(file)
    place, stored = write_answers(answers, tmp_path / "given"), str(published("mt_bench", file))
    with ReplayApi(texts_of(bench.calls(answers), read_runs(bench, stored)[0]), models=["gpt-4"]) as api:
        judge_answers(bench, place, tmp_path / "asked", url=api.url)
        assert (api.count(), api.unknown) == (160, 0)
    judge_answers(bench, place, tmp_path / "replayed", replay=[stored])
    for folder in ("asked", "replayed"):
        scored = bench.score(answers, read_runs(bench, str(tmp_path / folder)), Handling())
        values = [round(scored[name].value, 4) for name in ("average", "turn_1", "turn_2")]
        assert values == [6.9844, 7.4062, 6.5625]
        assert scored.judge == "gpt-4"


def test_a_weak_judges_texts_are_counted_and_none_is_averaged(tmp_path, said):
    """120 of its 160 hold no grade: the mean is that of the 40 others, 7.4."""
    file = "judgments_weak_judge_120_unparsable.jsonl.gz"
    bench, answers = mt_bench(file)
    place, stored = write_answers(answers, tmp_path / "given"), str(published("mt_bench", file))
    with ReplayApi(texts_of(bench.calls(answers), read_runs(bench, stored)[0]), models=["weak"]) as api:
        judge_answers(bench, place, tmp_path, url=api.url, model="weak")
        assert api.count() == 160
    assert f"{tmp_path / 'judgments.jsonl'}: 40 of 160 answers judged by weak; 0 failed, 120 without a score." in said
    runs = read_runs(bench, str(tmp_path))
    with pytest.raises(ValueError, match="120: judge text without a score"):
        bench.score(answers, runs, Handling())
    scored = bench.score(answers, runs, Handling(on_bad="count"))
    assert (scored.headline.value, scored.num_scored) == (7.4, 40)
    assert {reason: len(ids) for reason, ids in scored.failures.items()} == {UNREADABLE: 120}


def test_three_published_runs_are_replayed_as_three(tmp_path, said):
    bench = MMVet(questions=str(published("mm_vet", "mm-vet.json")))
    answers = str(published("mm_vet", "llava-v1.5-7b.json"))
    stored = str(published("mm_vet", "llava-v1.5-7b_gpt-4-grade-3runs.json"))
    files = judge_answers(bench, answers, tmp_path, replay=[stored])
    assert [file.name for file in files] == ["judgments.jsonl", "judgments.1.jsonl", "judgments.2.jsonl"]
    scored = bench.score(read_answers(bench, answers), read_runs(bench, str(tmp_path)), Handling())
    assert (scored.headline.official, len(scored.headline.runs)) == (31.1, 3)


def test_judgments_of_other_answers_are_not_replayed(tmp_path, said):
    bench, answers = mt_bench("judgment_functionary.jsonl")
    changed = [answers[0]._replace(turns=("Something else.", answers[0].turns[1])), *answers[1:]]
    stored = str(published("mt_bench", "judgment_functionary.jsonl"))
    judge_answers(bench, write_answers(changed, tmp_path / "given"), tmp_path, replay=[stored])
    assert any("158 of 160 answers judged by gpt-4; 2 failed, 0 without a score." in line for line in said)
    assert [line for line in said if "failed:" in line] == [
        "  failed: 81/1: no stored judgment",
        "  failed: 81/2: no stored judgment",
    ]
    scored = bench.score(changed, read_runs(bench, str(tmp_path)), Handling(on_bad="count"))
    assert OTHER_PROMPT not in scored.failures
    assert scored.num_scored == 158


def test_it_says_what_came_of_it_and_what_it_took(tmp_path, said, given):
    with ReplayApi(texts_of_all(BENCH), models=["judge-1"]) as api:
        (file,) = judge_answers(BENCH, given, tmp_path, url=api.url)
    assert said[0].startswith("12 calls, ")
    assert "0 replies were kept from before" in said[0]
    assert said[1:] == [f"{file}: 9 of 9 answers judged by judge-1; 0 failed, 0 without a score."]


def test_the_second_start_asks_nothing_and_says_so(tmp_path, said, given):
    with ReplayApi(texts_of_all(BENCH)) as api:
        (first,) = judge_answers(BENCH, given, tmp_path, url=api.url)
        before = first.read_bytes()
        first.unlink()
        said.clear()
        (again,) = judge_answers(BENCH, given, tmp_path, url=api.url)
        assert api.count() == 12
    assert again.read_bytes() == before
    assert "12 replies were kept from before" in said[0]


def test_unanswered_questions_are_counted(tmp_path, said):
    answers = [*BENCH.answers()[:8], Answer("q8", [], failure="no picture")]
    with ReplayApi(texts_of_all(BENCH)) as api:
        judge_answers(BENCH, write_answers(answers, tmp_path / "given"), tmp_path, url=api.url)
    assert said[0] == "1 of 9 answers are failures of the model: no judge is asked about them."
    assert "8 of 8 answers judged" in said[-1]


def test_a_call_without_a_reply_is_named_and_asked_by_the_next_start(tmp_path, said, given):
    fails = Canned(500, {"error": {"message": "Out\x1b[2J of order."}})
    with ReplayApi(texts_of_all(BENCH), script=[fails], models=["judge-1"]) as api:
        judge_answers(BENCH, given, tmp_path, url=api.url, tries=1, concurrency=1)
        assert said[1].endswith("8 of 9 answers judged by judge-1; 1 failed, 0 without a score.")
        assert said[2].startswith("  failed: q0: no reply of the judge at 1 tries, at the last: HTTP 500: Out")
        assert "\x1b" not in said[2]
        assert said[3] == "Where there was no reply there may be one later: run the same command again."
        said.clear()
        judge_answers(BENCH, given, tmp_path, url=api.url)
    assert said[1].endswith("9 of 9 answers judged by judge-1; 0 failed, 0 without a score.")


def test_another_judge_than_the_published_numbers_had_is_said(tmp_path, said, given):
    with ReplayApi(texts_of_all(BENCH), models=["other"]) as api:
        judge_answers(BENCH, given, tmp_path, url=api.url, model="other")
    assert "Published numbers of Sums were graded by judge-1: compare these only with others by other." in said


def test_two_models_under_one_name_are_told_at_once_and_at_the_end(tmp_path, said, given):
    with ReplayApi(texts_of_all(BENCH), models=["gpt-4-0613", "gpt-4-0125-preview"]) as api:
        judge_answers(BENCH, given, tmp_path, url=api.url)
    warnings = [number for number, line in enumerate(said) if line.startswith("WARNING: 2 different judges")]
    assert warnings[0] == 0
    assert warnings[-1] == len(said) - 1


def test_what_a_server_calls_itself_reaches_no_terminal_as_it_is(tmp_path, said, given):
    with ReplayApi(texts_of_all(BENCH), models=["ev\x1b[31mil\x07", "ev\x9bil"]) as api:
        (file,) = judge_answers(BENCH, given, tmp_path, url=api.url, concurrency=1)
    assert {reply.judge for reply in read_records(file, JudgeReply)} == {"ev [31mil", "ev il"}
    assert any(line.startswith("WARNING") for line in said)
    hostile = [JudgeReply(answer.id, "1", judge="ev\x1b\ud83dil", tries=("\ud83d",)) for answer in BENCH.answers()]
    stored = tmp_path / "stored.jsonl"
    stored.write_text("".join(json.dumps(each._asdict()) + "\n" for each in hostile))
    judge_answers(BENCH, given, tmp_path / "replayed", replay=[str(stored)])
    assert all(line.isprintable() for line in said)


def test_a_judge_that_was_stopped_before_its_first_reply_leaves_no_judgments(tmp_path, said, given):
    with MockApi(script=[Canned(401, {"error": {"message": "no"}})] * 9) as api, pytest.raises(ValueError, match="401"):
        judge_answers(BENCH, given, tmp_path, url=api.url, concurrency=1)
    assert not (tmp_path / "judgments.jsonl").exists()


@pytest.mark.parametrize("name", ["pope", "mmbench", "chair", "amber", "world", "text"])
def test_a_benchmark_without_a_judge_has_no_such_step(name, capsys):
    with pytest.raises(ValueError, match="scored without a judge: leave this step out"):
        cli.main(["evaluate", "judge", name, "--answers=x", "--out=y"])
    cli.main(["evaluate", "judge", "--help"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert {"mm_vet", "alpaca_eval"} <= set(listed)
    assert name not in listed


def test_runs_are_asked_anew_and_fewer_ones_leave_no_old_ones(tmp_path, said, given):
    with ReplayApi(texts_of_all(BENCH)) as api:
        files = judge_answers(BENCH, given, tmp_path, url=api.url, runs=3)
        assert api.count() == 36
        assert [file.name for file in files] == ["judgments.jsonl", "judgments.1.jsonl", "judgments.2.jsonl"]
        assert len(read_runs(BENCH, str(tmp_path))) == 3
        judge_answers(BENCH, given, tmp_path, url=api.url, runs=2)
        assert len(read_runs(BENCH, str(tmp_path))) == 2
        judge_answers(BENCH, given, tmp_path, url=api.url, runs=3)
        assert api.count() == 36, "replies were kept"
        with pytest.raises(ValueError, match="model differ"):
            judge_answers(BENCH, given, tmp_path, url=api.url, model="j2", runs=2)
        assert len(read_runs(BENCH, str(tmp_path))) == 3
        judge_answers(BENCH, given, tmp_path, url=api.url, model="j2", runs=2, overwrite=True)
    assert len(read_runs(BENCH, str(tmp_path))) == 2
    assert sorted(path.name for path in tmp_path.glob("*.json*") if path.name != "replies") == [
        "judgments.1.identity.json", "judgments.1.jsonl", "judgments.identity.json", "judgments.jsonl",
    ]  # fmt: skip


def test_answers_and_judgments_may_share_a_folder(tmp_path, said, given):
    with ReplayApi(texts_of_all(BENCH)) as api:
        judge_answers(BENCH, given, Path(given), url=api.url)
    assert len(read_answers(BENCH, given)) == len(read_runs(BENCH, given)[0]) == 9


def test_the_key_goes_to_the_server_and_nowhere_else(tmp_path, said, given, monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    with MockApi(answer=lambda body: f"Your key is {KEY}.") as api:
        judge_answers(BENCH, given, tmp_path, url=api.url, key_env="TEST_KEY")
        assert api.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_text()]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"replay": ["x"], "model": "m", "runs": 2}, r"A replay asks nobody.*`--model`, `--runs`: leave it out"),
        ({"runs": 0}, "`--runs` must be 1 or more"),
        ({"max_tokens": 0}, "`--max_tokens` must be 1 or more"),
        ({"url": "ftp://x"}, "`--url`, or `--server`, must be an address"),
        ({"max_cost": 1.0, "url": "http://localhost:1/v1"}, "`--max_cost` needs the model's prices"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path, given, options, named):
    with pytest.raises(ValueError, match=named):
        judge_answers(BENCH, given, tmp_path, **options)
    assert not (tmp_path / "judgments.jsonl").exists()


@dataclass(frozen=True, kw_only=True)
class ByLibrary(Graded):
    """Its authors' library asks."""

    title: ClassVar[str] = "Library"

    def judge_by_library(self, answers: list[Answer], endpoint: Endpoint, out: Path) -> list[JudgeReply]:
        return [JudgeReply(answer.id, "1", judge=f"{endpoint.model} for {out.name}") for answer in answers]


def test_a_library_that_judges_by_itself_is_given_answers_judge_and_a_folder_for_each_run(tmp_path, said, given):
    bench = ByLibrary(num=9)
    assert isinstance(bench, LibraryJudged)
    assert not isinstance(BENCH, LibraryJudged)
    files = judge_answers(bench, given, tmp_path / "out", model="m", url="http://localhost:1/v1", runs=2)
    assert [{reply.judge for reply in read_records(file, JudgeReply)} for file in files] == [
        {"m for out"},
        {"m for run-1"},
    ]
    with pytest.raises(ValueError, match="model differ"):
        judge_answers(bench, given, tmp_path / "out", model="n", url="http://localhost:1/v1")
    with pytest.raises(ValueError, match=r"library of Library asks in its own way.*`--temperature`"):
        judge_answers(bench, given, tmp_path / "out", temperature=0.5)


def test_every_option_is_documented():
    args = inspect.getdoc(judge_answers).partition("Args:")[2].partition("Returns:")[0]
    assert [name for name in inspect.signature(judge_answers).parameters if f"\n    {name}: " not in args] == []


@pytest.mark.slow
def test_killed_in_the_middle_nothing_that_was_kept_is_asked_again(tmp_path):
    """The full size is in tests/faults/test_evaluating.py."""
    found = judge_with_kills(tmp_path, num=60, kills=1, latency_s=0.02)
    assert found.asked_again == 0
    assert found.requests == found.least + found.lost
    assert [reply.text for reply in found.replies] == [str((0, 0.5, 1)[i % 3]) for i in range(60)]
