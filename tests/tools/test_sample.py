"""`mmalign sample` through the real command line: the same answers wherever, whenever and by how many they are made."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from mock_api import MockApi, words
from peft import LoraConfig, get_peft_model

from mmalign.backbone import LANGUAGE_LINEARS, load_llava
from mmalign.cli import main
from mmalign.data.lineage import lineage_of
from mmalign.data.manifest import Manifest
from mmalign.data.reader import ShardSet
from mmalign.data.rowset import Source
from mmalign.data.sample import Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text
from mmalign.sampling import answers
from mmalign.sampling.seeds import answer_seed
from mmalign.world.prompts import world_prompts

SHORT = ("--max_new_tokens=6", "--num=2", "--batch_size=3")


def read(folder):
    shard_set = ShardSet(str(folder))
    return [shard_set[number] for number in range(len(shard_set))]


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def journal(out):
    """Lines of all ranks so far."""
    found = out.with_name(f"{out.name}.partial").glob("*.jsonl")
    return [line for path in found for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory, png):
    """Six prompts, some with a picture."""
    folder = tmp_path_factory.mktemp("shards") / "prompts"
    with ShardWriter(folder) as writer:
        for number in range(6):
            pictures = (png("red"),) if number % 3 else ()
            message = Message("user", (*(ImageSlot() for _ in pictures), Text(f"What is {number}{'?' * number}")))
            writer.write(Sample(key=f"k{number}", messages=(message,), images=pictures, id=f"id{number}"))
    return folder


def sample(shards, out, checkpoint, *options):
    main(["sample", f"--shards={shards}", f"--out={out}", f"--checkpoint={checkpoint}", *options])


@pytest.fixture(scope="module")
def whole(prompts, tiny_llava, tmp_path_factory):
    """What one process makes that nobody stops."""
    out = tmp_path_factory.mktemp("whole") / "out"
    sample(prompts, out, tiny_llava, *SHORT)
    return out


def test_every_prompt_gets_its_answers_with_their_provenance(prompts, whole, tiny_llava):
    for before, after in zip(read(prompts), read(whole), strict=True):
        assert (after.key, after.messages, after.images) == (before.key, before.messages, before.images)
        assert len(after.responses) == 2
        for number, response in enumerate(after.responses):
            assert response.model == Path(tiny_llava).name
            assert response.sampling["seed"] == answer_seed(before.id, number)
            assert response.sampling["finish_reason"] == "length"
            assert response.sampling["checkpoint_hash"].startswith("sha256 ")
    (step,) = lineage_of(Manifest.load(whole))
    assert (step.command, step.made_from) == ("sample", str(prompts))
    assert step.settings["temperature"] == 0.7
    assert step.counts == {"samples": 6, "answers": 12, "of them cut": 12, "answers missing": 0}


@pytest.mark.parametrize("batch_size", [1, 16])
def test_other_batch_sizes_make_the_same_shards(prompts, whole, tiny_llava, tmp_path, capsys, batch_size):
    sample(prompts, tmp_path / "out", tiny_llava, *SHORT, f"--batch_size={batch_size}")
    assert bytes_of(tmp_path / "out") == bytes_of(whole)
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == f"{tmp_path / 'out'}: 6 samples, 12 answers, 12 of them cut, 0 answers missing."
    assert said[-1].startswith(f"Next: mmalign judge --shards {tmp_path / 'out'}")


def test_stopped_and_run_again_it_goes_on(prompts, whole, tiny_llava, tmp_path, monkeypatch):
    """Stopped before its third batch; the second start does not answer again what the first did."""
    asked, generate_ids, limit = [], answers.generate_ids, [6]

    def stopping(model, template, batch, *args, **kwargs):
        if len(asked) == limit[0]:
            raise KeyboardInterrupt
        asked.extend(prompt.seed for prompt in batch)
        return generate_ids(model, template, batch, *args, **kwargs)

    monkeypatch.setattr(answers, "generate_ids", stopping)
    with pytest.raises(KeyboardInterrupt):
        sample(prompts, tmp_path / "out", tiny_llava, *SHORT)
    assert len(journal(tmp_path / "out")) == 6
    limit[0] = None
    sample(prompts, tmp_path / "out", tiny_llava, *SHORT)
    assert len(asked) == len(set(asked)) == 12
    assert bytes_of(tmp_path / "out") == bytes_of(whole)
    assert not (tmp_path / "out.partial").exists()


def test_made_already_it_loads_no_model(prompts, whole, tiny_llava, capsys, monkeypatch):
    monkeypatch.setattr("mmalign.sampling.policy.load_llava", lambda *_, **__: pytest.fail("loaded"))
    sample(prompts, whole, tiny_llava, *SHORT)
    assert "is there already, made with these settings: 6 samples, 12 answers" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"temperature differ.*--overwrite true"):
        sample(prompts, whole, tiny_llava, *SHORT, "--temperature=1.0")


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
def test_ranks_share_the_work_and_make_the_same_shards(ranks, prompts, whole, tiny_llava, tmp_path, number):
    run = ranks.run(
        number, "sample", f"--shards={prompts}", f"--out={tmp_path / 'out'}", f"--checkpoint={tiny_llava}", *SHORT
    )
    assert bytes_of(tmp_path / "out") == bytes_of(whole)
    assert "6 samples, 12 answers" in run.output(0)
    assert not any("samples" in run.output(rank) for rank in range(1, number))


@pytest.mark.faults
def test_killed_on_two_ranks_it_goes_on_with_three(ranks, color_shards, tiny_llava, tmp_path):
    """SIGKILL to all at some moment: nothing lost, nothing answered twice, the bytes of a run that nobody killed."""
    command = ["sample", f"--shards={color_shards}", f"--checkpoint={tiny_llava}", "--max_new_tokens=6", "--num=2"]
    command += ["--batch_size=4", "--model=other"]
    ranks.run(1, *command, f"--out={tmp_path / 'whole'}")
    out = tmp_path / "out"
    run = ranks.start(2, *command, f"--out={out}")
    run.wait_for(lambda: len(journal(out)) >= 16)
    run.kill(signal.SIGKILL)
    run.wait()
    before = set(journal(out))
    assert not out.exists()
    assert len(before) < 80
    run = ranks.start(3, *command, f"--out={out}")
    seen = []
    while not run.poll():
        seen = max(seen, journal(out) if out.with_name("out.partial").exists() else [], key=len)
        time.sleep(0.02)
    assert run.wait() == [0, 0, 0], run.all_output()
    assert before <= set(seen)
    assert len(seen) == len({json.loads(line)["id"] for line in seen})
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


@pytest.mark.slow
def test_ranks_end_when_the_first_refuses(ranks, prompts, whole, tiny_llava):
    """One message, of the first; the others end as well."""
    command = ["sample", f"--shards={prompts}", f"--out={whole}", f"--checkpoint={tiny_llava}", *SHORT, "--seed=3"]
    run = ranks.start(2, *command)
    assert run.wait(60) == [1, 1]
    assert "seed differ" in run.output(0)
    assert "the first rank has stopped" in run.output(1)


@pytest.mark.slow
def test_the_embedded_model_gives_the_answers_of_the_shipped_shards(tmp_path):
    """Prompts of the world, sampled by the command as it is, are byte for byte what `world` holds: text and seed."""
    with ShardWriter(tmp_path / "prompts") as writer:
        for prompt in world_prompts("preference", "preference", 24):
            writer.write(prompt)
    main(["sample", f"--shards={tmp_path / 'prompts'}", f"--out={tmp_path / 'sampled'}"])
    shipped = ShardSet(Source(path="world").resolve())
    for number, made in enumerate(read(tmp_path / "sampled")):
        expected = shipped[number]
        assert (made.key, made.id, made.images) == (expected.key, expected.id, expected.images)
        for mine, theirs in zip(made.responses, expected.responses[:4], strict=True):
            assert (mine.text, mine.model) == (theirs.text, theirs.model)
            assert mine.sampling["seed"] == theirs.sampling["seed"]


def test_a_steered_model_is_asked_and_the_prompt_stays_plain(prompts, tiny_llava, tmp_path, monkeypatch):
    adapter = tmp_path / "adapter"
    torch.manual_seed(3)
    lora = LoraConfig(r=2, target_modules=LANGUAGE_LINEARS, init_lora_weights=False)
    get_peft_model(load_llava(tiny_llava, dtype=torch.float32), lora).save_pretrained(adapter)
    wanted = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 2}
    (adapter / "lineage.json").write_text(json.dumps({"steer": {"form": "likert", "attributes": wanted}}))
    seen, generate_ids = [], answers.generate_ids

    def watched(model, template, asked, *args, **kwargs):
        seen.extend(asked)
        return generate_ids(model, template, asked, *args, **kwargs)

    monkeypatch.setattr(answers, "generate_ids", watched)
    options = (f"--adapter={adapter}", "--attributes={verbosity: 0}", "--model=steered")
    sample(prompts, tmp_path / "out", tiny_llava, *SHORT, *options)
    assert all(each.messages[-1].content[-1].text.endswith("Complexity:2,Verbosity:0") for each in seen)
    for before, after in zip(read(prompts), read(tmp_path / "out"), strict=True):
        assert after.messages == before.messages
        assert after.responses[0].model == "steered"
        assert after.responses[0].sampling["attributes"].endswith("complexity 2, verbosity 0")
        assert after.responses[0].sampling["adapter_hash"].startswith("sha256 ")


def test_prompts_that_cannot_be_asked_are_named_and_kept(tiny_llava, png, tmp_path, capsys):
    with ShardWriter(tmp_path / "in") as writer:
        for key, data, text in (
            ("ok", png("red"), "?"),
            ("cut", png("red")[:60], "?"),
            ("long", png("red"), "a " * 3000),
        ):
            messages = (Message("user", (ImageSlot(), Text(text))),)
            writer.write(Sample(key=key, messages=messages, images=(data,), id=key))
    sample(tmp_path / "in", tmp_path / "out", tiny_llava, *SHORT)
    said = capsys.readouterr().out
    assert "not answered: cut: picture 0: the picture cannot be decoded" in said
    assert "not answered: long: " in said
    assert "3 samples, 2 answers, 2 of them cut, 4 answers missing." in said
    assert [(each.key, len(each.responses)) for each in read(tmp_path / "out")] == [("ok", 2), ("cut", 0), ("long", 0)]


def test_shards_of_which_nothing_can_be_asked_are_not_written(tiny_llava, png, tmp_path):
    with ShardWriter(tmp_path / "in") as writer:
        messages = (Message("user", (ImageSlot(), Text("?"))),)
        writer.write(Sample(key="cut", messages=messages, images=(png("red")[:60],)))
    with pytest.raises(ValueError, match="None of the 1 prompts was answered"):
        sample(tmp_path / "in", tmp_path / "out", tiny_llava, *SHORT)
    assert not (tmp_path / "out").exists()


def test_a_server_answers_and_is_asked_once(prompts, tmp_path, capsys):
    """Run again, and again with more answers a prompt: only what is new is asked for."""
    with MockApi(answer=lambda body: f"{words(body)} {body['seed']}") as api:
        options = [f"--shards={prompts}", f"--out={tmp_path / 'out'}", f"--server={api.url}", "--model=llava"]
        main(["sample", *options, "--num=2"])
        for made in read(tmp_path / "out"):
            for number, response in enumerate(made.responses):
                assert response.model == "llava"
                assert response.text.endswith(f" {answer_seed(made.id, number)}")
        assert (api.count(), lineage_of(Manifest.load(tmp_path / "out"))[-1].settings["url"]) == (12, api.url)
        main(["sample", *options, "--num=2"])
        assert api.count() == 12
        assert "is there already" in capsys.readouterr().out
        main(["sample", *options, "--num=3", "--overwrite=true"])
        assert api.count() == 18
    assert [len(made.responses) for made in read(tmp_path / "out")] == [3] * 6


@pytest.mark.slow
def test_our_own_server_gives_the_answers_of_the_model_here(prompts, tiny_llava, tmp_path):
    """Over HTTP or not, the same seed is the same answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key = tmp_path / "key"
    key.write_text("one-key-of-this-test-0123456789abcdef\n")
    command = [sys.executable, "-m", "mmalign.cli", "serve", "--base", tiny_llava, "--port", str(port)]
    command += [f"--api_keys={key}"]
    with (tmp_path / "log.txt").open("wb") as log:
        server = subprocess.Popen(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        sample(prompts, tmp_path / "here", tiny_llava, *SHORT, "--template=vicuna_v1")
        wait_until_healthy(f"http://127.0.0.1:{port}/readyz", server, tmp_path / "log.txt")
        options = [f"--server=http://127.0.0.1:{port}/v1", "--model=base", f"--key_file={key}", "--num=2"]
        main(["sample", f"--shards={prompts}", f"--out={tmp_path / 'there'}", "--max_new_tokens=6", *options])
    finally:
        server.terminate()
        server.wait(20)
    for here, there in zip(read(tmp_path / "here"), read(tmp_path / "there"), strict=True):
        assert [each.text for each in here.responses] == [each.text for each in there.responses]
        assert [each.sampling["finish_reason"] for each in there.responses] == ["length"] * 2


def wait_until_healthy(url, server, log):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    pytest.fail("the server did not become healthy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num=0",), "`--num` must be 1 or more, got 0"),
        (("--temperature=0",), "At temperature 0 all 4 answers of a prompt would be equal"),
        (("--batch_size=0",), "`--batch_size` must be 1 or more"),
        (("--adapter=absent",), "No adapter in absent"),
        (("--checkpoint=./absent",), "No usable LLaVA at './absent'"),
        (("--attributes={verbosity: 0}",), "none of SteerLM"),
        (("--concurrency=3", "--max_side=9"), "--max_side, --concurrency: only with `--server`"),
        (("--server=http://localhost:1/v1", "--model=a", "--adapter=b"), "--adapter: of a model here"),
        (("--server=http://localhost:1/v1",), "Which model shall be asked.*--model"),
        (("--server=localhost", "--model=a"), "must be an address"),
        (("--out={in}",), "is what --shards reads"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(prompts, tmp_path, options, message):
    given = [each.format_map({"in": prompts}) if each.startswith("--out") else each for each in options]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main(["sample", f"--shards={prompts}", f"--out={tmp_path / 'out'}", *given])
    assert not list(tmp_path.iterdir())


def test_a_server_is_asked_by_one_process(prompts, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="One process is enough to ask a server"):
        main(["sample", f"--shards={prompts}", f"--out={tmp_path / 'out'}", "--server=http://localhost:1", "--model=a"])
