"""Train an image classifier on stripes of three directions, read pixel by pixel, and use it through a pipeline.

python examples/classify_images.py --mixer s4d --steps 40 --out outputs/stripes
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, pipeline, set_seed
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from seqconv import SeqConvConfig, SeqConvForImageClassification, parameter_groups

CLASSES = {0: "horizontal", 1: "vertical", 2: "diagonal"}


def stripes(seed: int, size: int) -> tuple[Image.Image, int]:
    """A noisy grey image of stripes, and the number of its class."""
    random = np.random.default_rng(seed)
    label = int(random.integers(len(CLASSES)))
    rows, columns = np.mgrid[:size, :size]
    along = (rows, columns, rows + columns)[label]
    waves = np.sin(along * random.uniform(1.0, 2.0) + random.uniform(0, 6))
    grey = 127.5 + 70 * waves + random.normal(0, 20, (size, size))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB"), label


class Stripes(Dataset[dict[str, Tensor]]):
    """Images as the processor gives them, and their classes."""

    def __init__(self, processor: ViTImageProcessorPil, count: int, size: int) -> None:
        self.processor, self.pairs = processor, [stripes(seed, size) for seed in range(count)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image, label = self.pairs[index]
        pixels = self.processor(image, return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": pixels, "labels": torch.tensor(label)}


def main(
    mixer: Annotated[str, typer.Option(help="See `seqconv list`.")] = "s4d",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 40,
    size: Annotated[int, typer.Option(help="Pixels a side.")] = 16,
    width: Annotated[int, typer.Option(help="d_model.")] = 32,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")] = Path("outputs/stripes"),
) -> float:
    """Train, save, classify 60 new images through a pipeline; returns the share that was right."""
    set_seed(0)
    processor = ViTImageProcessorPil(size={"height": size, "width": size})
    config = SeqConvConfig(
        hidden_size=width, num_hidden_layers=2, mixer=mixer, bidirectional=True, norm="batch",
        image_size=size, patch_size=1, num_labels=len(CLASSES), id2label=CLASSES,
    )  # fmt: skip
    arguments = TrainingArguments(
        str(out / "runs"), max_steps=steps, per_device_train_batch_size=32, logging_steps=max(1, steps // 5),
        save_strategy="no", report_to="none", dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    model = SeqConvForImageClassification(config)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-2, weight_decay=0.05))
    data = Stripes(processor, 600, size)
    Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None)).train()
    model.save_pretrained(out)
    processor.save_pretrained(out)
    classify = pipeline("image-classification", str(out), device="cpu")
    new = [stripes(seed, size) for seed in range(1000, 1060)]
    right = [classify(image)[0]["label"] == CLASSES[label] for image, label in new]
    print(f"right: {sum(right)} of {len(right)}")
    return sum(right) / len(right)


if __name__ == "__main__":
    typer.run(main)
