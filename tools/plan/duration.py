"""How long a run takes: the operations of `mmalign/flops.py` over a speed that was measured or is stated."""

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from peft import get_peft_model
from transformers import LlavaForConditionalGeneration

from mmalign.architecture import image_tokens
from mmalign.backbone import BackboneSettings, Llava, fresh_config
from mmalign.batch import Batch
from mmalign.flops import training_flops
from mmalign.plan import Run

PEAK_TFLOPS = 312.0
"""Of bfloat16 products of a GPU where there is none to ask: NVIDIA's figure for its A100."""
MFU = 0.4
"""Share of the peak that a training step reaches, where nothing is measured."""


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long a run takes, as far as it is known."""

    flops: int
    """Operations of an optimizer step, all ranks together."""
    flops_per_s: float | None
    """Of all ranks."""
    rate_from: str
    steps: int | None
    """Of the whole run."""

    @property
    def step_s(self) -> float | None:
        """Seconds of an optimizer step."""
        return self.flops / self.flops_per_s if self.flops_per_s else None

    @property
    def hours(self) -> float | None:
        """Of the whole run, without validation and checkpoints."""
        return self.steps * self.step_s / 3600 if self.steps and self.step_s else None


def step_flops(run: Run, settings: BackboneSettings, *, rows: int) -> int:
    """Operations of an optimizer step on typical rows, from the model's shapes alone.

    Args:
        run: Says how long rows are.
        settings: Of the adapters.
        rows: Of the step, over all ranks.
    """
    with torch.device("meta"):
        base = LlavaForConditionalGeneration(run.model.config)
        llava = Llava(get_peft_model(base, fresh_config(settings)))
    return rows * training_flops(llava, typical_row(run))


def typical_row(run: Run) -> Batch:
    """A batch of one row of the mean length, its text shared out evenly among prompt and responses."""
    pictures = run.batch.pictures // run.batch.rows
    seen = pictures * image_tokens(run.model.config)
    part = max((run.typical_tokens - seen) // (1 + run.responses), 1)
    numbers = [0] * (seen + part) + [number for number in range(1, run.responses + 1) for _ in range(part)]
    nothing, targets = torch.zeros(1, 0, dtype=torch.long), torch.zeros(run.responses * part, dtype=torch.long)
    return Batch(
        input_ids=nothing,
        position_ids=nothing,
        segment_ids=torch.tensor([numbers]),
        pixel_values=torch.zeros(pictures, 0, 0, 0),
        row_weights=torch.ones(1),
        row_index=torch.zeros(run.responses, dtype=torch.long),
        roles=torch.zeros(run.responses, dtype=torch.long),
        truncated=torch.zeros(run.responses, dtype=torch.long),
        predictors=targets,
        targets=targets,
        response_index=targets,
        reference_logps=torch.zeros(0, len(targets)),
        keys=["typical"],
        refusals=[""],
    )


def speed(run: Run, *, measured: Path | None, mfu: float, tflops: float | None) -> tuple[float | None, str]:
    """Operations a second of all ranks, and where that comes from; None where nothing says it.

    Args:
        run: Its ranks are counted.
        measured: An earlier run's directory.
        mfu: Share of the peak.
        tflops: Peak of a device, 10^12 a second.

    Raises:
        FileNotFoundError: The earlier run logged no speed.
    """
    if measured is not None:
        rate = logged_rate(measured)
        return rate, f"the median that {measured} logged; the same number of devices is taken"
    if not run.processes.on_gpu:
        return None, "nothing measured on this CPU: `--measured RUN` takes the speed of an earlier run"
    peak, whose = (tflops * 1e12, "as given") if tflops else (None, "this GPU's")
    if peak is None and torch.cuda.is_available():
        peak = get_available_flops(torch.device("cuda"), torch.bfloat16 if run.batch.autocast else torch.float32)
    if peak is None:
        peak, whose = PEAK_TFLOPS * 1e12, "an A100's"
    ranks = run.processes.placement.ranks
    return mfu * peak * ranks, f"stated: {mfu:.0%} of {peak / 1e12:g} TFLOP/s ({whose}) on each of {ranks} GPUs"


def logged_rate(run_dir: Path) -> float:
    """Median of `train/flops_per_s` over all steps of a run.

    Raises:
        FileNotFoundError: None was logged there.
    """
    values = []
    for path in sorted(run_dir.glob("logs/version_*/metrics.csv")):
        with path.open(newline="") as file:
            values += [float(row["train/flops_per_s"]) for row in csv.DictReader(file) if row.get("train/flops_per_s")]
    if not values:
        raise FileNotFoundError(
            f"{run_dir} holds no logs/version_*/metrics.csv with `train/flops_per_s`. Give the "
            "`trainer.default_root_dir` of a run, or state `--mfu`."
        )
    return statistics.median(values)
