import tarfile
from importlib.resources import files
from pathlib import Path

import pytest

from mmalign.data.sample import Response, parse_sample
from mmalign.tools.build_world_shards import NUM_ANSWERS, build, judged_sample
from mmalign.world.judge import WorldJudge
from mmalign.world.tasks import task, tasks
from mmalign.world.teacher import teacher_answer

COMMITTED = Path(str(files("mmalign"))).parent / "shards"


def records(folder):
    """Every record of a shard set, by its file name."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    found[member.name] = tar.extractfile(member).read()
    return found


def test_a_second_build_gives_the_same_bytes(tmp_path):
    """Sampling is seeded by the task alone, and shards hold no times and no names of machines."""
    for name in ("first", "second"):
        build(tmp_path / name, threads=1, scale=0.01)
    files_of = {
        name: {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("first", "second")
    }
    assert files_of["first"] == files_of["second"]
    built = records(tmp_path / "first" / "world")
    assert len(built) == 5
    assert built.items() <= records(COMMITTED / "world").items(), "the committed shards are of another state"


def test_the_record_holds_what_the_judge_says():
    """Text, ratings and rationale of every sampled answer; pictures as PNG; the id leads back to the task."""
    each = task(tasks("preference", "two_images", 1)[0])
    sample = judged_sample(each, ["The first.", "The second.", "", each.gold], model="embedded")
    again = parse_sample(sample.to_json(), key=sample.key, images=sample.images)
    assert task(again.id) == each
    *sampled, taught = again.responses
    assert [response.text for response in sampled] == ["The first.", "The second.", "", each.gold]
    assert [dict(r.ratings) for r in sampled] == [WorldJudge().rate(each, r.text).scores() for r in sampled]
    assert len({response.sampling["seed"] for response in sampled}) == NUM_ANSWERS
    assert taught == Response(text=teacher_answer(each), model="teacher")
    assert all(image.startswith(b"\x89PNG") for image in again.images)


@pytest.mark.parametrize(("name", "split", "num"), [("world", "preference", 500), ("world-heldout", "heldout", 100)])
def test_the_committed_shards_are_judged_and_small(name, split, num):
    """Every rating is what the judge says today; no prompt is of another split; both sets fit into three megabytes.

    The last answer of each is the teacher's, which nobody rated.
    """
    found = records(COMMITTED / name)
    assert len(found) == num
    for key, text in found.items():
        sample = parse_sample(text, key=key, images=[b""] * text.count(b'"type": "image"'))
        each = task(sample.id)
        assert each.split == split
        *sampled, taught = sample.responses
        assert len(sampled) == NUM_ANSWERS
        assert taught == Response(text=teacher_answer(each), model="teacher")
        for response in sampled:
            assert dict(response.ratings) == WorldJudge().rate(each, response.text).scores()
    sizes = [path.stat().st_size for path in COMMITTED.glob("world*/*")]
    assert sum(sizes) < 3 * 10**6
