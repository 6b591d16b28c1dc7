"""The model card that ``save_pretrained`` writes next to the weights: what the model is, how to load and cite it."""

import re
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from ...registry import MixerEntry, mixer_entry
from ...vision.registry import list_mixers_2d, mixer_2d_entry

TASKS = {
    "SeqConvForCausalLM": "text-generation",
    "SeqConvForMaskedLM": "fill-mask",
    "SeqConvForSequenceClassification": "text-classification",
    "SeqConvForTokenClassification": "token-classification",
    "SeqConvForQuestionAnswering": "question-answering",
    "SeqConvForMultipleChoice": "multiple-choice",
    "SeqConvForImageClassification": "image-classification",
    "SeqConvVisionForImageClassification": "image-classification",
    "SeqConvVisionForAudioClassification": "audio-classification",
    "SeqConvForSemanticSegmentation": "image-segmentation",
    "SeqConvVisionModel": "image-feature-extraction",
    "SeqConvForVideoClassification": "video-classification",
    "SeqConvForAudioClassification": "audio-classification",
    "SeqConvForCTC": "automatic-speech-recognition",
}
"""What the hub calls the task of each model; others have none."""

PAPER = re.compile(r"((?:[A-Z][^\s(),;.]+)(?: and [A-Z][^\s(),;.]+| et al\.)? \d{4})[^()]*\(arXiv (\d{4}\.\d{4,5})\)")


MARK = "<!-- Written by save_pretrained of seqconv; remove this line to keep your changes. -->"


def write_model_card(model: Any, folder: Path, *, instead_of: Path) -> None:
    """Write the card into ``folder``, unless the folder that it will be moved to holds one that a person wrote."""
    present = instead_of / "README.md"
    if not present.exists() or MARK in present.read_text(errors="replace"):
        (folder / "README.md").write_text(model_card(model))


def model_card(model: Any) -> str:
    """The card of a model, in the hub's format: a block of YAML, then Markdown."""
    config, kind = model.config, type(model).__name__
    found = (getattr(module, "mixer", None) for module in model.modules())
    mixers = Counter(mixer.name for mixer in found if mixer is not None)
    tags = "\n".join(f"- {tag}" for tag in ["seqconv", *sorted(mixers)])
    task = f"\npipeline_tag: {TASKS[kind]}" if kind in TASKS else ""
    lines = [f"- `{name}` in {count} of {mixers.total()} layers: {_summary(name)}" for name, count in mixers.items()]
    papers = [f"- {authors}: https://arxiv.org/abs/{number}" for number, authors in _papers(model)]
    return f"""---
library_name: transformers{task}
tags:
{tags}
---

{MARK}

# {kind}

{_sentence(model)}

{chr(10).join(lines)}

## Training

{config.training_data or "It is not recorded what the weights were trained on."}

## Loading

```python
from transformers import {_auto_class(kind)}

model = {_auto_class(kind)}.from_pretrained("FOLDER", trust_remote_code=True)  # after: pip install seqconv
```

## Citation

{chr(10).join(papers)}

```bibtex
@software{{seqconv,
  title = {{seqconv: long-sequence models, every mixer behind one interface}},
  version = {{{_version()}}},
}}
```
"""


def _sentence(model: Any) -> str:
    config = model.config
    parameters = sum(p.numel() for p in model.parameters())
    backbone = getattr(config, "backbone_name", None)  # of models of images; packages add configurations of layers
    layers = "" if backbone else f"{config.num_hidden_layers} layers of width {config.hidden_size}"
    kind = f"the backbone {backbone}" if backbone else layers
    sizes = f"{kind}, {parameters:,} parameters"
    start = f" Its weights started from {config.name_or_path}." if _is_repository(config.name_or_path) else ""
    return f"A model of seqconv with {sizes}, saved in {str(model.dtype).removeprefix('torch.')}.{start}"


def _is_repository(name: str | None) -> bool:
    """Whether a name is that of a repository of the hub; paths of a machine are no one else's concern."""
    return name is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".")


def _summary(mixer: str) -> str:
    if mixer == "bidirectional":
        return "two causal mixers, one for each direction."
    entry: MixerEntry[Any] = mixer_2d_entry(mixer) if mixer in list_mixers_2d() else mixer_entry(mixer)
    return entry.summary


def _papers(model: nn.Module) -> list[tuple[str, str]]:
    """Numbers and authors of the papers that the modules of the model name as their source."""
    homes = {cls.__module__ for module in model.modules() for cls in type(module).__mro__}
    texts = (sys.modules[home].__doc__ or "" for home in homes if home.startswith("seqconv."))
    return sorted({(number, authors) for text in texts for authors, number in PAPER.findall(" ".join(text.split()))})


def _auto_class(kind: str) -> str:
    from .. import AUTO, VISION_AUTO

    return next((auto for auto, name in [*AUTO.items(), *VISION_AUTO.items()] if name == kind), "AutoModel")


def _version() -> str:
    try:
        return version("seqconv")
    except PackageNotFoundError:
        return "unknown"
