"""The files in `serve/deploy` hold together: linted where a linter is there, and compared with what the code does."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import crossplane
import pytest
import yaml

from mmalign.serve.http.admission import BODY_S
from mmalign.serve.http.app import build_app
from mmalign.serve.http.deadlines import HEADER_S, UVICORN
from mmalign.serve.http.places import MAX_BODY
from mmalign.serve.server import parser
from mmalign.serve.supervisor import AFTER_GRACE_S, WITHIN_S

DEPLOY = Path(__file__).parents[2] / "serve" / "deploy"
ROOT = DEPLOY.parents[1]
DEFAULTS = parser().get_defaults()
PRIVATE = ("/metrics", "/admin/", "/openapi.json", "/livez")
"""Routes that the proxy keeps to this machine."""


def seconds(text: str) -> float:
    """`90`, `60s`, `30min`, `10m`, as systemd, nginx and compose write them."""
    number, unit = re.fullmatch(r"(\d+)(s|m|min)?", text).groups()
    return int(number) * {"m": 60, "min": 60}.get(unit, 1)


def options(*command: str) -> Any:
    """What `mmalign serve` understands; SystemExit where it does not."""
    return parser().parse_args(list(command))


# The image


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, continued lines joined, in order."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def final_stage() -> dict[str, str]:
    """The last of each instruction behind the last FROM."""
    steps = instructions()
    start = max(number for number, (word, _) in enumerate(steps) if word == "FROM")
    return dict(steps[start:])


def image_command() -> list[str]:
    stage = final_stage()
    return [*json.loads(stage["ENTRYPOINT"]), *json.loads(stage["CMD"])]


def test_hadolint_finds_nothing_in_the_dockerfile():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nCMD mmalign serve\n")
    done = subprocess.run([Path(sys.executable).with_name("hadolint"), bad], capture_output=True, text=True)
    assert done.returncode == 1
    assert {"DL3007", "DL3025"} <= set(re.findall(r"DL\d+", done.stdout))


def test_the_image_runs_as_nobody_with_the_command_as_process_1():
    stage = final_stage()
    user, _, group = stage["USER"].partition(":")
    assert int(user) > 0 < int(group)
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert image_command()[:2] == ["mmalign", "serve"]  # JSON, so no shell stands in between


def test_the_command_of_the_image_is_understood():
    chosen = options(*image_command()[2:])
    assert (chosen.host, chosen.port) == ("0.0.0.0", DEFAULTS.port)
    assert final_stage()["EXPOSE"] == str(chosen.port)
    assert not chosen.insecure


def probe_of(command: list[str]) -> str:
    """The address a health check asks, in a program that Python can read."""
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")
    return re.search(r"urlopen\('http://127\.0\.0\.1:(\d+/\w+)', timeout=4\)", command[2]).group(1)


def test_health_is_readiness_and_a_route_of_ours(front):
    check = final_stage()["HEALTHCHECK"]
    assert probe_of(json.loads(check[check.index("[") :])) == f"{DEFAULTS.port}/readyz"
    compose = SERVICE["healthcheck"]
    assert probe_of(compose["test"][1:]) == f"{DEFAULTS.port}/readyz"
    for key, value in {"interval": "10s", "timeout": "5s", "start_period": "10m", "retries": 3}.items():
        assert compose[key] == value
        assert f"--{key.replace('_', '-')}={value}" in check
    assert "/readyz" in paths(front)


def test_the_image_is_built_from_pinned_versions_and_holds_no_secret():
    steps = instructions()
    [base] = [rest for word, rest in steps if word == "ARG" and rest.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-\w+", base)
    assert {rest.split()[0] for word, rest in steps if word == "FROM"} == {"python:${PYTHON}"}
    runs = "\n".join(rest for word, rest in steps if word == "RUN")
    installs = re.findall(r"pip install .*?(?=;;|&&|$)", runs, re.MULTILINE)
    assert len(installs) == 4
    assert all("--constraint constraints.txt" in install for install in installs)
    named = " ".join(rest for word, rest in steps if word in ("ARG", "ENV"))
    assert not re.search(r"key|token|password|secret", named, re.IGNORECASE)


def sources() -> set[str]:
    """What the Dockerfile copies out of the checkout."""
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    return {name for names in copied for name in names}


def test_the_build_context_is_what_the_image_is_made_of():
    """An allow-list: a key, a run or a checkpoint beside it cannot get into a layer."""
    rules = [
        line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == sources()
    assert [rule for rule in rules[1:] if not rule.startswith("!")] == ["serve/deploy", "**/__pycache__", "**/.*"]
    assert all((ROOT / name).exists() for name in sources())


def test_the_image_gets_every_folder_of_the_package():
    mapped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"].values()
    assert set(mapped) <= sources()


# Compose

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICE = COMPOSE["services"]["serve"]


def compose_options() -> Any:
    return options(*json.loads(final_stage()["ENTRYPOINT"])[2:], *SERVICE["command"])


def test_compose_runs_a_command_that_is_understood():
    chosen = compose_options()
    assert not chosen.insecure
    mounted = {f"/run/secrets/{name}" for name in SERVICE["secrets"]} | set(SERVICE["tmpfs"])
    mounted |= {volume.split(":")[1] for volume in SERVICE["volumes"]}
    for path in (chosen.api_keys, chosen.admin_keys, chosen.adapter_root, chosen.votes):
        assert any(str(path) == place or str(path).startswith(f"{place}/") for place in mounted), path
    assert SERVICE["build"]["args"]["DEVICE"] in ("cuda", "cpu")
    assert (DEPLOY / SERVICE["build"]["context"] / SERVICE["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")


def test_compose_takes_from_the_container_what_it_does_not_need():
    assert SERVICE["read_only"] is True
    assert SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]
    assert [mount.split(":")[0] for mount in SERVICE["tmpfs"]] == ["/tmp"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "user"} & set(SERVICE)
    assert SERVICE["ports"] == [f"127.0.0.1:{DEFAULTS.port}:{DEFAULTS.port}"]
    [device] = SERVICE["deploy"]["resources"]["reservations"]["devices"]
    assert (device["count"], device["capabilities"]) == (1, ["gpu"])


def test_compose_keeps_keys_in_files():
    assert set(SERVICE["secrets"]) == set(COMPOSE["secrets"]) == {"api_keys", "admin_keys"}
    assert not [name for name in SERVICE["environment"] if "KEY" in name]


def test_compose_names_what_it_uses():
    named = {volume.split(":")[0] for volume in SERVICE["volumes"] if not volume.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    assert set(COMPOSE) == {"name", "services", "secrets", "volumes"}


def test_every_supervisor_waits_longer_than_the_server_needs():
    """`grace_s` for the answers, and what it takes to end."""
    needed = DEFAULTS.grace_s + AFTER_GRACE_S
    assert compose_options().grace_s == service_options().grace_s == DEFAULTS.grace_s
    assert seconds(SERVICE["stop_grace_period"]) >= needed
    assert seconds(unit("TimeoutStopSec")) >= needed


# systemd


def unit(key: str) -> str:
    """The one value of a key of mmalign.service."""
    [value] = unit_values(key)
    return value


def unit_values(key: str) -> list[str]:
    joined = (DEPLOY / "mmalign.service").read_text().replace("\\\n", " ")
    return re.findall(rf"^{key}=(.*)$", joined, re.MULTILINE)


def service_options() -> Any:
    program, *rest = shlex.split(unit("ExecStart"))
    assert program.endswith("/bin/mmalign")
    assert rest[0] == "serve"
    return options(*rest[1:])


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("no systemd-analyze on this machine")
    return found


def test_systemd_understands_the_unit(systemd_analyze, tmp_path):
    """With a program that is there: `verify` looks for it."""
    text = (DEPLOY / "mmalign.service").read_text().replace("/opt/mmalign/bin/mmalign", "/bin/true")
    (tmp_path / "mmalign.service").write_text(text)
    done = subprocess.run([systemd_analyze, "verify", tmp_path / "mmalign.service"], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_rates_the_unit_as_well_confined(systemd_analyze):
    """0 is the best, 10 the worst; a unit without any of it has 9.6."""
    command = [systemd_analyze, "security", "--offline=true", "--threshold=20", DEPLOY / "mmalign.service"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:]


def test_the_unit_runs_a_command_that_is_understood():
    chosen = service_options()
    assert (chosen.host, chosen.port, chosen.insecure) == ("127.0.0.1", DEFAULTS.port, False)
    credentials = {value.split(":")[0] for value in unit_values("LoadCredential")}
    assert {str(chosen.api_keys), str(chosen.admin_keys)} == {f"%d/{name}" for name in credentials}
    assert str(chosen.votes).startswith(f"%S/{unit('StateDirectory')}/")


def test_the_unit_signals_the_main_process_alone_and_gives_up_in_the_end():
    assert (unit("KillMode"), unit("Restart")) == ("mixed", "on-failure")
    assert not unit_values("KillSignal")  # SIGTERM
    # As many starts as are allowed, each ended by the guard against a crash loop, must fit into the interval.
    assert seconds(unit("StartLimitIntervalSec")) >= int(unit("StartLimitBurst")) * (WITHIN_S + 60)


# nginx


def paths(front: Any) -> list[str]:
    """Of all routes; FastAPI keeps those of the routers that an application includes in these."""
    found, waiting = [], list(build_app(front).routes)
    while waiting:
        route = waiting.pop()
        included = getattr(route, "original_router", None)
        if included is None:
            found.append(route.path)
        else:
            waiting += included.routes
    return found


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The directives of nginx.conf; unknown ones and ones in the wrong place are errors."""
    whole = tmp_path_factory.mktemp("nginx") / "nginx.conf"
    whole.write_text(f"events {{}}\nhttp {{ include {DEPLOY / 'nginx.conf'}; }}\n")
    read = crossplane.parse(str(whole), combine=True, strict=True)
    assert read["status"] == "ok", read["errors"]
    return read["config"][0]["parsed"][1]["block"]


def tls_server(proxy: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["block"] for each in proxy if each["directive"] == "server"][1]


def value(block: list[dict[str, Any]], name: str) -> str:
    [found] = [each["args"] for each in block if each["directive"] == name]
    return " ".join(found)


def passed_on(block: list[dict[str, Any]], path: str) -> bool:
    """Whether a request for this path reaches the server, by nginx's rule: the exact location, else the longest."""
    places = {tuple(each["args"]): each["block"] for each in block if each["directive"] == "location"}
    prefixes = [args for args in places if len(args) == 1 and args[0][0] == "/" and path.startswith(args[0])]
    chosen = places.get(("=", path)) or places[max(prefixes, key=lambda args: len(args[0]))]
    return any(each["directive"] == "proxy_pass" for each in chosen)


def test_the_proxy_passes_on_what_is_public_and_nothing_else(proxy, front):
    server, routes = tls_server(proxy), paths(front)
    assert {"/v1/chat/completions", "/", "/metrics", "/admin/adapters", "/openapi.json"} <= set(routes)
    for path in routes:
        assert passed_on(server, path) is not path.startswith(PRIVATE), path


def test_the_proxy_waits_as_long_as_an_answer_may_take(proxy):
    server = tls_server(proxy)
    assert seconds(value(server, "proxy_read_timeout")) > DEFAULTS.queue_timeout_s + DEFAULTS.max_seconds
    assert value(server, "proxy_buffering") == "off"
    assert value(server, "proxy_ignore_client_abort") == "off"
    assert value(server, "proxy_http_version") == "1.1"


def test_the_proxy_has_the_servers_limits(proxy):
    server = tls_server(proxy)
    assert value(server, "client_max_body_size") == f"{MAX_BODY >> 20}m"
    assert seconds(value(server, "client_header_timeout")) == HEADER_S
    assert seconds(value(server, "client_body_timeout")) == BODY_S
    [upstream] = [each["block"] for each in proxy if each["directive"] == "upstream"]
    assert value(upstream, "server") == f"127.0.0.1:{DEFAULTS.port}"
    assert seconds(value(upstream, "keepalive_timeout")) < UVICORN["timeout_keep_alive"]


def test_the_proxys_refusals_have_openais_shape(proxy):
    server = tls_server(proxy)
    bodies = [
        each["args"]
        for place in server
        if place["directive"] == "location"
        for each in place["block"]
        if each["directive"] == "return"
    ]
    assert {int(status) for status, _ in bodies} == {404, 413, 429, 503}
    for _, body in bodies:
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
