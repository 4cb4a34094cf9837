"""What the HTTP process knows; every route is made from it."""

from dataclasses import dataclass, field

from ..settings import HttpSettings
from .counters import Metrics
from .errors import ApiError
from .link import Link
from .places import Admission


@dataclass
class Frontend:
    """Limits, the worker, and whether the server is about to stop."""

    settings: HttpSettings
    link: Link = field(init=False)
    """The worker."""
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False
    """SIGTERM has come: what runs is finished, nothing new is taken."""
    admission: Admission = field(init=False)
    """Places for answers."""

    def __post_init__(self) -> None:
        """Hand on the limits."""
        self.link = Link(self.settings.queue_timeout_s)
        self.admission = Admission(self.settings.max_rows + self.settings.max_waiting)

    def check_model(self, name: str) -> None:
        """Raise `ApiError` where no such model is served."""
        if name not in self.link.models:
            known = ", ".join(self.link.models)
            raise ApiError(
                404,
                f"There is no model {name[:64]!r} here. Choose one of: {known}.",
                param="model",
                code="model_not_found",
            )
