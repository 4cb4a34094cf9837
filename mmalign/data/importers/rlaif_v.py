r"""RLAIF-V: pairs of a model's own answers, told apart by open models that checked their claims one by one.

    {"ds_name": "RLAIF-V", "image": {"bytes": jpeg, "path": "0.jpg"}, "question": "What is this?", "chosen": "A bus.",
     "rejected": "A red car.", "origin_dataset": "COCO", "idx": "0", "image_path": "llava1.5/0.jpg",
     "origin_split": "{\"model\": \"LLaVA15-7B\", \"feedback model\": \"...\", \"type\": \"question answering\"}"}

becomes

    Sample(key="0000000", id="0", messages=(Message("user", (ImageSlot(), Text("What is this?"))),), images=(jpeg,),
           responses=(Response(text="A bus.", model="LLaVA15-7B"), Response(text="A red car.", model="LLaVA15-7B")),
           preference=Preference(chosen=0, rejected=1))

Data    https://huggingface.co/datasets/openbmb/RLAIF-V-Dataset
Tests   tests/data/importers/test_rlhf_v.py
"""

from collections.abc import Iterable, Iterator

from mmalign.data.importers import Skipped
from mmalign.data.importers.conversations import Identity, PictureSource, Record, Row, convert
from mmalign.data.importers.rlhf_v import embedded_object, picture_of, picture_pair
from mmalign.data.sample import Sample


def read_rlaif_v(
    rows: Iterable[Row | Skipped], pictures: PictureSource | None, *, source: str
) -> Iterator[Sample | Skipped]:
    """Samples of RLAIF-V's records.

    Args:
        rows: As `open_records` reads them.
        pictures: Where those lie that a record only names; None leaves all out.
        source: Name of the data set.
    """

    def build(record: Record, identity: Identity) -> Sample:
        model = str(embedded_object(record, "origin_split").get("model", ""))
        return picture_pair(record, picture_of(record), pictures, identity, models=(model, model))

    return convert(rows, build, source=source, name_field="idx")
