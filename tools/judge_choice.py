"""Which judge the options of `mmalign judge` describe, and which options it obeys.

Tests   tests/tools/test_judge.py
"""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmalign.api.endpoint import GEMINI_KEY_ENV, GEMINI_URL, Endpoint
from mmalign.judges.api_judge import ApiJudge, Asking
from mmalign.judges.aspects import load_aspects
from mmalign.judges.judge import Judge

if TYPE_CHECKING:
    from mmalign.judges.claims import Rule
    from mmalign.sampling.policy import Policy

JudgeName = Literal["gemini", "openai", "server", "world", "reward", "claims"]
DEFAULT_MODELS = {"gemini": "gemini-2.5-flash", "openai": "gpt-4o-mini"}
API_OPTIONS = (
    "model", "url", "aspects", "name", "replies", "key_env", "key_file", "concurrency", "requests_per_minute",
    "timeout_s", "tries", "max_cost", "prices", "max_side", "max_tokens", "temperature", "structured",
    "tries_per_reply", "seed",
)  # fmt: skip
MODEL_OPTIONS = ("checkpoint", "adapter", "template", "pad_images", "dtype", "batch_size")
OPTIONS: Mapping[JudgeName, Sequence[str]] = {
    "gemini": [name for name in API_OPTIONS if name != "url"],
    "openai": [name for name in API_OPTIONS if name != "url"],
    "server": API_OPTIONS,
    "world": ("noise", "seed"),
    "reward": (*MODEL_OPTIONS, "beta"),
    "claims": (*MODEL_OPTIONS, "claims"),
}
"""Which options a judge obeys; the others must be left out."""
API_CLAIMS_OPTIONS = (
    "model", "url", "replies", "key_env", "key_file", "concurrency", "requests_per_minute", "timeout_s", "tries",
    "max_cost", "prices", "max_side", "max_tokens", "claims",
)  # fmt: skip
"""Of `claims` where `--model` or `--url` names one behind an API."""
COMMON = ("judge", "shards", "out", "overwrite")


def check_options(judge: JudgeName, options: Mapping[str, Any], signature: inspect.Signature) -> None:
    """Raise where an option is given that the judge does not obey."""
    parameters = signature.parameters
    given = [name for name, value in options.items() if name not in COMMON and value != parameters[name].default]
    known = API_CLAIMS_OPTIONS if judge == "claims" and _is_behind_api(options) else OPTIONS[judge]
    if unused := [f"--{name}" for name in given if name not in known]:
        obeyed = ", ".join(f"--{name}" for name in known)
        raise ValueError(f"`--judge {judge}` does not obey {', '.join(unused)}: leave it out. It obeys {obeyed}.")


def _is_behind_api(options: Mapping[str, Any]) -> bool:
    return bool(options["model"] or options["url"])


def judge_of(judge: JudgeName, options: Mapping[str, Any]) -> Judge:
    """The judge that the options describe; torch is imported only for those that need it."""
    if judge in ("gemini", "openai", "server"):
        return ApiJudge(
            endpoint=_endpoint(judge, options),
            replies=_replies(options),
            aspects=load_aspects(options["aspects"]),
            asking=Asking(**{name: options[name] for name in Asking.__dataclass_fields__}),
            name=options["name"],
        )
    if judge == "world":
        from mmalign.judges.exact import ExactWorldJudge

        return ExactWorldJudge(noise=options["noise"], seed=options["seed"])
    if judge == "reward":
        from mmalign.judges.reward import RewardJudge

        return RewardJudge(policy=_policy(options), beta=options["beta"], batch_size=options["batch_size"])
    return _claims_judge(options)


def _endpoint(judge: JudgeName, options: Mapping[str, Any]) -> Endpoint:
    """A service or a server."""
    if judge == "server" and not options["url"]:
        raise ValueError("`--judge server` needs `--url`, the server's base address, such as http://localhost:8000/v1.")
    given = {name: options[name] for name in set(Endpoint.__dataclass_fields__) & set(options)}
    if judge == "gemini":
        given |= {"url": GEMINI_URL, "key_env": options["key_env"] or GEMINI_KEY_ENV}
    return Endpoint(**given | {"model": options["model"] or DEFAULT_MODELS.get(judge, "")})


def _replies(options: Mapping[str, Any]) -> Path:
    """Where what was paid for lies."""
    given: Path | None = options["replies"]
    out: Path = options["out"]
    return given or out.with_name(f"{out.name}.replies")


def _policy(options: Mapping[str, Any]) -> "Policy":
    """A model here."""
    import torch

    from mmalign.sampling.policy import load_policy

    return load_policy(
        options["checkpoint"],
        options["adapter"],
        template=options["template"],
        pad_images=options["pad_images"],
        dtype=getattr(torch, options["dtype"]),
    )


def _claims_judge(options: Mapping[str, Any]) -> Judge:
    """A model that checks claims, here or behind an API."""
    if _is_behind_api(options):
        from mmalign.judges.claims_api import ApiClaimsJudge

        return ApiClaimsJudge(
            endpoint=_endpoint("claims", options),
            replies=_replies(options),
            rule=options["claims"] or "model",
            max_side=options["max_side"],
            max_tokens=options["max_tokens"],
        )
    from mmalign.judges.claims import ClaimsJudge
    from mmalign.processor import EMBEDDED

    rule: Rule = options["claims"] or ("world" if options["checkpoint"] == EMBEDDED else "sentences")
    return ClaimsJudge(policy=_policy(options), rule=rule, batch_size=options["batch_size"])
