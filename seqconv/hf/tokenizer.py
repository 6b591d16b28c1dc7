"""One token per byte: a tokenizer without a vocabulary to train, for language models on any text or data."""

from typing import TYPE_CHECKING, Any

from seqconv_kernels._core.errors import argument_error

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


CHAT = """\
{% for message in messages %}
{{ message['role'] + ': ' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}
{{- message['content'] + eos_token }}
{%- endgeneration %}
{%- else %}
{{- message['content'] }}
{%- endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'assistant: ' }}
{%- endif %}
"""
"""A line ``role: content`` for each message; those of the assistant end with ``<eos>`` and can be trained on alone."""


def byte_tokenizer(*, end: int | None = None, padding: int | None = None) -> "PreTrainedTokenizerFast":
    """A tokenizer whose token ids are the UTF-8 bytes; ``<eos>`` = 256, ``<pad>`` = 257, ``<mask>`` = 258.

    It pads on the left, has a chat template, and is saved and loaded like any other one of transformers.

    Args:
        end, padding: bytes that end a text and pad it instead, both or none: 0 and 1 are those of Evo and Evo 2
            (``CharLevelTokenizer`` of Zymrael/vortex). There is no ``<mask>`` and no chat template then.

    Raises:
        ValueError: one of them alone, or a number that is no byte.

    >>> tokenizer = byte_tokenizer()
    >>> tokenizer("né").input_ids
    [110, 195, 169]
    >>> tokenizer.decode([110, 195, 169])
    'né'
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = _letters()
    core = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    special: dict[str, Any] = {
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "chat_template": CHAT,
    }
    if end is not None or padding is not None:
        if end is None or padding is None or not (0 <= end < 256 and 0 <= padding < 256):
            got = f"end={end}, padding={padding}"
            raise argument_error("byte_tokenizer", got, "two bytes, or none", "pass numbers from 0 to 255")
        # Letters of a text are always bytes: those of the special tokens mean them in lists of ids alone.
        special = {"eos_token": letters[end], "pad_token": letters[padding], "split_special_tokens": True}
    return PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side="left", clean_up_tokenization_spaces=False, **special
    )


def _letters() -> list[str]:
    """The letter that stands for each byte inside the tokenizers library: itself if visible, else one from 256 on."""
    spare = iter(range(256, 512))
    visible = [chr(byte).isprintable() and byte != ord(" ") for byte in range(256)]
    return [chr(byte if visible[byte] else next(spare)) for byte in range(256)]
