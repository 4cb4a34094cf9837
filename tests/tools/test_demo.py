import pytest
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console

from mmalign.backbone import LANGUAGE_LINEARS, load_llava
from mmalign.tools.demo import DemoError, _run_step, choose_question
from mmalign.tools.demo_serve import ask, served

TASK = "world/heldout/describe/000000"


def test_question_is_the_first_that_alignment_mended(tmp_path):
    """By rule, not by hand: the first mended one, in the order of the tasks."""
    from mmalign.evaluation.answers import Answer
    from mmalign.world.tasks import task

    answers = []
    for number in range(4):
        asked = task(f"world/heldout/describe/{number:06d}")
        answers.append(Answer(asked.id, asked.kind, asked.question.text, asked.gold, asked.gold))
    assert choose_question(answers) == answers[0]
    false = " There is a purple cross and a black moon."
    answers[2:] = [answer._replace(base=answer.base + false) for answer in answers[2:]]
    assert choose_question(answers[::-1]) == answers[2]


def test_no_description_is_an_error():
    with pytest.raises(DemoError, match="no description"):
        choose_question([])


@pytest.mark.slow
def test_failed_step_names_the_command():
    with pytest.raises(DemoError, match=r"`mmalign export --run nowhere --out x` ended with exit status 1"):
        _run_step(Console(), "1/1", "export --run nowhere --out x")


@pytest.mark.slow
def test_served_model_answers_as_base_and_as_adapter(tiny_llava, tmp_path):
    torch.manual_seed(3)
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=LANGUAGE_LINEARS, init_lora_weights=False)
    get_peft_model(load_llava(tiny_llava, dtype=torch.float32), lora).save_pretrained(tmp_path / "adapter")
    with served(tiny_llava, "llava_hf", {"dpo": tmp_path / "adapter"}, log=tmp_path / "log") as server:
        answers = [ask(server, model, TASK) for model in ("base", "dpo", "base")]
    assert answers[0] == answers[2] != answers[1]


@pytest.mark.slow
def test_server_that_does_not_start_says_why(tmp_path):
    with (
        pytest.raises(ValueError, match=r"ended with exit status 1. The end of its log"),
        served(str(tmp_path / "absent"), "llava_hf", {}, log=tmp_path / "log"),
    ):
        pass
