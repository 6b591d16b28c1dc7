"""Train a byte-level language model on the Python standard library, save it, load it back and let it write.

python examples/train_causal_lm.py --mixer mamba --steps 300 --out outputs/python-lm
seqconv generate outputs/python-lm --prompt "def "
"""

import sysconfig
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from seqconv import SeqConvConfig, SeqConvForCausalLM, parameter_groups
from seqconv.hf.tokenizer import byte_tokenizer


class Windows(Dataset[dict[str, Tensor]]):
    """Consecutive chunks of one long text, as inputs and labels (the model shifts the labels itself)."""

    def __init__(self, tokens: Tensor, length: int) -> None:
        self.rows = tokens[: len(tokens) // length * length].view(-1, length)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def standard_library(characters: int) -> str:
    """The first characters of the interpreter's own sources."""
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return "\n".join(source.read_text(encoding="utf-8", errors="replace") for source in sources)[:characters]


def main(
    mixer: Annotated[str, typer.Option(help="See `seqconv list`.")] = "mamba",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 300,
    length: Annotated[int, typer.Option(help="Bytes per window.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Windows per step.")] = 8,
    width: Annotated[int, typer.Option(help="d_model.")] = 128,
    layers: Annotated[int, typer.Option(help="Blocks.")] = 4,
    characters: Annotated[int, typer.Option(help="How much text.")] = 2_000_000,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")] = Path("outputs/python-lm"),
) -> str:
    """Train, save, load, generate; returns the text."""
    set_seed(0)
    tokenizer = byte_tokenizer()
    tokens = torch.tensor(tokenizer(standard_library(characters))["input_ids"])
    config = SeqConvConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, mixer=mixer, mlp="gelu",
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    arguments = TrainingArguments(
        str(out / "runs"), max_steps=steps, per_device_train_batch_size=batch_size, warmup_steps=steps // 10,
        lr_scheduler_type="cosine", logging_steps=max(1, steps // 10), save_strategy="no", report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    model = SeqConvForCausalLM(config)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=2e-3, weight_decay=0.05))
    trainer = Trainer(model, arguments, train_dataset=Windows(tokens, length), optimizers=(optimizer, None))
    trainer.train()
    trainer.save_model(str(out))
    tokenizer.save_pretrained(out)

    model, tokenizer = AutoModelForCausalLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    prompt = tokenizer("def ", return_tensors="pt")
    text = tokenizer.decode(model.generate(**prompt, max_new_tokens=min(200, length), do_sample=True, top_p=0.9)[0])
    print(text)
    return text


if __name__ == "__main__":
    typer.run(main)
