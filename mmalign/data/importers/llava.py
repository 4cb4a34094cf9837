r"""LLaVA-style JSON: a list of conversations, pictures beside it.

    [{"id": "000000033471", "image": "coco/train2017/000000033471.jpg",
      "conversations": [{"from": "human", "value": "<image>\nWhat are the colors of the bus?"},
                        {"from": "gpt", "value": "The bus is white and red."}]}]

becomes

    Sample(key="0000000", id="000000033471", images=(jpeg,),
           messages=(Message("user", (ImageSlot(), Text("What are the colors of the bus?"))),),
           responses=(Response(text="The bus is white and red.", model="gold"),))

The last answer is the response, earlier ones stay in the prompt.

Data    https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K
Tests   tests/data/importers/test_llava.py
"""

from collections.abc import Iterable, Iterator

from mmalign.data.importers import Skipped
from mmalign.data.importers.conversations import (
    Identity,
    PictureSource,
    Record,
    Row,
    as_list,
    convert,
    gold_sample,
    illustrate,
    parse_turns,
    split_answer,
)
from mmalign.data.sample import Sample


def read_llava(
    rows: Iterable[Row | Skipped], pictures: PictureSource | None, *, source: str
) -> Iterator[Sample | Skipped]:
    """Samples of LLaVA-style records.

    Args:
        rows: As `open_records` reads them.
        pictures: Where they lie; None leaves them out.
        source: Name of the data set.
    """

    def build(record: Record, identity: Identity) -> Sample:
        prompt, answer = split_answer(parse_turns(record.get("conversations")))
        messages, images = illustrate(prompt, as_list(record.get("image")), pictures)
        return gold_sample(messages, images, answer, identity)

    return convert(rows, build, source=source)
