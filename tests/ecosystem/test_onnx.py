"""Models in ONNX: exported through implementations in PyTorch's own operations, and run by onnxruntime."""

import pytest
import torch

from seqconv import (
    SeqConvConfig,
    SeqConvForCausalLM,
    SeqConvForMaskedLM,
    SeqConvVisionConfig,
    SeqConvVisionForImageClassification,
    export_onnx,
)

pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]

DIRECT = (
    *("mamba", "mamba2", "gla", "attention", "hyena", "multihyena", "sgconv", "tcnca", "ema", "mega", "tcn"),
    *("deltanet", "kda", "mlstm", "rg_lru", "lmu", "path_attention", "log_linear_mamba2", "residual_conv"),
)
"""Mixers without complex numbers, of every kind of kernel; ``torch.onnx.export`` takes these models as they are."""
COMPLEX = ("s4", "s4d", "s5", "lru", "h3", "striped_hyena", "fno", "ckconv", "rtf")
"""Mixers with complex filters or states, which :func:`seqconv.export_onnx` exports."""


@pytest.fixture
def onnxruntime():
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    return pytest.importorskip("onnxruntime")


def made(cls, mixer):
    torch.manual_seed(0)
    config = SeqConvConfig(mixer=mixer, vocab_size=40, hidden_size=16, num_hidden_layers=1)
    return cls(config).eval(), torch.randint(40, (2, 12))


def run(onnxruntime, program, ids, folder):
    program.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return [torch.from_numpy(x) for x in session.run(None, {session.get_inputs()[0].name: ids.numpy()})]


@pytest.mark.parametrize("mixer", DIRECT)
def test_onnx_gives_the_logits_of_the_model(mixer, onnxruntime, tmp_path):
    model, ids = made(SeqConvForCausalLM, mixer)
    program = torch.onnx.export(model, (), kwargs={"input_ids": ids, "use_cache": False}, dynamo=True, verbose=False)
    (logits,) = run(onnxruntime, program, ids, tmp_path)
    torch.testing.assert_close(logits, model(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixer", COMPLEX)
def test_onnx_of_complex_filters_gives_the_logits_of_the_model(mixer, onnxruntime, tmp_path):
    model, ids = made(SeqConvForMaskedLM, mixer)
    program = export_onnx(model, {"input_ids": ids})
    assert [output.name for output in program.model.graph.outputs] == ["logits"]
    (logits,) = run(onnxruntime, program, ids, tmp_path)
    torch.testing.assert_close(logits, model(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mixer", "options"), [("ss2d", {"d_state": 1}), ("global_filter", {"size": 4})])
def test_onnx_of_images_gives_the_logits_of_the_model(mixer, options, onnxruntime, tmp_path):
    torch.manual_seed(0)
    plain = {"mixer": mixer, "d_model": 8, "depth": 1, "patch_size": 4, "image_size": 16, "mixer_options": options}
    config = SeqConvVisionConfig(backbone_name="plain_2d", backbone_options=plain, num_labels=3)
    model, x = SeqConvVisionForImageClassification(config).eval(), torch.randn(2, 3, 16, 16)
    export_onnx(model, {"pixel_values": x}).save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (logits,) = session.run(["logits"], {"pixel_values": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(x).logits, rtol=1e-4, atol=1e-5)


def test_onnx_of_a_prompt_with_padding_and_of_wrong_inputs(onnxruntime, tmp_path):
    model, ids = made(SeqConvForCausalLM, "s4d")
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    program = export_onnx(model, {"input_ids": ids, "attention_mask": mask})
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (logits,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(ids, attention_mask=mask).logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"export_onnx: received inputs=\{\}; wanted tensors by the names"):
        export_onnx(model, {})
