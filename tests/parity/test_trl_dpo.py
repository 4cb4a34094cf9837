"""DPO equals TRL's `DPOTrainer` on the same LLaVA, batch and adapters: loss, rewards and gradients to 1e-5 relative."""

import io

import pytest
import torch
from PIL import Image

from mmalign.backbone import LANGUAGE_LINEARS, BackboneSettings, Llava, load_llava
from mmalign.batch import Role
from mmalign.data.collate import Collator
from mmalign.data.rows import Answer, Row, RowEncoder
from mmalign.messages import ImageSlot, Message, Text
from mmalign.methods.base import OptimSettings
from mmalign.methods.dpo import DPO
from mmalign.processor import load_processor
from mmalign.template import Template

PAIRS = [
    ("red", "What do you see?", "A red circle.", "A blue square, a green star and more."),
    ("green", "Which colour, say?", "Green, I would say.", "No"),
    ("blue", "What?", "There is a big blue star.", "There is a big red star."),
]
BETA = 0.3


@pytest.fixture(scope="module")
def trl_run(tiny_llava, png, tmp_path_factory):
    """TRL's trainer after one backward pass with adapters that do something: itself, its loss and its gradients."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from peft import LoraConfig

    processor = load_processor(tiny_llava)
    rows = [
        {
            "images": [Image.open(io.BytesIO(png(color)))],
            "prompt": f"<s>USER: <image>\n{question} ASSISTANT:",
            "chosen": f" {chosen}</s>",
            "rejected": f" {rejected}</s>",
        }
        for color, question, chosen, rejected in PAIRS
    ]
    trainer = trl.DPOTrainer(
        model=load_llava(tiny_llava, dtype=torch.float32),
        args=trl.DPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            beta=BETA,
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            per_device_train_batch_size=len(PAIRS),
            max_length=None,
            disable_dropout=True,
            report_to=[],
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
        peft_config=LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=LANGUAGE_LINEARS),
    )
    torch.manual_seed(3)
    for name, p in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)  # a reward is a difference of sums: small ones would be all rounding
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    return trainer, loss


@pytest.fixture(scope="module")
def our_run(trl_run, tiny_llava, png):
    """Our module with TRL's adapters after one backward pass on the same pairs."""
    trainer, _ = trl_run
    backbone = BackboneSettings(
        checkpoint=tiny_llava, template="llava_hf", dtype="float32", lora_rank=4, lora_alpha=8, lora_dropout=0.0
    )
    module = DPO(backbone, OptimSettings(lr=1.0), reference="live", beta=BETA)
    module.llava = Llava(backbone)
    theirs = {f"model.{name}": p for name, p in trainer.model.named_parameters() if p.requires_grad}
    module.llava.load_state_dict(theirs, strict=False)
    encode = RowEncoder(Template(load_processor(tiny_llava), "llava_hf"), max_length=512)
    rows = [
        Row(
            question,
            (Message("user", (ImageSlot(), Text(question))),),
            (png(color),),
            (Answer(chosen, Role.CHOSEN), Answer(rejected, Role.REJECTED)),
        )
        for color, question, chosen, rejected in PAIRS
    ]
    loss, metrics = module.compute_loss(Collator(pad_token_id=0)([encode(row) for row in rows]))
    loss.backward()
    return module, loss, metrics


def test_loss(trl_run, our_run):
    torch.testing.assert_close(our_run[1], trl_run[1], rtol=1e-5, atol=0)
    assert abs(our_run[1].item() - 0.693147) > 0.01, "at the reference the comparison would prove nothing"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("chosen_rewards", "rewards/chosen"),
        ("rejected_rewards", "rewards/rejected"),
        ("reward_margin", "rewards/margins"),
        ("reward_accuracy", "rewards/accuracies"),
        ("chosen_logps", "logps/chosen"),
        ("rejected_logps", "logps/rejected"),
    ],
)
def test_rewards_and_logps(trl_run, our_run, ours, theirs):
    expected = trl_run[0]._metrics["train"][theirs][0]
    assert float(our_run[2][ours].value) == pytest.approx(expected, rel=1e-5)


def test_gradient_of_every_adapter(trl_run, our_run):
    theirs = {f"model.{name}": p.grad for name, p in trl_run[0].model.named_parameters() if p.grad is not None}
    ours = {name: p.grad for name, p in our_run[0].llava.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    assert len(ours) == 28
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() <= 1e-5 * theirs[name].norm(), name
