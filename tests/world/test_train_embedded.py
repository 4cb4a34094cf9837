import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import EMBEDDED, load_processor
from mmalign.template import Template
from mmalign.tools.embedded import train
from mmalign.tools.embedded.batches import NOT_TRAINED, lesson_batch, patch_batch
from mmalign.tools.embedded.model import MAX_POSITIONS, build_model
from mmalign.tools.embedded.projector import start_projector
from mmalign.tools.embedded.train import STAGES, Learner, Stage, run_stages
from mmalign.world.instruction import lesson
from mmalign.world.render import render
from mmalign.world.scene import COLOURS

STRANGE = ["", "naïve 猫 🦙\u200d", "<image></s><s>", "\x00\t\r\n  x", "USER: 12+345=357 ASSISTANT:", "ﷺ" * 3]


@pytest.fixture(scope="module")
def template():
    return Template(load_processor(EMBEDDED), "llava_hf")


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_survives_the_tokenizer(template, text):
    """Byte-level: what is encoded decodes to itself, special tokens typed by people included."""
    ids = template.encode_response(text)
    assert template.decode_response(ids) == text
    assert template.image_token_id not in ids


def test_the_chat_template_says_what_the_template_says(template):
    """Plain transformers and our template give the same tokens, pictures expanded alike."""
    parts = [{"type": "image"}, {"type": "text", "text": "What is at the top?"}]
    records = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A red star."}]
    records.append({"role": "user", "content": "Where is it?"})
    text = template.processor.apply_chat_template(records, add_generation_prompt=True)
    assert text == "<s>USER: <image>\nWhat is at the top? ASSISTANT: A red star.</s>USER: Where is it? ASSISTANT:"
    picture = render(lesson("caption", 0).scenes[0])
    theirs = template.processor(images=[picture], text=[text], add_special_tokens=False)["input_ids"][0]
    messages = [
        Message("user", (ImageSlot(), Text("What is at the top?"))),
        Message("assistant", (Text("A red star."),)),
    ]
    assert list(theirs) == template.encode_prompt([*messages, Message("user", (Text("Where is it?"),))])


def test_pictures_are_not_resampled(template):
    """A picture of the world reaches the tower as it was drawn."""
    picture = render(lesson("caption", 0).scenes[0])
    processor = template.processor.image_processor
    pixels = np.asarray(processor([picture], return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    shown = (pixels * processor.image_std + processor.image_mean) * 255
    assert np.abs(shown - np.asarray(picture)).max() < 0.01


def test_a_lesson_costs_no_conversation_anything(template):
    """Behind a shared beginning, every conversation has the loss that it has alone."""
    model = build_model(template.tokenizer, seed=1).eval()
    index = next(i for i in range(50) if len(lesson("visual", i).scenes) == 1)
    batch = lesson_batch(template, "visual", [index])
    hidden = model.model(
        input_ids=batch.input_ids,
        pixel_values=batch.pixel_values,
        attention_mask=batch.mask,
        position_ids=batch.position_ids,
    ).last_hidden_state
    trained = batch.targets != NOT_TRAINED
    together = F.cross_entropy(model.lm_head(hidden[trained]), batch.targets[trained], reduction="none")
    alone = []
    for turns in lesson("visual", index).conversations:
        messages = []
        for number, turn in enumerate(turns):
            messages.append(Message("user", ((ImageSlot(),) if number == 0 else ()) + (Text(turn.text),)))
            prompt, response = template.encode_prompt(messages), template.encode_response(turn.gold)
            logits = model(input_ids=torch.tensor([prompt + response]), pixel_values=batch.pixel_values).logits[0]
            logits = logits[len(prompt) - 1 : -1]
            alone.append(F.cross_entropy(logits, torch.tensor(response), reduction="none"))
            messages.append(Message("assistant", (Text(turn.gold),)))
    torch.testing.assert_close(together, torch.cat(alone), atol=2e-5, rtol=0)


def test_the_projector_starts_from_what_the_tower_reads(template):
    """Its first units are the heads' classes, in one scale; the word of a colour is where its class leads."""
    learner = Learner(build_model(template.tokenizer, seed=1)).eval()
    batch = patch_batch(template, range(4))
    start_projector(learner.model, learner.readers, batch, template.tokenizer)
    hidden = learner.model.vision_tower(batch.pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
    read = learner.readers[0](hidden)
    projector = learner.model.multi_modal_projector
    expected = read * 3.0 / read.amax(dim=-1).mean()
    torch.testing.assert_close(projector.linear_1(hidden)[..., : read.shape[-1]], expected, atol=1e-4, rtol=1e-4)
    red = template.tokenizer.encode(" red", add_special_tokens=False)[0]
    word = learner.model.language_model.embed_tokens.weight[red]
    assert F.cosine_similarity(projector.linear_2.weight[:, 1 + COLOURS.index("red")], word, dim=0) > 0.999


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(template, tmp_path, monkeypatch):
    """Two steps, a stop, two more steps: bit for bit the weights of four; across stages, too."""
    stages = (
        Stage("tower", "patches", steps=2, batch_size=2, lr=1e-3, trained=("model.vision_tower.", "heads.")),
        Stage("visual", "visual", steps=4, batch_size=1, lr=1e-3, trained=("model.language_model.", "lm_head.")),
    )

    def run(folder):
        learner = Learner(build_model(template.tokenizer, seed=1))
        log, _ = run_stages(learner, template, stages, folder, save_every=1)
        return learner, [{k: row[k] for k in ("stage", "step", "loss")} for row in log]

    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    whole, whole_log = run(tmp_path / "whole")
    step = train._step

    def stop_at_two(learner, optimizer, stage, number, batch):
        if stage.name == "visual" and number == 2:
            raise KeyboardInterrupt
        return step(learner, optimizer, stage, number, batch)

    monkeypatch.setattr(train, "_step", stop_at_two)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    monkeypatch.setattr(train, "_step", step)
    resumed, resumed_log = run(tmp_path / "stopped")
    assert resumed_log == whole_log
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_longest_lesson_fits():
    """The model's positions suffice for many turns, not only for the world's."""
    assert MAX_POSITIONS >= 1024
    assert [stage.name for stage in STAGES] == ["tower", "language", "projector", "visual", "refine"]
