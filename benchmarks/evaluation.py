"""Evaluation: official numbers of published files, how long scoring takes, and the embedded suite on both models.

    python benchmarks/evaluation.py --data ../shared/data --adapter runs/demo/adapter

into benchmarks/results/evaluation.json (two minutes; leave the machine alone). Every score is the one that
`mmalign evaluate score` prints, by the command in a process of its own: seconds by the clock and of the processor, from
the command to its end, imports included. The suite is `mmalign evaluate --suite embedded` at its own sizes, at two
batch sizes, whose answers are compared.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from loader import machine

from mmalign.evaluation.steps.scored import read_scored

RESULT = Path(__file__).parent / "results" / "evaluation.json"
PACKAGES = ("torch", "transformers", "numpy", "scipy")
BATCH_SIZES = (16, 50)
PUBLISHED: dict[str, tuple[str, list[str]]] = {
    "POPE, LLaVA-1.5-7B, gaps": (
        "pope",
        ["--questions=pope/llava_pope_test.jsonl", "--labels=pope/2023", "--answers=pope/llava-v1.5-7b.jsonl.gz",
         "--compat=official"],
    ),
    "MM-Vet, LLaVA-1.5-7B": (
        "mm_vet", ["--questions=mm_vet/mm-vet.json", "--judgments=mm_vet/llava-v1.5-7b_gpt-4-grade-1runs.json"]
    ),
    "MM-Vet, LLaVA-1.5-7B, three runs": (
        "mm_vet", ["--questions=mm_vet/mm-vet.json", "--judgments=mm_vet/llava-v1.5-7b_gpt-4-grade-3runs.json"]
    ),
    **{
        f"LLaVA-Bench, LLaVA-1.5-7B, review {run}": (
            "llava_bench",
            ["--questions=llava_bench/questions.jsonl", f"--judgments=llava_bench/llava-v1.5-7b-eval{run}.jsonl"],
        )
        for run in (1, 2, 3)
    },
    "MT-Bench, functionary": (
        "mt_bench", ["--questions=mt_bench/question.jsonl", "--judgments=mt_bench/judgment_functionary.jsonl"]
    ),
    "MT-Bench, weak judge": (
        "mt_bench",
        ["--questions=mt_bench/question.jsonl", "--on_bad=count",
         "--judgments=mt_bench/judgments_weak_judge_120_unparsable.jsonl.gz"],
    ),
    "AlpacaEval, alpaca-7b": ("alpaca_eval", ["--judgments=alpaca_eval/annotations_alpaca-7b.json"]),
    **{
        f"CHAIR, {name}": (
            "chair",
            ["--ground_truth=chair/coco_gt_objects.json", "--synonyms=chair/synonyms.txt",
             f"--answers=chair/captions/{name}.json.gz"],
        )
        for name in (
            "Instruction1_llava", "Instruction1_mmgpt", "Instruction1_minigpt-4", "Instruction2_minigpt-4",
            "Instruction2_mmgpt",
        )
    },
}  # fmt: skip
"""Name -> benchmark, and the options of `mmalign evaluate score`; paths in the folder of published data."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of published answers and judgments")
    parser.add_argument("--adapter", type=Path, required=True, help="of the embedded model, such as the demo's")
    options = parser.parse_args()
    found: dict[str, object] = {"machine": machine(PACKAGES)}
    with tempfile.TemporaryDirectory() as folder:
        found["published"] = {name: published(name, options.data, Path(folder)) for name in PUBLISHED}
        found["embedded suite"] = embedded(options.adapter, Path(folder))
    print(json.dumps(found, indent=1))
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def published(name: str, data: Path, folder: Path) -> dict[str, object]:
    """One published file: what it scores, and in which time."""
    bench, options = PUBLISHED[name]
    placed = [f"{key}={data / value if (data / value).exists() else value}" for key, value in map(_split, options)]
    out = folder / name
    seconds, processor = timed(["score", bench, *placed, f"--out={out}"])
    scored = read_scored(out)
    numbers = {m.name: m.official for m in scored.metrics if m.official is not None and _is_main(bench, m.group)}
    return {
        "official": numbers,
        "scored": scored.num_scored,
        "failed": {reason: len(ids) for reason, ids in scored.failures.items()},
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor, 2),
    }


def embedded(adapter: Path, folder: Path) -> dict[str, object]:
    """The embedded suite on base and aligned."""
    found: dict[str, object] = {}
    answers = list[list[bytes]]()
    for size in BATCH_SIZES:
        out = folder / f"suite-{size}"
        seconds, processor = timed(["--suite=embedded", f"--adapter={adapter}", f"--out={out}", f"--batch_size={size}"])
        answers.append([(out / who / "world/answers.jsonl").read_bytes() for who in ("base", "aligned")])
        found[f"batch size {size}"] = {"seconds": round(seconds, 1), "processor_seconds": round(processor, 1)}
    return found | {"same answers": answers[0] == answers[1]}


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Seconds of one command by the clock, and of the processor."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "mmalign.cli", "evaluate", *command], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, used


def _split(option: str) -> tuple[str, str]:
    key, _, value = option.partition("=")
    return key, value


def _is_main(bench: str, group: str) -> bool:
    """Whether a number stands in the result: the whole, and the parts that are published."""
    return (
        not group
        or (bench, group) in {("pope", "split"), ("mm_vet", "capability"), ("mt_bench", "turn")}
        or (bench == "llava_bench" and group == "category")
    )


if __name__ == "__main__":
    main()
