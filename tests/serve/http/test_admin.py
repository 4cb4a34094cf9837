"""`/admin/adapters`: what may be added, by which name, from where; and that nothing of the server is told."""

import asyncio
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from openai import NotFoundError, OpenAI
from starlette.testclient import TestClient

from mmalign.serve.http.app import build_app
from mmalign.serve.http.frontend import Frontend
from mmalign.serve.keys import key_hash
from mmalign.serve.messages import BASE, AddAdapter, Ended, Failed, Job, RemoveAdapter, ServedModel
from mmalign.serve.settings import HttpSettings

KEY = "an-admin-key-of-the-tests"


def make_adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def root(tmp_path):
    make_adapter(tmp_path / "root" / "runs" / "good")
    return tmp_path / "root"


@pytest.fixture
def front(root) -> Frontend:
    return Frontend(HttpSettings(adapter_root=root, admin_keys=(key_hash(KEY.encode()),)))


@pytest.fixture
def obedient(worker):
    """A worker that does what it is told."""
    put = worker.put

    def obey(item: tuple) -> None:
        _, uid, _, (_, order) = item
        models = dict(worker._link.models)
        if isinstance(order, AddAdapter):
            models[order.name] = ServedModel(order.name)
        elif isinstance(order, RemoveAdapter):
            del models[order.name]
        else:
            return put(item)
        worker.jobs.append(order)
        worker.tell(uid, Ended(), models=tuple(models.values()))

    worker.put = obey
    return worker


@pytest.fixture
def admin(front, worker) -> TestClient:
    return TestClient(build_app(front), raise_server_exceptions=False, headers={"Authorization": f"Bearer {KEY}"})


def message_of(response) -> str:
    return response.json()["error"]["message"]


def test_an_adapter_is_added_listed_and_removed(admin, obedient, front, root):
    added = admin.post("/admin/adapters", json={"name": "new-1.5", "folder": "runs/good"})
    assert (added.status_code, added.json()) == (201, {"id": "new-1.5", "object": "adapter"})
    assert obedient.jobs == [AddAdapter("new-1.5", root / "runs" / "good")]
    assert [each["id"] for each in admin.get("/admin/adapters").json()["data"]] == ["dpo", "new-1.5"]
    removed = admin.delete("/admin/adapters/new-1.5")
    assert (removed.status_code, removed.json()["deleted"]) == (200, True)
    assert list(front.link.models) == [BASE, "dpo"]
    assert front.link.num_jobs == 0


@pytest.mark.parametrize("folder", ["runs/good", "./runs/../runs/good/", "{root}/runs/good"])
def test_a_folder_may_be_given_from_the_root_or_in_full(admin, obedient, root, folder):
    assert admin.post("/admin/adapters", json={"name": "a", "folder": folder.format(root=root)}).status_code == 201


@pytest.mark.parametrize(
    "folder",
    ["..", ".", "../outside", "{outside}", "/", "/etc", "runs/../../outside", "link", "link/../outside", "runs\0good"],
)
def test_a_folder_outside_of_the_root_is_refused_wherever_links_lead(admin, obedient, root, folder):
    outside = make_adapter(root.parent / "outside")
    (root / "link").symlink_to(outside)
    refused = admin.post("/admin/adapters", json={"name": "a", "folder": folder.format(outside=outside)})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "folder")
    assert str(root.parent) not in refused.text
    assert obedient.jobs == []


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("how", ["missing", "linked to the outside", "a folder"])
def test_a_folder_that_is_no_adapters_is_refused_by_what_it_lacks(admin, obedient, root, name, how):
    file = root / "runs" / "good" / name
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how == "linked to the outside":
        file.symlink_to(make_adapter(root.parent / "outside") / name)
    refused = admin.post("/admin/adapters", json={"name": "a", "folder": "runs/good"})
    assert refused.status_code == 400
    assert name in message_of(refused)
    assert str(root) not in refused.text
    assert obedient.jobs == []


@pytest.mark.parametrize("name", ["", ".a", "a/b", "a b", "ä", "a" * 65, "../a", "a\n"])
def test_a_name_that_the_command_line_would_refuse_is_refused(admin, obedient, name):
    refused = admin.post("/admin/adapters", json={"name": name, "folder": "runs/good"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "name")
    assert obedient.jobs == []


@pytest.mark.parametrize("name", ["base", "dpo"])
def test_a_name_that_is_taken_is_refused(admin, obedient, name):
    assert admin.post("/admin/adapters", json={"name": name, "folder": "runs/good"}).status_code == 409
    assert obedient.jobs == []


@pytest.mark.parametrize("body", [{}, {"name": "a"}, {"name": "a", "folder": "runs/good", "more": 1}, {"name": 1}])
def test_a_wrong_body_is_refused(admin, obedient, body):
    assert admin.post("/admin/adapters", json=body).status_code == 400
    assert obedient.jobs == []


def test_what_the_worker_says_against_an_adapter_reaches_the_admin(admin, worker, front):
    worker.script = [Failed(400, "The adapter does not fit the base.", "folder")]
    refused = admin.post("/admin/adapters", json={"name": "a", "folder": "runs/good"})
    assert (refused.status_code, message_of(refused)) == (400, "The adapter does not fit the base.")
    assert front.link.changes == {}
    worker.script = [Ended()]
    assert admin.post("/admin/adapters", json={"name": "a", "folder": "runs/good"}).status_code == 201


@pytest.mark.parametrize(("name", "status"), [("nobody", 404), ("base", 400)])
def test_what_is_not_there_cannot_be_removed_nor_can_the_base(admin, obedient, name, status):
    assert admin.delete(f"/admin/adapters/{name}").status_code == status
    assert obedient.jobs == []


def test_of_many_that_add_one_name_one_wins(front, worker, root):
    async def all_at_once() -> list[int]:
        transport = httpx2.ASGITransport(app=build_app(front))
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as client:
            body = {"name": "a", "folder": "runs/good"}
            asking = [asyncio.ensure_future(client.post("/admin/adapters", json=body)) for _ in range(8)]
            while sum(task.done() for task in asking) < 7 or not front.link._inboxes:
                await asyncio.sleep(0.01)
            (uid,) = front.link._inboxes
            worker.tell(uid, Ended(), models=(*front.link.models.values(), ServedModel("a")))
            return sorted(response.status_code for response in await asyncio.gather(*asking))

    worker.script = []
    assert asyncio.run(asyncio.wait_for(all_at_once(), 10)) == [201, *[409] * 7]
    assert len(worker.jobs) == 1


def test_without_a_root_none_can_be_added(worker, front):
    bare = Frontend(HttpSettings(admin_keys=front.settings.admin_keys))
    bare.link = front.link
    client = TestClient(build_app(bare), headers={"Authorization": f"Bearer {KEY}"})
    assert client.post("/admin/adapters", json={"name": "a", "folder": "runs/good"}).status_code == 403


def test_requests_for_a_removed_adapter_find_no_model(admin, obedient):
    admin.delete("/admin/adapters/dpo")
    reply = admin.post("/v1/chat/completions", json={"model": "dpo", "messages": [{"role": "user", "content": "hi"}]})
    assert reply.status_code in (401, 403, 404)
    assert not any(isinstance(order, Job) for order in obedient.jobs)


@pytest.mark.slow
def test_an_adapter_joins_and_leaves_a_running_server(start, tiny_adapters, tmp_path):
    """Added, it is listed and answers in one batch with the base; removed, it is not there any more."""
    keys = tmp_path / "keys.txt"
    keys.write_text(KEY)
    folder = tiny_adapters["dpo"]
    broken = folder.parent / "broken"
    shutil.copytree(folder, broken)
    config = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps(config | {"r": 2}))
    server = start(f"--adapter_root={folder.parent}", f"--admin_keys={keys}", "--max_new_tokens=256")
    server.wait_for(200)
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        httpx2.Client(base_url=server.url, headers=headers, timeout=60) as admin,
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):

        def answer(model: str) -> str | None:
            reply = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "hi"}], temperature=0, max_tokens=32
            )
            return reply.choices[0].message.content

        alone = answer("base")
        refused = admin.post("/admin/adapters", json={"name": "late", "folder": "broken"})
        assert refused.status_code == 400
        assert "does not fit the base" in server.log.read_text()
        assert str(folder.parent) not in refused.text
        added = admin.post("/admin/adapters", json={"name": "late", "folder": folder.name})
        assert added.status_code == 201, added.text
        assert [model.id for model in client.models.list()] == ["base", "late"]
        adapted = answer("late")
        assert adapted != alone
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(answer, ["base", "late"] * 3)) == [alone, adapted] * 3
        assert admin.delete("/admin/adapters/late").status_code == 200
        with pytest.raises(NotFoundError):
            answer("late")
        assert answer("base") == alone
