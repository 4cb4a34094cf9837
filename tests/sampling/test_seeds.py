"""Seeds: of the sample and the answer's number, and those that the shipped shards name."""

from mmalign.data.reader import ShardSet
from mmalign.data.rowset import Source
from mmalign.sampling.seeds import answer_seed


def test_seeds_are_those_of_the_shipped_shards():
    shipped = ShardSet(Source(path="world").resolve())
    for number in range(0, len(shipped), 50):
        sample = shipped[number]
        seeds = [response.sampling["seed"] for response in sample.responses if response.sampling]
        assert seeds == [answer_seed(sample.id, k) for k in range(4)]


def test_a_seed_is_crc32_of_id_and_number():
    """Worked out with zlib: crc32(b"a answer 0") and crc32(b"7 a answer 0")."""
    assert answer_seed("a", 0) == 0xB602FEB7
    assert answer_seed("a", 0, seed=7) == 0xC87000F2


def test_samples_numbers_and_seeds_give_other_seeds():
    found = {answer_seed(name, number, seed) for name in "ab" for number in range(4) for seed in range(3)}
    assert len(found) == 24
