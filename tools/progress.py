"""Progress bars of long commands: how many of how many, how fast, how long still.

with progress_bars() as progress:
    bar = progress.add_task("answers", total=2000, completed=len(done), note="")
    progress.update(bar, advance=16, note="$ 0.12")
"""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class RateColumn(ProgressColumn):
    """Steps a second, or seconds a step where they are slow."""

    def render(self, task: Task) -> Text:
        """The rate over the last half minute."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


class NoteColumn(ProgressColumn):
    """What else a task says of itself, in its field `note`: text, never markup."""

    def render(self, task: Task) -> Text:
        """The note."""
        return Text(str(task.fields.get("note", "")))


def progress_bars(console: Console | None = None) -> Progress:
    """Bars that are not started yet; use them as a context.

    Args:
        console: Where they are drawn; standard error if None.
    """
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        NoteColumn(),
        console=console or Console(stderr=True),
    )
