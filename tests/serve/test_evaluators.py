"""Harnesses of others run against the server, see serve/evaluators.md; each is skipped where it is not installed."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import serving

pytestmark = pytest.mark.slow
TASK = """task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
TIMEOUT_S = 300


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    server = serving.serve(tmp_path_factory.mktemp("served") / "log", "embedded")
    try:
        server.wait_for(200)
        yield server
    finally:
        server.process.terminate()
        server.process.wait(60)


def client(module):
    """Skips where a client is not installed."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed here; serve/evaluators.md says how")


def run(folder, *command, **env):
    """Run a client, offline, in a folder of its own."""
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"} | env
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=settings, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def write_task(folder):
    rows = [{"question": f"Is {i} a number?", "answer": "Yes"} for i in range(8)]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks").mkdir()
    (folder / "tasks" / "tiny.yaml").write_text(TASK.format(data=data))


def test_lm_eval_asks_the_server(served, tmp_path):
    client("lm_eval")
    write_task(tmp_path)
    address = f"model=base,base_url={served.url}/v1/chat/completions,num_concurrent=2"
    options = ["--apply_chat_template", "--tasks", "tiny", "--include_path", "tasks", "--output_path", "out"]
    run(tmp_path, "lm_eval", "--model", "local-chat-completions", "--model_args", address, *options, "--log_samples")
    (samples,) = (tmp_path / "out").rglob("samples_tiny_*.jsonl")
    said = [json.loads(line)["filtered_resps"][0] for line in samples.read_text().splitlines()]
    assert len(said) == 8
    assert all(said)


def test_lmms_eval_asks_the_server(served, tmp_path):
    client("lmms_eval")
    write_task(tmp_path)
    address = f"model_version=base,base_url={served.url}/v1,api_key=none"
    options = ["--tasks", "tiny", "--include_path", "tasks", "--output_path", "out", "--log_samples"]
    run(tmp_path, "lmms_eval", "--model", "openai", "--model_args", address, *options)
    assert list((tmp_path / "out").rglob("*_samples_tiny.jsonl"))


def test_vlmevalkit_asks_the_server(served, tmp_path, png):
    client("vlmeval")
    import base64

    picture = base64.b64encode(png("red")).decode()
    rows = ["index\tquestion\tA\tB\tanswer\tcategory\timage"]
    rows += [f"{i}\tWhat colour is it?\tred\tblue\tA\tcolour\t{picture}" for i in range(8)]
    (tmp_path / "shapes.tsv").write_text("\n".join(rows) + "\n")
    options = ["--model", "base", "--base-url", f"{served.url}/v1", "--key", "none", "--data", "shapes"]
    options += ["--max-tokens", "256"]  # it asks for 32,768
    run(tmp_path, "vlmeval.run", *options, "--judge", "exact_matching", "--work-dir", "out", LMUData=str(tmp_path))
    assert list((tmp_path / "out").rglob("base_shapes*"))
