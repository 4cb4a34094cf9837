"""Stored judgments are found by what was asked; what is not stored, or stored twice, is a failure."""

import subprocess
import sys
from pathlib import Path

import pytest
from graded import Graded

from mmalign.evaluation.steps.faults import DOUBLY_JUDGED
from mmalign.evaluation.steps.graders import NOT_STORED, ReplayGrader
from mmalign.evaluation.steps.judging import judge
from mmalign.evaluation.steps.records import JudgeReply, prompt_hash

BENCH = Graded(num=6)


def test_stored_judgments_are_found_by_prompt_or_by_id_and_what_is_not_stored_is_a_failure(tmp_path):
    calls = BENCH.calls(BENCH.answers())
    stored = [
        JudgeReply("elsewhere", "1", judge="gpt-4", prompt_hash=prompt_hash(calls[0].messages())),
        JudgeReply("q1", "0.5", judge="gpt-4"),
        JudgeReply("q2", "0", judge="gpt-4", prompt_hash="of another answer"),
        JudgeReply("q3", "0", judge="gpt-4"),
        JudgeReply("q3", "1", judge="gpt-4"),
    ]
    replies = judge(BENCH, BENCH.answers(), ReplayGrader(stored), tmp_path)
    assert [(reply.id, reply.text, reply.failure) for reply in replies] == [
        ("q0", "1", ""),
        ("q1", "0.5", ""),
        ("q2", "", NOT_STORED),
        ("q3", "", DOUBLY_JUDGED),
        ("q4", "", NOT_STORED),
        ("q5", "", NOT_STORED),
    ]


def test_equal_answers_of_two_models_are_one_prompt():
    (call,) = Graded(num=1).calls(Graded(num=1).answers())
    digest = prompt_hash(call.messages())
    stored = [JudgeReply("q0", "1", prompt_hash=digest), JudgeReply("other", "0", prompt_hash=digest)]
    found = list[JudgeReply]()
    ReplayGrader(stored).grade([call], BENCH.is_usable, found.extend)
    assert [reply.text for reply in found] == ["1"]


def test_other_stored_judgments_in_the_same_folder_are_refused(tmp_path):
    judge(BENCH, BENCH.answers(), ReplayGrader([JudgeReply("q0", "1")]), tmp_path)
    with pytest.raises(ValueError, match="replay differ"):
        judge(BENCH, BENCH.answers(), ReplayGrader([JudgeReply("q0", "0")]), tmp_path)


def test_no_torch():
    code = "import sys, mmalign.evaluation.steps.graders; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
