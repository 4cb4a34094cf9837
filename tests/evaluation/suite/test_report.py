"""The page's and the table's text: whole, escaped, and the same for the same scores."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from suites import FAKES, GAIN, fake_scored, write_suite

from mmalign.evaluation.steps.scored import read_scored
from mmalign.evaluation.suite.report import write_suite_report

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'{{ 7*7 }}\ud83d\u202e"
EMPTY = ("meta", "img", "br", "link", "line", "path", "use", "rect", "circle")


class Tags(HTMLParser):
    """Checks that what is opened is closed, and collects ids, addresses and handlers."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.addresses, self.names, self.handlers = [], [], [], set(), []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.names.add(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        self.handlers += [name for name in values if name.startswith("on")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop() == tag


def tags_of(page):
    tags = Tags()
    tags.feed(page)
    return tags


def made(folder, to, **options):
    page = write_suite_report(folder, None, to, resamples=100, **options)
    return page.read_text(), (to / "report.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """POPE lost, and its format with it; MMHal has two judges, HallusionBench no score."""
    place = tmp_path_factory.mktemp("report")
    shifts = {**GAIN, "pope": -0.1}
    failed = {"hallusion": "The question file is gone."}
    made = write_suite(place / "suite", shifts=shifts, chatty=["pope"], pictures=place / "pictures", failed=failed)
    path = made / "aligned" / "mmhal"
    replace(read_scored(path), judge="another").write(path)
    return made


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    to = tmp_path_factory.mktemp("page")
    quarter = to / "quarter"
    for fake in FAKES:
        fake_scored(fake, model="fake-quarter", size=60, shift=0.02).write(quarter / "aligned" / fake.name)
    return made(folder, to, scaling={"0.25": quarter}, paper_values=True)


def test_page_is_whole_and_stands_alone(written):
    """Well nested, ids used once, nothing loaded from outside; the one link out is the paper's."""
    tags = tags_of(written[0])
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    outside = {each for each in tags.addresses if not each.startswith(("data:image/jpeg", "#"))}
    assert outside == {"https://arxiv.org/abs/2402.10884"}
    assert {each[1:] for each in tags.addresses if each.startswith("#")} <= set(tags.ids)


def test_page_has_all_that_was_promised(written):
    page, _ = written
    for told in (
        "and lost on POPE",
        "Alignment tax:",
        "POPE lost the short-answer format",
        "Where the models differ most",
        "Pearson between the numbers",
        "percent of the pairs",
        "MM-Vet, by capability",
        "they differ in judge",
        "The question file is gone.",
        "5.99 to 6.73",
        "fake-pairs sha256 00ff",
        "As the official script prints it",
        "would look different by chance alone",
        "--paper_values true",
    ):
        assert told in re.sub(r"<span class=\"number\">([\w-]+)</span>", r"\1", page), told
    assert page.count("<svg") > 20
    assert page.count('<img src="data:image/jpeg') > 20


def test_markdown_has_the_words_the_table_and_the_lineage(written):
    _, text = written
    assert text.startswith("# Alignment gained on ")
    assert "\n\n**Alignment tax.** " in text
    assert "\n- POPE lost the short-answer format" in text
    assert "|  | MT-Bench | AlpacaEval | MM-Vet | LLaVA-Bench | POPE | MMBench |" in text
    assert "## Lineage" in text
    assert "    mmalign report --evaluation " in text


def test_the_papers_values_and_further_models_are_asked_for(suite, tmp_path):
    page, text = made(suite(names=["mt_bench", "pope"]), tmp_path)
    assert "5.99 to 6.73" not in page + text
    assert "curve stands here" in page
    assert "correlation needs at least 3" in page


def test_same_scores_same_page(suite, tmp_path):
    """But for the folder that is named in the command."""
    folder = suite(names=["mm_vet", "pope", "chair"])
    once, again = (made(folder, tmp_path / name) for name in ("once", "twice"))
    assert [text.replace("/once", "") for text in once] == [text.replace("/twice", "") for text in again]


def test_hostile_text_is_text(suite, tmp_path):
    """Whatever answers, judges, reasons and labels are called; also halves of characters, which no file can hold."""
    folder = suite(names=["mm_vet", "pope"], failed={"chair": HOSTILE})
    for side in ("base", "aligned"):
        path = folder / side / "mm_vet"
        scored = read_scored(path)
        items = tuple(
            item._replace(question=HOSTILE, answer=side + HOSTILE, note=HOSTILE, expected=HOSTILE, category=HOSTILE)
            for item in scored.items
        )
        metrics = tuple(replace(metric, label=HOSTILE, description=HOSTILE) for metric in scored.metrics)
        hostile = replace(scored, title="<b>MM-Vet", items=items, metrics=metrics, failures={HOSTILE: [HOSTILE]})
        written = replace(hostile, model=HOSTILE, judge=HOSTILE, protocol=HOSTILE, lineage={HOSTILE: HOSTILE})
        text = write_ascii(written, path)
        assert "\\ud83d" in text
    page, markdown = made(folder, tmp_path)
    tags = tags_of(page)
    assert tags.open == []
    assert tags.handlers == []
    assert not tags.names & {"script", "b0", "iframe"}
    assert "x" not in tags.addresses
    assert "{{ 7*7 }}" in page
    assert "<script" not in page + markdown
    assert "&lt;script&gt;" in page


def write_ascii(scored, path, monkey=pytest.MonkeyPatch):
    """`Scored.write`, as a program that escapes everything would have written it."""
    with monkey.context() as patch:
        dumps = json.dumps
        patch.setattr(json, "dumps", lambda *args, **kw: dumps(*args, **{**kw, "ensure_ascii": True}))
        return scored.write(path).read_text() + (path / "scores.jsonl").read_text()


def test_a_picture_that_is_gone_is_named(suite, tmp_path):
    folder = suite(names=["mm_vet"], pictures=tmp_path / "pictures")
    (tmp_path / "pictures" / "mm_vet.png").unlink()
    page, _ = made(folder, tmp_path / "page")
    assert "No picture: mm_vet.png is not there any more" in page


def test_one_benchmark_makes_a_page(suite, tmp_path):
    page, _ = made(suite(names=["pope"], shifts={}), tmp_path)
    assert "on 1 benchmark</div>" in page
    assert "made no measurable difference on the one benchmark" in page


def test_nothing_comparable_still_makes_a_page(suite, tmp_path):
    folder = suite(names=["pope"])
    path = folder / "aligned" / "pope"
    replace(read_scored(path), protocol="pope/other").write(path)
    page, text = made(folder, tmp_path)
    assert "could not be compared on any benchmark" in page
    assert text.startswith("# Base and aligned could not be compared")


def test_a_run_that_is_not_there_is_an_error(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="No run folder"):
        write_suite_report(folder, tmp_path / "absent", tmp_path)


def test_the_terminals_table_needs_no_torch_and_no_matplotlib():
    code = (
        "import sys, mmalign.evaluation.suite.table, mmalign.evaluation.suite.words;"
        "sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
