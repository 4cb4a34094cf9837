"""What a training step holds in memory, in bytes, by arithmetic: nothing is loaded, nothing runs.

One decoder layer with adapters keeps for its backward pass, a position (h width of the stream, i of the MLP, q of all
queries, k of all keys, r rank, e bytes of an activation: 2 under bfloat16 autocast, else 4):

    two norms        2 x 4 h            inputs in float32, `LlamaRMSNorm`
    seven adapters   (6 h + i) e        what enters `lora_A`; without autocast and dropout some share it: (3 h + i) e
                     7 r e              between `lora_A` and `lora_B`
                     (6 h + i) m        dropout masks: m = 1 on a GPU (`native_dropout`), 4 on the CPU, 0 without
    attention        (2 q + 2 k) e      queries, keys, values and the outcome; scores are never stored (SDPA)
    MLP              3 i e              gate, its SiLU, up

A recomputed layer keeps h e, and all of the above again while the backward pass is in it. Beside what is kept, most is
alive in the last linear of the MLP: its input in float32 and after dropout for the adapter, and four streams.

The method, per-layer sums of saved tensors: Korthikanti et al., 2022, https://arxiv.org/abs/2205.05198, section 4.
Sharding: ZeRO, Rajbhandari et al., 2020, https://arxiv.org/abs/1910.02054, section 5; buffers: DeepSpeed's source.

Tests    tests/test_memory.py: saved tensors, allocations of whole steps of 13B and AdamW's state, as they are
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from transformers import LlavaConfig

from mmalign.architecture import adapter_parameters, count_parameters, image_tokens
from mmalign.logps import CHUNK

FLOAT32, BFLOAT16 = 4, 2
MOMENTS = 2
"""Of AdamW, in float32 as the weights that it trains."""
LINEARS = 7
"""Of a decoder layer that carry an adapter, see `backbone.LANGUAGE_LINEARS`."""

Sharding = Literal["replicated", "ddp", "zero3"]
"""How ranks share the model: alone, whole copies that average gradients, DeepSpeed's ZeRO-3."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The frozen model and what trains on it."""

    config: LlavaConfig
    rank: int
    """Of the adapters."""
    weight_bytes: int = BFLOAT16
    """Of a frozen parameter."""
    trains_projector: bool = False
    starts_from_adapter: bool = False
    """Whether a second, frozen adapter is the reference."""

    @property
    def frozen(self) -> int:
        """Parameters of the checkpoint; also of its projector where a copy trains."""
        return count_parameters(self.config).total

    @property
    def adapters(self) -> int:
        """Parameters of the policy's adapters, without the projector."""
        return count_parameters(self.config).layers * adapter_parameters(self.config, self.rank)

    @property
    def trained(self) -> int:
        """Parameters with gradients, all in float32."""
        return self.adapters + (count_parameters(self.config).projector if self.trains_projector else 0)


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """One forward and backward pass on one device."""

    rows: int
    tokens: int
    """Of each row, padding included."""
    pictures: int
    """Of all rows."""
    targets: int
    """Trained tokens of all rows."""
    autocast: bool
    """Whether products run in bfloat16; without, everything is float32."""
    dropout: bool
    """Whether the adapters have any."""
    on_gpu: bool
    """A GPU keeps a dropout mask in a byte a value, the CPU in four."""
    recomputed: float = 0.0
    """Share of the decoder layers under gradient checkpointing, in [0, 1]."""


class Activations(NamedTuple):
    """Bytes of a forward and backward pass."""

    kept: int
    """Saved between forward and backward, and gone when the gradients are there; without one layer."""
    layer: int
    """Saved by the layer that the backward pass is in."""
    working: int
    """Most that is alive beside these at one time."""

    @property
    def saved(self) -> int:
        """All that is saved where no layer is recomputed."""
        return self.kept + self.layer


@dataclass(frozen=True, kw_only=True)
class Zero:
    """What of DeepSpeed's `zero_optimization` takes memory, in elements; its defaults, and Lightning's for buckets."""

    stage3_max_live_parameters: int = 1_000_000_000
    stage3_prefetch_bucket_size: int = 50_000_000
    reduce_bucket_size: int = 200_000_000


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The ranks of a run and how they share the model."""

    sharding: Sharding
    ranks: int
    """Of all nodes."""
    per_node: int
    zero: Zero = field(default_factory=Zero)


class Item(NamedTuple):
    """One line of a plan."""

    name: str
    bytes: int
    how: str
    """Where the number comes from."""


def activations(model: Model, batch: MicroBatch) -> Activations:
    """Of the policy's pass over one micro-batch. A reference that is asked live runs after it and keeps nothing."""
    text: Any = model.config.text_config
    element = BFLOAT16 if batch.autocast else FLOAT32
    positions = batch.rows * batch.tokens
    stream = positions * text.hidden_size * element
    layers: int = text.num_hidden_layers
    recomputed = round(batch.recomputed * layers)
    layer = _layer(model, batch, element)
    kept = recomputed * stream + max(layers - recomputed - 1, 0) * layer + _shared(model, batch, element)
    inner = positions * text.intermediate_size
    casts = FLOAT32 if batch.autocast else 0
    working = inner * (element + casts + (casts if batch.dropout else 0)) + 4 * stream
    if not (batch.autocast or batch.dropout):
        working -= inner * element  # the MLP's product itself is what its adapter keeps
    absent = layer if recomputed == layers else 0  # no layer is whole while the head runs
    return Activations(kept, layer, max(working, _head(model, element) - absent))


def _layer(model: Model, batch: MicroBatch, element: int) -> int:
    """Kept by one decoder layer, see above."""
    text: Any = model.config.text_config
    width, inner = text.hidden_size, text.intermediate_size
    head = getattr(text, "head_dim", None) or width // text.num_attention_heads
    copies = 6 if batch.autocast or batch.dropout else 3
    masks = 0 if not batch.dropout else 1 if batch.on_gpu else FLOAT32
    norms = 2 * FLOAT32 * (width + 1)
    adapters = (copies * width + inner + LINEARS * model.rank) * element + (6 * width + inner) * masks
    attention = 2 * (text.num_attention_heads + text.num_key_value_heads) * head * element
    scale = text.num_attention_heads * FLOAT32  # of each softmax
    # Float32 adapters are cast for each product, and the cast ones saved.
    cast = adapter_parameters(model.config, model.rank) * element if batch.autocast else 0
    return int(batch.rows * batch.tokens * (norms + adapters + attention + scale + 3 * inner * element)) + cast


def _shared(model: Model, batch: MicroBatch, element: int) -> int:
    """Kept once: the last norm, rotations, the mask of the answers, directions of the targets, the projector."""
    text: Any = model.config.text_config
    vision: Any = model.config.vision_config
    width = text.hidden_size
    head = getattr(text, "head_dim", None) or width // text.num_attention_heads
    positions = batch.rows * batch.tokens
    answers = min(batch.targets // max(batch.rows, 1), batch.tokens)
    kept = positions * (FLOAT32 * (width + 1) + 2 * head * element)
    kept += batch.rows * answers * batch.tokens * element + batch.targets * width * element
    if model.trains_projector:
        patches = batch.pictures * image_tokens(model.config)
        kept += patches * (vision.hidden_size + 2 * width) * element
        kept += width * width * element if batch.autocast else 0  # its second matrix, cast
    return int(kept)


def _head(model: Model, element: int) -> int:
    """Alive while `logps` takes a chunk of targets: float32 logits, and what they are cast from."""
    text: Any = model.config.text_config
    return int(CHUNK * text.vocab_size * (FLOAT32 + (element if element < FLOAT32 else 0)))


def gpu_items(model: Model, batch: MicroBatch, placement: Placement, *, accumulates: bool) -> list[Item]:
    """Peak memory of one rank in training, by what holds it.

    Args:
        model: What is loaded.
        batch: The largest micro-batch.
        placement: The ranks.
        accumulates: Whether a step has several micro-batches: gradients of earlier ones lie beside activations.
    """
    items = [*weight_items(model, placement), *optimizer_items(model, placement)]
    kept, layer, working = activations(model, batch)
    gradients = sum(item.bytes for item in items if item.name == "gradients")
    rows = f"{batch.rows} rows x {batch.tokens} positions"
    if not accumulates:  # as gradients come, activations go
        kept, rows = max(kept - gradients, 0), f"{rows}, beyond what the gradients take as these go"
    recomputed = f", {batch.recomputed:.0%} of the layers recomputed" if batch.recomputed else ""
    return [
        *items,
        Item("activations", kept + layer, rows + recomputed),
        Item("working space", working, "casts and dropout of the widest linear, or a chunk of logits"),
    ]


def weight_items(model: Model, placement: Placement) -> list[Item]:
    """Frozen and trained weights on one rank, and those that it gathers."""
    parts = placement.ranks if placement.sharding == "zero3" else 1
    cut = f", cut among {parts} ranks" if parts > 1 else ""
    dtype = "bfloat16" if model.weight_bytes == BFLOAT16 else "float32"
    items = [
        Item("frozen weights", model.frozen * model.weight_bytes // parts, f"{model.frozen:,} in {dtype}{cut}"),
        Item("trained weights", model.trained * FLOAT32 // parts, f"{model.trained:,} in float32{cut}"),
    ]
    if model.starts_from_adapter:
        copy = model.trained * FLOAT32 // parts
        items.append(Item("reference", copy, f"the starting adapter once more, frozen, in float32{cut}"))
    if gathered := _gathered(model, placement):
        items.append(gathered)
    return items


def _gathered(model: Model, placement: Placement) -> Item | None:
    if placement.ranks == 1 or placement.sharding != "zero3":
        return None
    sizes = count_parameters(model.config)
    adapter = adapter_parameters(model.config, model.rank)
    average = (model.frozen * model.weight_bytes + model.trained * FLOAT32) / (model.frozen + model.trained)
    zero = placement.zero
    most = max(zero.stage3_max_live_parameters, sizes.layer + adapter, sizes.embeddings)
    elements = min(most, model.frozen + model.trained) + min(zero.stage3_prefetch_bucket_size, model.frozen)
    return Item("gathered weights", int(elements * average), "`stage3_max_live_parameters` and one prefetch, at most")


def optimizer_items(model: Model, placement: Placement) -> list[Item]:
    """Gradients, moments and the copies of both that a strategy makes, on one rank."""
    parts = placement.ranks if placement.sharding == "zero3" else 1
    own = model.trained * FLOAT32 // parts
    items = [
        Item("gradients", own, "one for each trained weight"),
        Item("optimizer moments", MOMENTS * own, "AdamW: two for each trained weight, float32"),
    ]
    if placement.sharding == "ddp" and placement.ranks > 1:
        items.append(Item("gradient buckets", own, "DDP averages gradients in a copy"))
    if placement.sharding == "zero3":
        items.append(Item("master weights", own, "DeepSpeed steps on a copy of the trained weights, float32"))
        bucket = placement.zero.reduce_bucket_size * FLOAT32
        items.append(Item("gradient bucket", bucket, "`reduce_bucket_size`, float32"))
    return items
