"""The reference pass on a small model, and a count of what it asks the model.

    computing = Pass(llava, settings, template)
    store = computing(folder)
    computing.forwards, computing.keys, computing.answers

Used by  tests/reference/
"""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from mmalign.backbone import Llava
from mmalign.data.collate import Collator
from mmalign.data.reader import ShardSet
from mmalign.data.rows import RowEncoder
from mmalign.data.rowset import RowSet, Source
from mmalign.data.shards import ShardWriter
from mmalign.data.store import ScoreFile
from mmalign.fingerprints import store_keys
from mmalign.logps import token_logps
from mmalign.reference import References, frozen


def trained(settings, seed=0):
    """A model in training mode whose adapters do something: with them, every log-probability is another."""
    torch.manual_seed(seed)
    llava = Llava(settings)
    for name, parameter in llava.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    return llava


def write(folder, samples):
    with ShardWriter(folder, max_samples=5) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


class Pass:
    """Completes stores of a folder, and counts what the model is asked."""

    def __init__(self, llava, settings, template, *, max_length=400, **options):
        self.llava, self.settings, self.template, self.max_length = llava, settings, template, max_length
        encoder = RowEncoder(template, max_length=max_length, overlong="truncate")
        collator = Collator(pad_token_id=template.tokenizer.pad_token_id)
        usual = {"micro_batch_size": 2, "progress": False}
        self.computing = References(encoder=encoder, collator=collator, **(usual | options))
        self.forwards, self.keys, self.answers, self.stop_after = 0, [], 0, None

    @contextmanager
    def model(self, adapter=""):
        with frozen(self.llava, adapter, partial(token_logps, self.llava)) as score:

            def counting(batch):
                if self.forwards == self.stop_after:
                    raise KeyboardInterrupt
                self.forwards, self.answers = self.forwards + 1, self.answers + batch.num_responses
                self.keys += batch.keys
                return score(batch)

            yield counting

    def __call__(self, folder, adapter="", **options):
        """The store, by the folder of its shards; all counts begin anew."""
        self.forwards, self.keys, self.answers = 0, [], 0
        keys = store_keys(self.settings, [adapter], self.template, precision="32-true", max_length=self.max_length)
        variant = options.get("variant")
        key = replace(keys[adapter], variant="" if variant is None else repr(variant))
        return self.computing.store(ShardSet(str(folder)), key, partial(self.model, adapter), **options)


def bytes_of(store):
    return {path.name: path.read_bytes() for path in sorted(store.folder.glob("*.arrow"))}


def values_of(store):
    """Token log-probabilities by sample and answer."""
    files = [ScoreFile(path) for path in sorted(store.folder.glob("*.arrow"))]
    scores = [file[number] for file in files for number in range(len(file))]
    return {(s.key, a): v for s in scores for a, v in zip(s.answers, s.logps, strict=True)}


def rows_of(folder, view, store, others=None):
    rows = RowSet([Source(path=str(folder))], view)
    rows.attach([{"": [store]} | (others or {})])
    return rows
