"""The pages about serving hold: commands are understood, tables are whole, examples run."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from mmalign.architecture import adapter_parameters, count_parameters, image_tokens, published
from mmalign.cli import PROGRAMS, TRAINER_COMMANDS
from mmalign.serve import keys
from mmalign.serve.http import admission, deadlines, media, places
from mmalign.serve.http.app import build_app
from mmalign.serve.http.schema import body, chat_request, completion_request
from mmalign.serve.messages import ServedModel
from mmalign.serve.server import parser
from mmalign.serve.supervisor import AFTER_GRACE_S
from mmalign.steering import ATTRIBUTES

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "serve"
PAGE = (SERVE / "README.md").read_text()
PRODUCTION = (SERVE / "deploy" / "README.md").read_text()
TOP = (ROOT / "README.md").read_text()
PAGES = {"README.md": TOP, "serve/README.md": PAGE, "serve/deploy/README.md": PRODUCTION}


def commands(page: str) -> list[list[str]]:
    """What a reader is told to type, of `mmalign`."""
    joined = page.replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^(?:\$ |    )(mmalign .*)$", joined, re.MULTILINE)]


def python_examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("name", PAGES)
def test_every_command_to_serve_is_understood(name):
    understood = [parser().parse_args(rest) for command, *rest in commands(PAGES[name]) if command == "serve"]
    assert understood or name == "serve/deploy/README.md"
    for chosen in understood:
        assert chosen.insecure or chosen.api_keys


def test_every_command_is_one():
    typed = re.findall(r"`mmalign (\w+)", "\n".join(PAGES.values()))
    typed += [command for page in PAGES.values() for command, *_ in commands(page)]
    assert set(typed) <= {*PROGRAMS, *TRAINER_COMMANDS}


def test_every_option_named_in_the_text_is_one():
    known = {f"--{action.dest}" for action in parser()._actions} | {"--help"}
    ours = re.findall(r"`(--[a-z_]+)", PAGE + PRODUCTION)
    assert len(ours) > 20
    assert set(ours) - known <= {"--build", "--url"}  # docker's, `mmalign judge`'s


def test_the_table_of_options_is_that_of_the_command():
    """All of them, with their defaults; words where a default is no value."""
    rows = re.findall(r"^\| `--(\w+)` \| (.*?) \|", PRODUCTION, re.MULTILINE)
    defaults = parser().get_defaults().as_dict()
    defaults.pop("help", None)
    assert [name for name, _ in rows] == [name for name in dict.fromkeys(["base", "adapter", *defaults])]
    for name, told in rows:
        value = defaults[name]
        if value is None or value == []:
            assert not re.search(r"\d", told), name
        else:
            assert told == (str(value).lower() if isinstance(value, bool) else str(value)), name


def test_every_file_named_is_there():
    named = re.findall(r"`((?:tests|benchmarks|configs)/[\w/.]*)`", PAGE + PRODUCTION)
    named += [f"serve/{name}" for name in re.findall(r"`((?:http|worker|page)/\w+\.py|adapters\.py)`", PRODUCTION)]
    named += re.findall(r"`(mmalign/[\w/]+\.py)`", PRODUCTION)
    named += [f"serve/{name}" for name in re.findall(r"\]\(((?!http)[^)]+)\)", PAGE)]
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_map_of_files_is_whole():
    files = PAGE[PAGE.index("## Files") :]
    there = {path.name for path in SERVE.glob("*.py")} - {"__init__.py"}
    there |= {f"{path.name}/" for path in SERVE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert there == set(re.findall(r"(?:^    |  )(\w+(?:\.py|/))(?=\s)", files, re.MULTILINE))


def test_the_table_of_endpoints_is_whole(front):
    told = set(re.findall(r"[` ](/[\w./{}]*)`", PAGE[PAGE.index("## Endpoints") : PAGE.index("**Fields of chat")]))
    waiting, there = list(build_app(front).routes), set()
    while waiting:
        route = waiting.pop()
        included = getattr(route, "original_router", None)
        waiting += [] if included is None else included.routes
        there |= set() if included is not None else {route.path}
    assert told == there


def test_every_metric_named_is_counted(http, worker):
    """After one answer, so that every counter has a value."""
    asked = {"model": "base", "messages": [{"role": "user", "content": "Hello."}]}
    assert http.post("/v1/chat/completions", json=asked).status_code == 200
    families = text_string_to_metric_families(http.get("/metrics").text)
    samples = {sample.name for family in families for sample in family.samples}
    named = set(re.findall(r"\b(?:mmalign|process)_[a-z_]+\b", PRODUCTION))
    assert len(named) > 8
    assert named - samples == set()


def test_the_arithmetic_of_memory():
    """Each number of the table, from the shape of the model."""
    config = published("llava-hf/llava-1.5-13b-hf")
    text = config.text_config
    weights = count_parameters(config).total
    token = 2 * text.num_hidden_layers * text.hidden_size * 2
    assert f"{weights:,} parameters" in PRODUCTION
    rows = parser().get_defaults().max_rows
    for name, size in {
        "weights": weights * 2 / 2**30,
        "one answer, at most": token * 4096 / 2**30,
        f"--max_rows {rows}": rows * token * 4096 / 2**30,
    }.items():
        assert re.search(rf"^    {name}.* {size:.1f} GiB$", PRODUCTION, re.MULTILINE), name
    assert re.search(rf"^    one token.* {token // 2**10} KiB$", PRODUCTION, re.MULTILINE)
    picture = image_tokens(config)
    assert re.search(rf"^    one picture +{picture} tokens +{picture * token >> 20} MiB$", PRODUCTION, re.MULTILINE)
    adapter = 4 * adapter_parameters(config, 128) * text.num_hidden_layers / 2**30
    assert f"rank 128 on all linear layers adds {adapter:.1f} GiB" in PRODUCTION


def test_the_limits_told_are_those_of_the_code():
    words = " ".join((PAGE + PRODUCTION).split())
    picture = f"{media.MAX_PICTURE_BYTES >> 20} MiB, {media.MAX_PIXELS / 1e6:g} million pixels and {media.MAX_SIDE} a"
    request = f"a header of {deadlines.MAX_HEADER >> 10} KiB within {deadlines.HEADER_S:g} s, a body of "
    request += f"{places.MAX_BODY >> 20} MiB within {admission.BODY_S:g} s and {admission.STALLED_S:g} s between two "
    request += f"parts of it, {deadlines.UNREAD_S:g} s without a byte"
    for told in (
        f"`n` (1 to {body.MAX_CHOICES})",
        f"`temperature` (0 to {body.MAX_TEMPERATURE:g};",
        f"`stop` (up to {body.MAX_STOPS})",
        f"`top_logprobs` (up to {chat_request.MAX_TOP_LOGPROBS})",
        f"a list of up to {completion_request.MAX_PROMPTS} of either",
        f"`logprobs` (up to {completion_request.MAX_LOGPROBS})",
        f"`max_tokens` ({completion_request.DEFAULT_MAX_TOKENS};",
        f"up to {picture} side",
        f"a body of {places.MAX_BODY >> 20} MiB at most",
        f"bodies of requests, {places.MAX_HELD >> 20} MiB together at most",
        f"at least {keys.MIN_LENGTH} characters",
        request,
        f"{deadlines.KEEP_ALIVE_S} s between two requests on a connection, {deadlines.MAX_CONNECTIONS} connections",
        f"exit status 0 within `--grace_s` and {AFTER_GRACE_S} s",
    ):
        assert told in words


def test_the_python_examples_run(http, front, worker, monkeypatch, tmp_path, capsys):
    """As they stand, with a key and a picture where they look for them, on the HTTP side."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys.txt").write_text("a-key-of-this-test-0123\n")
    Image.new("RGB", (32, 24), "red").save("scene.png")

    class Bound(openai.OpenAI):
        def __init__(self, **options: Any) -> None:
            assert options["base_url"] == "http://127.0.0.1:8000/v1"
            super().__init__(**{**options, "base_url": "http://testserver/v1"}, max_retries=0, http_client=http)

    monkeypatch.setattr(openai, "OpenAI", Bound)
    first, steered = python_examples(PAGE)
    namespace: dict[str, Any] = {}
    exec(first, namespace)
    assert capsys.readouterr().out == "a red circle\n"
    assert worker.jobs[-1].model == "dpo"
    assert len(worker.jobs[-1].prompt.pictures) == 1
    front.link.models["steer"] = ServedModel("steer", dict.fromkeys(ATTRIBUTES, 4))
    exec(steered, namespace)
    assert worker.jobs[-1].prompt.attributes == {"helpfulness": 4, "verbosity": 0}


@pytest.mark.slow
def test_the_admin_examples_run(start, tiny_adapters, tmp_path):
    """Through curl, as they stand but for address and folder."""
    root, admins = tiny_adapters["dpo"].parent, tmp_path / "admin.txt"
    admins.write_text("an-admins-key-0123456789\n")
    server = start(f"--admin_keys={admins}", f"--adapter_root={root}")
    server.wait_for(200)
    joined = PAGE.replace("\\\n", " ").replace('"folder": "adapter"', f'"folder": "{tiny_adapters["dpo"].name}"')
    calls = re.findall(r"^\$ (curl .*)$", joined.replace("http://127.0.0.1:8000", server.url), re.MULTILINE)
    assert len(calls) == 2
    for call, word in zip(calls, ('"id": "dpo"', '"deleted": true'), strict=True):
        done = subprocess.run(["bash", "-c", call], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert word in done.stdout, done
