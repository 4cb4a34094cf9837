"""A plan as tables for people, and as JSON for programs."""

from typing import Any

from rich.console import Console
from rich.table import Table

import mmalign
from mmalign.memory import Item
from mmalign.plan import Plan, gigabytes, total

from .duration import Duration

CONSOLE = Console(soft_wrap=True, highlight=False)
UNITS = {1e9: "GB", 1e6: "MB"}


def show(plan: Plan, duration: Duration, *, supposed: bool) -> None:
    """Print the plan.

    Args:
        plan: What is needed.
        duration: How long it takes.
        supposed: Whether nobody said how much memory a GPU has.
    """
    run, processes = plan.run, plan.run.processes
    device, ranks = "GPU" if processes.on_gpu else "CPU rank", processes.placement.ranks
    CONSOLE.print(
        f"{run.model.frozen:,} frozen and {run.model.trained:,} trained parameters; sizes: {run.architecture}\n"
        f"{ranks} {device}{'s' * (ranks > 1)}, {processes.placement.sharding}; micro-batches of {run.batch.rows} rows "
        f"x {run.batch.tokens} positions ({run.tokens_from}), {run.accumulation} a step"
    )
    sections = [
        (f"one {device}", plan.gpu, plan.room.gpu, f"each GPU has{', supposed: `--gpu_gb` sets it' * supposed}"),
        ("one machine", plan.host, plan.room.host, "are free of the machine's memory"),
        ("disk", plan.disk, plan.room.disk, f"are free for {processes.run_dir}"),
    ]
    for title, items, there, what in sections:
        CONSOLE.print()
        CONSOLE.print(section(title, items))
        if there is not None:
            CONSOLE.print(f"{gigabytes(there)} {what}")
    CONSOLE.print(f"\n{timing(duration)}")
    for lack in plan.lacks:
        CONSOLE.print(f"\ndoes not fit: {lack}", style="bold red", markup=False)


def section(title: str, items: list[Item]) -> Table:
    """One table of items and their sum."""
    scale = next((scale for scale in UNITS if total(items) >= scale), min(UNITS))
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True, footer_style="bold")
    table.add_column(title, "sum", no_wrap=True, min_width=18)
    table.add_column(UNITS[scale], f"{total(items) / scale:,.2f}", justify="right", no_wrap=True, min_width=8)
    table.add_column("how", "", style="dim", overflow="fold")
    for item in items:
        if item.bytes:
            table.add_row(item.name, f"{item.bytes / scale:,.2f}", item.how)
    return table


def timing(duration: Duration) -> str:
    """`time   1.2e+16 operations a step ...`, in a few lines."""
    lines = [f"time: {duration.flops:.3g} operations a step (mmalign/flops.py); {duration.rate_from}"]
    if duration.step_s is not None:
        whole = f", {duration.steps} steps: {duration.hours:,.1f} h" if duration.hours else ""
        lines.append(f"  {duration.step_s:,.1f} s a step{whole}, without validation and checkpoints")
    if duration.steps is None:
        lines.append("  how many steps is not known: name `data.shards`, or set `trainer.max_steps`")
    return "\n".join(lines)


def as_json(plan: Plan, duration: Duration, args: list[str]) -> dict[str, Any]:
    """The plan for a program; bytes, seconds."""
    run = plan.run
    return {
        "mmalign": mmalign.__version__,
        "args": args,
        "parameters": {"frozen": run.model.frozen, "trained": run.model.trained, "sizes from": run.architecture},
        "micro_batch": {"rows": run.batch.rows, "positions": run.batch.tokens, "from": run.tokens_from},
        "placement": {"sharding": run.processes.placement.sharding, "ranks": run.processes.placement.ranks},
        **{
            name: {"items": [item._asdict() for item in items], "sum": total(items), "there": there}
            for name, items, there in (
                ("gpu" if run.processes.on_gpu else "rank", plan.gpu, plan.room.gpu),
                ("host", plan.host, plan.room.host),
                ("disk", plan.disk, plan.room.disk),
            )
        },
        "time": {
            "flops_per_step": duration.flops,
            "flops_per_s": duration.flops_per_s,
            "from": duration.rate_from,
            "step_s": duration.step_s,
            "steps": duration.steps,
            "hours": duration.hours,
        },
        "lacks": plan.lacks,
    }
