"""Answers that are written together: rows join and leave a running batch between any two tokens.

    row 0   . . . . p p p p p a a a _ _        p: prompt   a: answer   .: padding   _: room
    row 1   p p p p p p p p p p a a _ _
    row 2   . . . . . . . . . . p a _ _        has just joined

Rows are padded on the left, so that all new tokens stand in one column. A prompt is read alone, exactly as offline,
then its keys and values are put beside the others'; a row that leaves takes its own along, and padding that no row
needs any more is cut. Padding is never looked at, and positions are counted without it, so the others of a batch
change nothing but the rounding. There is room for some more tokens, so that writing one does not copy all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, DynamicCache, LlavaForConditionalGeneration
from transformers.cache_utils import DynamicLayer

ROOM = 128
"""Columns made at a time. A copy of everything each 128 tokens is about one percent of writing them."""


@dataclass
class Row:
    """One answer on its way."""

    adapter: str
    length: int
    """Tokens in the cache."""
    token: int = -1
    """The latest, which is not in the cache yet; it is known before the next step."""


class RunningBatch:
    """Keys, values and lengths of the rows that run."""

    def __init__(self, llava: LlavaForConditionalGeneration) -> None:
        self.llava = llava
        self.rows: list[Row] = []
        self._layers: list[_RoomyLayer] = []

    def join(self, cache: DynamicCache, rows: Sequence[Row]) -> None:
        """Put rows beside the others.

        Args:
            cache: Of their prompt, one row; it is repeated.
            rows: The answers to that prompt.
        """
        theirs = [_RoomyLayer.of(keys, values) for keys, values in _states(cache)]
        self._join(theirs, len(rows))
        self.rows += rows

    def leave(self, gone: Sequence[int]) -> None:
        """Take rows out, by their places."""
        left_out = set(gone)
        kept = [place for place in range(len(self.rows)) if place not in left_out]
        self.rows = [self.rows[place] for place in kept]
        if not self.rows:
            self._layers = []
            return
        width = max(row.length for row in self.rows)
        for place, layer in enumerate(self._layers):  # one by one: memory for both copies of one layer is enough
            self._layers[place] = layer.rows(kept, width)

    def alone(self, place: int) -> "RunningBatch":
        """A batch of one row, which has its own cache; this one keeps the row."""
        single = RunningBatch(self.llava)
        single.rows = [self.rows[place]]
        single._layers = [layer.rows([place], self.rows[place].length) for layer in self._layers]
        return single

    def gather(self, singles: "Sequence[RunningBatch]") -> None:
        """Become these batches together."""
        self.rows, self._layers = [], []
        for single in singles:
            self._join(single._layers, 1)
            self.rows += single.rows

    def step(self) -> Float[Tensor, "rows vocab"]:
        """Read the latest token of every row; the logits behind it, float32. If it raises, nothing has changed."""
        lengths = [row.length for row in self.rows]
        device = self.llava.device
        places = torch.tensor(lengths, device=device)[:, None]
        width = self._layers[0].width + 1
        mask = None  # nothing is padded
        if min(lengths) + 1 < width:
            mask = (torch.arange(width, device=device) >= width - 1 - places)[:, None, None]
        try:
            # The language model itself: there are no pictures to look for, and the mask is made already.
            output = self.llava.model.language_model(
                input_ids=torch.tensor([[row.token] for row in self.rows], device=device),
                attention_mask=mask,
                position_ids=places,
                past_key_values=Cache(layers=list(self._layers)),
                use_cache=True,
            )
            logits: Tensor = self.llava.lm_head(output.last_hidden_state[:, -1:])
        except Exception:
            for layer in self._layers:  # those before the one that failed have got the token
                layer.show(width - 1)
            raise
        for row in self.rows:
            row.length += 1
        return logits[:, -1].float()

    def _join(self, theirs: "list[_RoomyLayer]", times: int) -> None:
        mine: Sequence[_RoomyLayer | None] = self._layers or [None] * len(theirs)
        self._layers = [other.beside(layer, times) for layer, other in zip(mine, theirs, strict=True)]


class _RoomyLayer(DynamicLayer):
    """Keys and values of one layer, [rows, heads, columns, width of a head], in the front of larger tensors."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, width: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self._all_keys, self._all_values = keys, values
        self.show(width)

    @classmethod
    def of(cls, keys: Tensor, values: Tensor) -> "_RoomyLayer":
        return cls(keys, values, keys.shape[-2])

    @property
    def width(self) -> int:
        return int(self.keys.shape[-2])

    def show(self, width: int) -> None:
        """Hold so many columns."""
        self.keys, self.values = self._all_keys[:, :, :width], self._all_values[:, :, :width]

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **more: object) -> tuple[Tensor, Tensor]:
        """Add columns."""
        start, end = self.width, self.width + key_states.shape[-2]
        if end > self._all_keys.shape[-2]:
            # Both, then both assigned: if there is no memory for the second, nothing has changed.
            self._all_keys, self._all_values = _with_room(self.keys, end), _with_room(self.values, end)
        self._all_keys[:, :, start:end] = key_states
        self._all_values[:, :, start:end] = value_states
        self.show(end)
        return self.keys, self.values

    def rows(self, places: Sequence[int], width: int) -> "_RoomyLayer":
        """A layer of these rows, with so many columns of them, and the room that is left."""
        chosen, start = list(places), self.width - width
        return _RoomyLayer(self._all_keys[chosen, :, start:], self._all_values[chosen, :, start:], width)

    def beside(self, left: "_RoomyLayer | None", times: int) -> "_RoomyLayer":
        """A layer of the rows of the left one, and behind them of its own, so many times."""
        width = self.width if left is None else max(self.width, left.width)
        keys = _side_by_side(None if left is None else left.keys, self.keys, times, width)
        values = _side_by_side(None if left is None else left.values, self.values, times, width)
        return _RoomyLayer(keys, values, width)


def _states(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer."""
    return [(cast(DynamicLayer, layer).keys, cast(DynamicLayer, layer).values) for layer in cache.layers]  # type: ignore[misc]


def _with_room(states: Tensor, width: int) -> Tensor:
    rows, heads, _, size = states.shape
    wider = states.new_zeros(rows, heads, width + ROOM, size)
    wider[:, :, : states.shape[-2]] = states
    return wider


def _side_by_side(left: Tensor | None, right: Tensor, times: int, width: int) -> Tensor:
    start = 0 if left is None else len(left)
    rows, heads, columns, size = right.shape
    # Zeros, not whatever memory held: weight 0 does not make a NaN harmless.
    both = right.new_zeros(start + rows * times, heads, width + ROOM, size)
    if left is not None:
        both[:start, :, width - left.shape[-2] : width] = left
    both[start:, :, width - columns : width] = right.repeat_interleave(times, dim=0)
    return both
