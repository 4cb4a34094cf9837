"""What a run is, so that a checkpoint goes on as the same run or not at all.

    config, flat      model.init_args.beta: 0.1, data.batch_size: 128, trainer.max_epochs: 3, ...
    by content        model.init_args.backbone.checkpoint: sha256 ..., data.shards: <manifest>, processor: ...

Left out is what changes neither the rows of a step nor what is learned from them (`FREE`), and where things lie. What
differs is refused by name, and what is allowed by name (`checkpoint.allow_drift`) is written into later checkpoints.

Tests    tests/checkpoint/test_drift.py
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from mmalign.backbone import BackboneSettings
from mmalign.checkpoint.format import CheckpointError, read_run
from mmalign.data.datamodule import ShardData
from mmalign.data.rowset import RowSet
from mmalign.fingerprints import store_keys

Identity = dict[str, Any]
"""Plain values by the name of the config key."""
TRAINER = ("max_epochs", "max_steps", "precision", "gradient_clip_val", "gradient_clip_algorithm")
"""What of `trainer` a run is; where and how it is computed may change."""
FREE = {
    "data.micro_batch_size",  # the cut of a step
    "data.num_workers",
    "data.val_shards",
    "data.on_bad",  # what is left out is named in the logs
    "data.bad_share",
    "data.bad_in_a_row",
    "data.cache_gb",
    "data.stall_s",
    "model.init_args.backbone.gradient_checkpointing",
    "model.init_args.optim.nonfinite_steps",
}
"""Of `model` and `data`, what may change."""
MISSING = "nothing"


def identity(config: Mapping[str, Any], contents: Mapping[str, Any]) -> Identity:
    """What a run is.

    Args:
        config: Of `fit`, as plain values.
        contents: By config key, what lies at the places that the config names; see `hashes`.
    """
    return {name: value for name, value in _flat(config) if _tells(name)} | dict(contents)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _tells(name: str) -> bool:
    if name in FREE:
        return False
    section, _, rest = name.partition(".")
    return section in ("model", "data", "seed_everything") or (section == "trainer" and rest in TRAINER)


def hashes(backbone: BackboneSettings, references: Sequence[str], data: ShardData, *, precision: str) -> dict[str, str]:
    """Hashes of what a run is made of, by config key; reads all base weights.

    Args:
        backbone: The model of the run.
        references: Of the method.
        data: Set up for training.
        precision: `trainer.precision`.
    """
    further = [each for each in references if each]
    keys = store_keys(backbone, ["", *further], data.template, precision=precision, max_length=data.max_length)
    start = keys[""]
    found = {
        "model.init_args.backbone.checkpoint": start.base,
        "model.init_args.backbone.adapter": start.adapter,
        "model.init_args.backbone.template": start.template,
        "processor": start.processor,
        "data.shards": _manifests(data.train_rows),
    }
    return found | ({"model.init_args.adapters": ", ".join(keys[each].adapter for each in further)} if further else {})


def _manifests(rows: RowSet) -> str:
    sets = zip(rows.sets, rows.sources, strict=True)
    return ", ".join(f"manifest {each.manifest.hash[:16]} weight {source.weight:g}" for each, source in sets)


def description(
    config: dict[str, Any], contents: Mapping[str, Any], *, resume: Path | None, allowed: Sequence[str]
) -> dict[str, Any]:
    """What `run.json` says of a run.

    Args:
        config: Of `fit`, as plain values.
        contents: See `hashes`.
        resume: The checkpoint that it goes on from.
        allowed: Fields that may differ from it.

    Raises:
        CheckpointError: Others do.
        ValueError: `allowed` names what no run has.
    """
    here = identity(config, contents)
    saved = {} if resume is None else read_run(resume)
    check_names(allowed, here | saved.get("identity", {}))
    drifts = []
    if resume is not None:
        found = check_drift(str(resume), saved.get("identity", {}), here, allowed)
        drifts = saved.get("allowed_drift", [])
        if found:
            rank_zero_info(f"Going on from {resume} with what `checkpoint.allow_drift` allows: {found}")
            drifts = [*drifts, {"step": saved["global_step"], **found}]
    return {"identity": here, "allowed_drift": drifts, "config": config}


def differences(saved: Identity, here: Identity) -> dict[str, str]:
    """What to say of each field that differs, by its name."""
    both = [*saved, *(name for name in here if name not in saved)]
    return {
        name: f"{saved.get(name, MISSING)} in the checkpoint, {here.get(name, MISSING)} here"
        for name in both
        if saved.get(name, MISSING) != here.get(name, MISSING)
    }


def check_names(allowed: Sequence[str], known: Identity) -> None:
    """Raise where `checkpoint.allow_drift` names what neither this run nor the checkpoint's has."""
    if unknown := [name for name in allowed if name not in known]:
        raise ValueError(
            f"`checkpoint.allow_drift` names {', '.join(unknown)}, and nothing of this run is called so. Give names as "
            f"the refusal lists them, for instance {next(iter(known))}."
        )


def check_drift(where: str, saved: Identity, here: Identity, allowed: Sequence[str]) -> dict[str, str]:
    """Refuse to go on as another run.

    Args:
        where: The checkpoint, for the message.
        saved: What its run was.
        here: What this run is.
        allowed: Fields that may differ.

    Returns:
        What differs and may.

    Raises:
        CheckpointError: Something else differs.
    """
    found = differences(saved, here)
    if refused := {name: said for name, said in found.items() if name not in allowed}:
        lines = "".join(f"\n  {name}: {said}" for name, said in refused.items())
        raise CheckpointError(
            f"{where} is of another run than this one:{lines}\nResume with the settings of the checkpoint (its "
            "run.json), start afresh in another `trainer.default_root_dir`, or, where you mean it, allow it by name: "
            f"--checkpoint.allow_drift '[{', '.join(refused)}]'."
        )
    return found
