"""Who judged."""

from mmalign.data.reader import ShardSet
from mmalign.tools.inspection.judges import Judged, Judges


def test_ratings_reasons_and_failures_are_counted_by_judge(rich):
    judges, shard_set = Judges(), ShardSet(str(rich))
    for number in range(len(shard_set)):
        judges.add(shard_set[number])
    assert judges.samples == 4
    assert judges.found == {
        "gemini": Judged(ratings=3, reasons=2),
        "gpt": Judged(ratings=1, reasons=1),
        "claims": Judged(invalid=1),
    }
