"""The two processes that `dpo_step.py` has run in turns: each takes an optimizer step when it is told to."""

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from synthetic import Shape, batch, config, rows, with_adapters

RANK, ALPHA, BETA, RATE, CLIP = 128, 256, 0.1, 1e-6, 1.0


def write_weights(shape: Shape, folder: Path) -> dict[str, int]:
    """A random LLaVA, and adapters that do something. Returns the number of parameters of each part."""
    torch.manual_seed(0)
    llava = with_adapters(config(shape), rank=RANK, alpha=ALPHA, device="cpu")
    for name, parameter in llava.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    adapters = {name: parameter.data for name, parameter in llava.named_parameters() if parameter.requires_grad}
    save_file(adapters, folder / "adapters.safetensors")
    base = llava.model.unload()
    base.save_pretrained(folder / "llava")
    parts = {"vision tower": base.model.vision_tower, "projector": base.model.multi_modal_projector, "all": base}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return counts | {"adapters, beside": sum(tensor.numel() for tensor in adapters.values())}


def run_ours(shape: Shape, folder: Path, turns: "Turns") -> None:
    """DPO as `mmalign fit` runs it: the LightningModule, Lightning's Trainer, a table of logs."""
    from lightning import Callback, LightningDataModule, Trainer
    from lightning.pytorch.loggers import CSVLogger
    from torch.utils.data import DataLoader, IterableDataset

    from mmalign.backbone import BackboneSettings, Llava
    from mmalign.methods.base import OptimSettings
    from mmalign.methods.dpo import DPO

    class Same(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            while True:
                yield batch(shape)

    class Data(LightningDataModule):
        steps_per_epoch = 10**6

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(Same(), batch_size=None)

    class Conversation(Callback):
        loss: float | None = None

        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            if self.loss is None:
                turns.ready()
            else:
                turns.done(self.loss)
            pl_module.reference = turns.begin()

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
            self.loss = float(outputs["loss"])

    backbone = BackboneSettings(
        checkpoint=str(folder / "llava"), dtype="float32", lora_rank=RANK, lora_alpha=ALPHA, lora_dropout=0.0
    )
    # `live` at first: Lightning would have the store written, which here stands in the batch.
    module = DPO(backbone, OptimSettings(lr=RATE, warmup_ratio=0.0), reference="live", beta=BETA)
    module.llava = Llava(backbone)
    module.llava.load_state_dict(load_file(folder / "adapters.safetensors"), strict=False)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=10**6,
        gradient_clip_val=CLIP,
        logger=CSVLogger(folder),
        log_every_n_steps=1,
        callbacks=[Conversation()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, Data())


def run_trl(shape: Shape, folder: Path, turns: "Turns") -> None:
    """TRL's trainer on the same pairs: each prompt and picture once for each answer."""
    from datasets import Dataset
    from peft import LoraConfig
    from PIL import Image
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from mmalign.backbone import LANGUAGE_LINEARS, load_llava
    from mmalign.processor import load_processor

    class Conversation(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.done(trainer.loss)

    class Trainer(DPOTrainer):
        loss = 0.0

        def training_step(self, *inputs: Any, **more: Any) -> Any:
            loss = super().training_step(*inputs, **more)
            self.loss = float(loss)
            return loss

    example = {"images": [Image.new("RGB", (8, 8))], "prompt": "<image>", "chosen": "a", "rejected": "b"}
    trainer = Trainer(
        model=load_llava(str(folder / "llava"), dtype=torch.float32),
        args=DPOConfig(
            output_dir=str(folder / "trl"),
            beta=BETA,
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            per_device_train_batch_size=shape.pairs,
            max_length=None,
            disable_dropout=True,
            max_steps=10**6,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            max_grad_norm=CLIP,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            report_to=[],
        ),
        train_dataset=Dataset.from_list([example] * (50 * shape.pairs)),  # a new epoch only every 50 steps
        data_collator=lambda _: separate_sequences(shape),
        processing_class=load_processor("embedded"),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=LANGUAGE_LINEARS),
        callbacks=[Conversation()],
    )
    adapters = load_file(folder / "adapters.safetensors")
    result = trainer.model.load_state_dict({n.removeprefix("model."): t for n, t in adapters.items()}, strict=False)
    assert not result.unexpected_keys
    turns.ready()
    trainer.train()


def separate_sequences(shape: Shape) -> dict[str, torch.Tensor]:
    """The same pairs as TRL collates them: all chosen sequences, then all rejected ones, the pictures twice."""
    order = [(row, side) for side in (0, 1) for row in rows(shape)]
    tokens = torch.tensor([row.prompt + row.answers[side].ids for row, side in order])
    completion = torch.tensor([[0] * len(row.prompt) + [1] * len(row.answers[side].ids) for row, side in order])
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "completion_mask": completion,
        "pixel_values": torch.cat([row.pixel_values for row, _ in order]),
    }


class Turns:
    """A worker's side of the conversation: orders come in on stdin, JSON goes out on what was stdout."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # libraries may print
        self._began = self._busy = 0.0

    def begin(self) -> str:
        """Wait for an order; the clock starts when it has come. `stop` ends this process here and now."""
        order = sys.stdin.readline().strip()
        if order in ("stop", ""):  # nothing: the conductor is gone
            self.say(memory=peak_memory())
            os._exit(0)
        self._began, self._busy = time.perf_counter(), time.process_time()
        return order

    def done(self, loss: float) -> None:
        """Report the step that has just ended."""
        self.say(seconds=time.perf_counter() - self._began, cpu=time.process_time() - self._busy, loss=loss)

    def say(self, **values: float) -> None:
        """Report."""
        print(json.dumps(values), file=self._out, flush=True)

    def ready(self) -> None:
        """Everything is loaded."""
        self.say(memory=peak_memory())


def peak_memory() -> float:
    """GiB that this process has ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
