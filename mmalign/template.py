"""Conversation -> tokens: one implementation for training, sampling and serving.

LLaVA-1.5 speaks Vicuna v1 (LLaVA `conversation.py`, `vicuna_v1`):

    A chat between ... the user's questions. USER: <image>
    {question} ASSISTANT: {answer}</s>USER: {question} ASSISTANT:

Text is always text. A user's literal `<image>` or `</s>` is tokenised into ordinary characters
(`split_special_tokens`), and only an `ImageSlot` becomes image tokens: never truncated, never guessed.
Each stretch between special tokens is tokenised by itself, so a prompt has the same tokens whatever answers follow.
"""

from collections.abc import Sequence
from typing import Literal

from transformers import LlavaProcessor

from mmalign.messages import ImageSlot, Message

ANCHOR = ":"
"""Stands in front of a stretch while it is tokenised or decoded; the last character of `ASSISTANT:`."""
TemplateName = Literal["vicuna_v1", "llava_hf"]

SYSTEM_SENTENCES: dict[TemplateName, str] = {
    "vicuna_v1": (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    "llava_hf": "",  # the chat template that llava-hf publishes on the hub has no system sentence
}

CHAT_TEMPLATES: dict[TemplateName, str] = {
    name: (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}"
        f"{{% else %}}{{{{ '{sentence + ' ' if sentence else ''}' }}}}{{% endif %}}"
        "{% for message in messages %}{% if message['role'] == 'user' %}USER: "
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}"
        "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %} ASSISTANT:"
        "{% elif message['role'] == 'assistant' %} "
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
        "{{ eos_token }}{% endif %}{% endfor %}"
    ).replace("user's", "user\\'s")
    for name, sentence in SYSTEM_SENTENCES.items()
}
"""The same formats in Jinja, written into every export, so that plain transformers speaks as the model was trained."""


class Template:
    """Turns messages into prompt tokens and answers into response tokens, for one processor."""

    def __init__(self, processor: LlavaProcessor, name: TemplateName = "vicuna_v1") -> None:
        """Remember the special tokens.

        Args:
            processor: Tokenizer and image processor of the checkpoint.
            name: `vicuna_v1` as LLaVA-1.5 and the paper use it, `llava_hf` without the system sentence.
        """
        self.name = name
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.system = SYSTEM_SENTENCES[name]
        self.image_token_id: int = processor.image_token_id
        self.bos_token_id: int = self.tokenizer.bos_token_id
        self.eos_token_id: int = self.tokenizer.eos_token_id
        self.num_image_tokens = _num_image_tokens(processor)
        self._anchor_ids: list[int] = self._plainly(ANCHOR)
        self._space_behind_special = self._puts_space_behind_special()

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens up to and including the last `ASSISTANT:`; every picture as its `num_image_tokens` image tokens.

        An assistant turn at the very end is an opening that the answer goes on from: its tokens, too, but no end
        token. Transformers makes the same of these messages with `continue_final_message=True`.
        """
        system = next((m for m in messages if m.role == "system"), None)
        opening = _plain(system) if system else self.system
        ids = [self.bos_token_id]
        text = f"{opening} " if opening else ""
        for message in messages:
            if message.role == "user":
                text += "USER: "
                for part in message.content:
                    if isinstance(part, ImageSlot):
                        ids += self._behind_special(text) + [self.image_token_id] * self.num_image_tokens
                        text = "\n"
                    else:
                        text += part.text
                text += " ASSISTANT:"
            elif message.role == "assistant":
                ids += self._behind_special(text) + self.encode_response(_plain(message))
                text = ""
        if messages and messages[-1].role == "assistant":
            return ids[:-1]
        return ids + self._behind_special(text)

    def encode_response(self, text: str) -> list[int]:
        """Tokens of an answer behind `ASSISTANT:`, with the end token."""
        return [*self._behind_text(f" {text}"), self.eos_token_id]

    def decode_response(self, ids: Sequence[int]) -> str:
        """The answer's text; an end token and the leading space are dropped, all else is kept as it is."""
        dropped = (self.eos_token_id, self.tokenizer.pad_token_id)  # a property each, and slow
        kept = [i for i in ids if i not in dropped]
        # Behind an anchor, because Llama's tokenizer drops the first space of whatever it decodes.
        text = str(self.tokenizer.decode([*self._anchor_ids, *kept], skip_special_tokens=False))
        return text.removeprefix(ANCHOR).removeprefix(" ")

    def _behind_special(self, text: str) -> list[int]:
        """Tokens of a stretch that stands behind `<s>`, `</s>` or a picture, as transformers makes them in place."""
        if not text:
            return []
        return self._plainly(text) if self._space_behind_special else self._behind_text(text)

    def _behind_text(self, text: str) -> list[int]:
        """Tokens of a stretch that goes on behind other text: no space is put in front."""
        encoded = self.tokenizer(
            ANCHOR + text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        first = next((i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(ANCHOR)), None)
        return list(encoded["input_ids"][first:]) if first is not None else []

    def _plainly(self, text: str) -> list[int]:
        """Tokens of a text by itself; some tokenizers put a space in front."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def _puts_space_behind_special(self) -> bool:
        """Whether the tokenizer puts a space behind every special token, as Llama's does in its `legacy` mode."""
        behind = self.tokenizer(f"{self.tokenizer.bos_token}A", add_special_tokens=False)["input_ids"]
        return list(behind[1:]) != self._behind_text("A")


def own_template(processor: LlavaProcessor) -> TemplateName:
    """The format that a checkpoint's own chat template has, if it is one of ours; else `vicuna_v1`."""
    found = (name for name, text in CHAT_TEMPLATES.items() if text == processor.chat_template)
    return next(found, "vicuna_v1")


def _plain(message: Message) -> str:
    """Text of a turn that may not hold pictures."""
    if any(isinstance(part, ImageSlot) for part in message.content):
        raise ValueError(f"Only user turns can hold pictures, this one is a {message.role} turn. Move the image part.")
    return "".join(part.text for part in message.content if not isinstance(part, ImageSlot))


def _num_image_tokens(processor: LlavaProcessor) -> int:
    """Tokens that stand for one picture: 576 for LLaVA-1.5 (336 px, 14 px patches, CLS dropped)."""
    counts = processor._get_num_multimodal_tokens(image_sizes=[[1, 1]])
    return int(counts.num_image_tokens[0])
