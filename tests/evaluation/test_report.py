import re
from html.parser import HTMLParser

import pytest

from mmalign.data.records import RecordFile
from mmalign.evaluation.answers import ANSWERS_FILE, Answer
from mmalign.evaluation.paired import compare
from mmalign.evaluation.report import write_report
from mmalign.evaluation.scores import Scores
from mmalign.evaluation.world import measures

FALSE = " There is a purple cross and a black moon."


@pytest.fixture
def evaluation(tmp_path, small_answers):
    """An evaluation folder whose base makes things up, and whose aligned model does not."""
    answers = [a._replace(base=a.base + FALSE) if a.kind == "describe" else a for a in small_answers]
    answers[0] = answers[0]._replace(aligned="<script>alert(1)</script>")
    folder = tmp_path / "evaluation"
    RecordFile(folder / ANSWERS_FILE, Answer, {"x": "y"}).append(answers)
    comparisons = tuple(compare(measure, resamples=200) for measure in measures(answers))
    Scores(
        suite="world", comparisons=comparisons, lineage={"adapter_hash": "sha256 12"}, resamples=200, level=0.95
    ).write(folder)
    return folder


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run" / "logs" / "version_0"
    folder.mkdir(parents=True)
    rows = [f"0,{step},{0.7 - step / 100},{step / 10}" for step in range(20)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,step,train/loss,train/reward_margin", *rows]) + "\n")
    return tmp_path / "run"


class Tags(HTMLParser):
    """Checks that what is opened is closed, and collects ids and addresses."""

    EMPTY = ("meta", "img", "br", "link", "line", "path", "use", "rect", "circle")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def test_page_is_whole_and_stands_alone(evaluation, run):
    """Well nested, ids used once, nothing loaded from outside."""
    page = write_report(evaluation, run, run).read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert all(address.startswith(("data:image/png", "#")) for address in tags.addresses)


def test_page_says_the_findings_and_where_they_come_from(evaluation, run):
    page = write_report(evaluation, run, run).read_text()
    assert "fewer objects</h1>" in page
    assert "sha256 12" in page
    assert page.count("<svg") > 2
    assert page.count('<img src="data:image/png') >= 4
    assert 'purple cross</mark> and a <mark title="not in the picture">black moon</mark>' in page
    assert re.search(r"Mended: 1[12]", page)


def test_an_answer_cannot_put_html_into_the_page(evaluation, run):
    page = write_report(evaluation, run, run).read_text()
    assert "<script" not in page


def test_same_input_same_page(evaluation, run, tmp_path):
    once, again = (write_report(evaluation, run, tmp_path / name).read_bytes() for name in ("once", "again"))
    assert once == again


def test_markdown_has_the_table(evaluation, tmp_path):
    write_report(evaluation, None, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# After alignment")
    assert "| Objects made up (CHAIR_i) | 12 |" in text


def test_page_without_a_run_says_so(evaluation, tmp_path):
    assert "No run was named" in write_report(evaluation, None, tmp_path).read_text()


def test_missing_scores_and_runs_are_named(evaluation, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No scores.json"):
        write_report(tmp_path, None, tmp_path)
    with pytest.raises(FileNotFoundError, match="No run folder"):
        write_report(evaluation, tmp_path / "absent", tmp_path)
