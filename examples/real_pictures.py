"""Handwritten digits and stained cells under a microscope: a VMamba next to a ViT and a ResNet of its size.

python examples/real_pictures.py digits --out outputs/digits     # needs scikit-learn, which ships 1,797 digits
python examples/real_pictures.py cells --out outputs/cells       # needs scikit-image, which ships the picture

All models are trained by the same steps from random weights. Each command prints the score of every model on what was
held out, and draws what they found.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from PIL import Image, ImageDraw
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification, set_seed

from seqconv import (
    SeqConvForSemanticSegmentation,
    SeqConvVisionConfig,
    SeqConvVisionForImageClassification,
    parameter_groups,
)

app = typer.Typer(add_completion=False)
SIDE, CELL_TILE = 16, 64
"""Pixels of a digit after resizing, and of a tile of the microscope picture."""
NOISE = 0.7
"""Standard deviation of the noise on the microscope picture, whose values go from -1 to 1."""
HELD_OUT = 500
"""Digits, the last of them, that no model is trained on."""

Batch = tuple[Tensor, Tensor]


def digits() -> Batch:
    """Images (1797, 1, 16, 16) in [-1, 1] and their classes, from scikit-learn (8 by 8 pixels, resized)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    return F.interpolate(images, size=(SIDE, SIDE), mode="bilinear"), torch.from_numpy(data.target)


def tissue() -> tuple[Tensor, Tensor]:
    """Stained cells (3, 512, 512) in [-1, 1], and the mask of the brown stain: smoothed, above Otsu's threshold."""
    from skimage.color import rgb2hed
    from skimage.data import immunohistochemistry
    from skimage.filters import gaussian, threshold_otsu

    picture = immunohistochemistry()
    brown = gaussian(rgb2hed(picture)[..., 2], 2)
    mask = brown > threshold_otsu(brown)
    return torch.from_numpy(picture).movedim(-1, 0) / 127.5 - 1, torch.from_numpy(mask).long()


def backbone_options(width: int, patch_size: int) -> dict[str, Any]:
    """Two stages of VMamba's mixer."""
    mixer = {"d_state": 1, "gate": "none", "expand": 1}
    return {"mixer": "ss2d", "dims": [width, 2 * width], "depths": [1, 1], "patch_size": patch_size, "mlp_ratio": 2.0,
            "mixer_options": mixer}  # fmt: skip


def vit_config(width: int, side: int, patch_size: int, colours: int, labels: int) -> ViTConfig:
    """Three layers of attention."""
    return ViTConfig(
        hidden_size=width, num_hidden_layers=3, num_attention_heads=4, intermediate_size=2 * width, image_size=side,
        patch_size=patch_size, num_channels=colours, num_labels=labels,
    )  # fmt: skip


def resnet_config(width: int, colours: int, labels: int) -> ResNetConfig:
    """Two stages of one basic block."""
    return ResNetConfig(
        num_channels=colours, embedding_size=width, hidden_sizes=[width, 2 * width], depths=[1, 1], layer_type="basic",
        num_labels=labels,
    )  # fmt: skip


def classifiers(width: int) -> dict[str, nn.Module]:
    """Three models of ten classes, of about 50 thousand parameters at a width of 32."""
    options = backbone_options(width, 2)
    config = SeqConvVisionConfig(
        backbone_name="hierarchical", backbone_options=options, num_channels=1, num_labels=10, decoder_hidden_size=width
    )
    return {
        "VMamba": SeqConvVisionForImageClassification(config),
        "ViT": ViTForImageClassification(vit_config(width * 5 // 4, SIDE, 4, 1, 10)),
        "ResNet": ResNetForImageClassification(resnet_config(width * 3 // 4, 1, 10)),
    }


class PixelClassifier(nn.Module):
    """A class for every pixel, from the last map of features of a transformers model: linear, then resized."""

    def __init__(self, model: nn.Module, width: int, labels: int) -> None:
        super().__init__()
        self.model, self.head = model, nn.Conv2d(width, labels, 1)

    def forward(self, pixel_values: Tensor) -> Any:
        """Logits (batch, labels, rows, columns) of the cells, under the name that transformers gives them."""
        x = self.model(pixel_values).last_hidden_state
        if x.dim() == 3:  # a class token and patches
            side = int((x.shape[1] - 1) ** 0.5)
            x = x[:, 1:].mT.unflatten(-1, (side, side))
        return type("Output", (), {"logits": self.head(x)})


def segmenters(width: int) -> dict[str, nn.Module]:
    """Three models of two classes of pixels."""
    options = backbone_options(width, 4)
    config = SeqConvVisionConfig(
        backbone_name="hierarchical", backbone_options=options, num_labels=2, decoder_hidden_size=width
    )
    vit = ViTForImageClassification(vit_config(width * 5 // 4, CELL_TILE, 8, 3, 2)).vit
    resnet = ResNetForImageClassification(resnet_config(width * 3 // 4, 3, 2)).resnet
    return {
        "VMamba": SeqConvForSemanticSegmentation(config),
        "ViT": PixelClassifier(vit, width * 5 // 4, 2),
        "ResNet": PixelClassifier(resnet, width * 3 // 2, 2),
    }


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Logits; those of pixels are resized to the images."""
    found: Tensor = model(images).logits
    return found if found.dim() == 2 else F.interpolate(found, size=images.shape[2:], mode="bilinear")


def fit(model: nn.Module, draw: Callable[[], Batch], steps: int, lr: float = 3e-3) -> nn.Module:
    """The same steps for every model: AdamW, a linear warm-up of a tenth, a cosine to zero."""
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=lr, weight_decay=0.05))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        images, labels = draw()
        F.cross_entropy(logits_of(model, images), labels).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def report(models: Mapping[str, nn.Module], scores: Mapping[str, float], what: str) -> None:
    """One line for each model."""
    for name, score in scores.items():
        count = sum(p.numel() for p in models[name].parameters())
        print(f"{name:8} {count:8,} parameters   {what} {100 * score:.1f} %")


@app.command("digits")
def classify_digits(
    steps: Annotated[int, typer.Option(help="Optimiser steps of each model.")] = 600,
    width: Annotated[int, typer.Option(help="Of the first stage.")] = 32,
    out: Annotated[Path, typer.Option(help="Folder of the picture.")] = Path("outputs/digits"),
) -> dict[str, float]:
    """Train on 1,297 digits; returns the share of 500 others that each model reads."""
    set_seed(0)
    images, classes = digits()
    held = min(HELD_OUT, len(images) // 3)
    generator = torch.Generator().manual_seed(0)

    def draw() -> Batch:
        chosen = torch.randint(len(images) - held, (64,), generator=generator)
        return images[chosen], classes[chosen]

    models = {name: fit(model, draw, steps) for name, model in classifiers(width).items()}
    with torch.no_grad():
        found = {name: logits_of(model, images[-held:]).argmax(1) for name, model in models.items()}
    scores = {name: float((labels == classes[-held:]).float().mean()) for name, labels in found.items()}
    report(models, scores, "of unseen digits right:")
    draw_digits(images[-held:], found["VMamba"], classes[-held:], out)
    return scores


def draw_digits(images: Tensor, found: Tensor, classes: Tensor, out: Path, count: int = 12) -> None:
    """Digits with what was read under them: those read wrongly first, in red."""
    order = torch.argsort((found == classes).int(), stable=True)[:count].tolist()
    sheet = Image.new("RGB", (72 * len(order), 90), "white")
    pen = ImageDraw.Draw(sheet)
    for place, index in enumerate(order):
        sheet.paste(
            Image.fromarray(levels(images[index, 0]).numpy()).resize((64, 64), Image.Resampling.NEAREST),
            (72 * place + 4, 4),
        )
        right = bool(found[index] == classes[index])
        words = f"{int(found[index])}" if right else f"{int(found[index])}, not {int(classes[index])}"
        pen.text((72 * place + 6, 72), words, fill="black" if right else "red")
    save(sheet, out / "digits.png")


@app.command("cells")
def segment_cells(
    steps: Annotated[int, typer.Option(help="Optimiser steps of each model.")] = 300,
    width: Annotated[int, typer.Option(help="Of the first stage.")] = 32,
    out: Annotated[Path, typer.Option(help="Folder of the picture.")] = Path("outputs/cells"),
) -> dict[str, float]:
    """Train on the upper part of a noisy picture; returns the intersection over union of each model on the rest."""
    set_seed(0)
    clean, mask = tissue()
    rows, columns = mask.shape
    generator = torch.Generator().manual_seed(0)
    noisy = clean + NOISE * torch.randn(clean.shape, generator=generator)
    split = rows * 2 // 3 // CELL_TILE * CELL_TILE

    def draw() -> Batch:
        tiles, labels = [], []
        for _ in range(8):
            r, c = (int(torch.randint(size - CELL_TILE + 1, (), generator=generator)) for size in (split, columns))
            tiles.append(noisy[:, r : r + CELL_TILE, c : c + CELL_TILE])
            labels.append(mask[r : r + CELL_TILE, c : c + CELL_TILE])
        return torch.stack(tiles), torch.stack(labels)

    models = {name: fit(model, draw, steps) for name, model in segmenters(width).items()}
    found = {name: segment(model, noisy) for name, model in models.items()}
    scores = {name: iou(masked[split:].bool(), mask[split:].bool()) for name, masked in found.items()}
    report(models, scores, "intersection over union below the training rows:")
    masks = [torch.stack([masked] * 3) * 2.0 - 1 for masked in (mask, *found.values())]
    sheet = torch.cat([F.pad(picture, (0, 8)) for picture in (noisy, *masks)], dim=2)
    save(Image.fromarray(levels(sheet).movedim(0, -1).numpy()), out / "cells.png")
    return scores


@torch.no_grad()
def segment(model: nn.Module, picture: Tensor) -> Tensor:
    """The class of every pixel, tile by tile; the sides are multiples of a tile."""
    strips = [torch.cat([logits_of(model, tile[None]).argmax(1)[0] for tile in strip.split(CELL_TILE, 2)], 1)
              for strip in picture.split(CELL_TILE, 1)]  # fmt: skip
    return torch.cat(strips)


def iou(found: Tensor, want: Tensor) -> float:
    """Intersection over union of two masks."""
    return float((found & want).sum() / (found | want).sum().clamp(min=1))


def levels(values: Tensor) -> Tensor:
    """Values in [-1, 1] as bytes; what lies outside is cut off."""
    return (127.5 * (values.clamp(-1, 1) + 1)).byte()


def save(picture: Image.Image, path: Path) -> None:
    """Write the picture and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    print(f"picture: {path}")


if __name__ == "__main__":
    app()
