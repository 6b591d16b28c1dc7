"""Writes which tools were tried, in which versions, and with what result, where ``ECOSYSTEM_TABLE`` names a page."""

import os
import re
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TOOLS = {
    "peft": ("peft", "LoRA, PiSSA and OLoRA on all linear layers: initial outputs, gradients, merging"),
    "trl": ("trl", "SFT (packed documents too), DPO, Reward and GRPO trainers on a saved folder"),
    "lm_evaluation": ("lm-eval", "log-likelihoods of a saved folder, against the model's own"),
    "sentence_transformers": ("sentence-transformers", "embeddings of padded batches, against texts alone"),
    "torchao": ("torchao", "int8 weights: outputs and generation"),
    "onnx": ("onnxruntime", "models exported by torch.onnx, run by onnxruntime: their logits"),
    "av": ("av", "pipeline of video classification on an encoded film"),
    "accelerate": ("accelerate", "prepare and training steps; accelerate launch; two processes"),
}
"""Word in the names of a tool's tests, its package, and what they try."""

results: dict[str, list[str]] = defaultdict(list)


def pytest_runtest_logreport(report):
    if report.when == "call" or report.skipped:
        tool = next((word for word in TOOLS if f"test_{word}" in report.nodeid), None)
        if tool is not None:
            results[tool].append(report.outcome)


def pytest_sessionfinish():
    page = os.environ.get("ECOSYSTEM_TABLE")
    if not page or not results:
        return
    rows = [
        f"| {package} | {_version(package)} | {what} | {_result(tool)} |" for tool, (package, what) in TOOLS.items()
    ]
    base = ", ".join(f"{package} {_version(package)}" for package in ("torch", "transformers"))
    table = "\n".join(["| tool | version | tried | result |", "|---|---|---|---|", *rows, "", f"With {base}.", ""])
    text = Path(page).read_text()
    Path(page).write_text(re.sub(r"(?s)(<!-- table -->\n).*?(?=<!-- end -->)", rf"\1{table}", text))


def _result(tool: str) -> str:
    found = results[tool]
    return ", ".join(f"{found.count(outcome)} {outcome}" for outcome in sorted(set(found))) or "not run"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
