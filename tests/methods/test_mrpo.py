"""MRPO against DPO: references that agree are one; one that differs changes the loss by the paper's formula."""

import pytest
import torch

from mmalign.backbone import BackboneSettings, Llava
from mmalign.batch import PairLogps
from mmalign.losses.dpo import dpo_loss
from mmalign.losses.mrpo import multi_reference
from mmalign.methods.base import OptimSettings
from mmalign.methods.mrpo import MRPO

BACKBONE = BackboneSettings(checkpoint="unread")


def adapter(tiny_llava, folder, std):
    """A PEFT folder on the tiny model: the base itself where `std` is 0."""
    llava = Llava(BackboneSettings(checkpoint=tiny_llava, dtype="float32", lora_rank=4, lora_alpha=8))
    torch.manual_seed(1)
    for name, parameter in llava.named_parameters():
        if "lora_B" in name and std:
            torch.nn.init.normal_(parameter, std=std)
    llava.save(folder)
    return folder


@pytest.mark.slow
def test_equal_references_are_dpo(fit, logged, adapter_of, tiny_llava, tmp_path):
    """A second reference that is the base again changes nothing: losses and weights of a DPO run."""
    same = adapter(tiny_llava, tmp_path / "same", std=0)
    options = ("--trainer.max_epochs=1", "--model.optim.lr=1e-3")
    one = fit(*options, run_dir=tmp_path / "dpo")
    two = fit(*options, f"--model.adapters=[{same}]", config="mrpo.yaml", run_dir=tmp_path / "mrpo")
    a, b = logged(tmp_path / "dpo"), logged(tmp_path / "mrpo")
    assert list(b.values()) == pytest.approx(list(a.values()), abs=1e-5)
    expected, found = adapter_of(one), adapter_of(two)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_each_reference_has_a_store_and_the_formula_mixes_them(fit, tiny_llava, tmp_path):
    """On one batch of the trained run: the loss is dpo_loss with multi_reference of both lines."""
    other = adapter(tiny_llava, tmp_path / "other", std=0.1)
    trained = fit("--trainer.max_epochs=1", f"--model.adapters=[{other}]", config="mrpo.yaml")
    batch, _ = trained.datamodule.preview()
    lines = batch.reference_logps
    assert lines.shape == (2, len(batch.targets))
    assert not torch.allclose(lines[0], lines[1])
    module = trained.model.eval()
    with torch.no_grad():
        loss, _ = module.compute_loss(batch)
        sums = [
            torch.stack([line[batch.response_index == i].sum() for i in range(batch.num_responses)])
            for line in (*lines, _policy(module, batch))
        ]
    first, second, policy = (PairLogps(each[0::2], each[1::2]) for each in sums)
    reference = multi_reference(references=[first, second], eta=0.1)
    expected = dpo_loss(policy=policy, reference=reference, beta=0.1).losses.mean()
    torch.testing.assert_close(loss, expected)


def _policy(module, batch):
    from mmalign.logps import token_logps

    return token_logps(module.llava, batch)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"adapters": []}, "needs a reference besides"),
        ({"adapters": ["a"], "alphas": [0.5, 0.6]}, "2 weights of at least 0 with sum 1"),
        ({"adapters": ["a", "b"], "code_alpha": True}, "exactly one of `model.adapters`"),
        ({"adapters": ["a", "a"]}, "one folder twice"),
        ({"adapters": ["a"], "eta": 1.0}, r"\[0, 1\)"),
    ],
)
def test_references_that_do_not_fit_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        MRPO(BACKBONE, OptimSettings(lr=1.0), **options)
