"""What the processes of the server say, on standard error."""

import logging


def show_logs() -> None:
    """Print what this library logs, from now on and in processes that are forked later."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("mmalign")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
