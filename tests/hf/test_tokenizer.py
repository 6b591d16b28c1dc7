"""The byte tokenizer is lossless, and survives saving."""

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from seqconv.hf.tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()


@given(st.text())
def test_ids_are_the_bytes_and_decode_to_the_text(text):
    ids = TOKENIZER(text)["input_ids"]
    assert ids == list(text.encode())
    assert TOKENIZER.decode(ids) == text


def test_every_byte_has_a_token():
    assert len(TOKENIZER) == 259
    assert len({TOKENIZER.convert_ids_to_tokens(byte) for byte in range(256)}) == 256


def test_special_tokens_and_left_padding():
    batch = TOKENIZER(["a", "abc"], padding=True)
    assert batch["input_ids"] == [[257, 257, 97], [97, 98, 99]]
    assert batch["attention_mask"] == [[0, 0, 1], [1, 1, 1]]
    assert TOKENIZER.eos_token_id == 256
    assert TOKENIZER.decode([97, 256, 257], skip_special_tokens=True) == "a"


def test_masked_bytes():
    ids = TOKENIZER("a<mask>c")["input_ids"]
    assert ids == [97, TOKENIZER.mask_token_id, 99] == [97, 258, 99]


TALK = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
]


def test_the_chat_template_marks_what_the_assistant_says(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    for tokenizer in (TOKENIZER, AutoTokenizer.from_pretrained(tmp_path)):
        text = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
        assert text == "user: One?\nassistant: Two.<eos>\nuser: Three?\nassistant: "
        batch = tokenizer.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
        said = [i for i, mine in zip(batch["input_ids"], batch["assistant_masks"], strict=True) if mine]
        assert tokenizer.decode(said) == "Two.<eos>"


def test_saved_and_loaded(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "déjà vu\n\t\x00 'tis  "
    assert loaded(text)["input_ids"] == list(text.encode())
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.padding_side == "left"
