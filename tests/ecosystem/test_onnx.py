"""Models in ONNX: exported as they are, through implementations in PyTorch's own operations, and run by onnxruntime."""

import pytest
import torch

from seqconv import SeqConvConfig, SeqConvForCausalLM

pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]

EXPORTED = ("mamba", "mamba2", "gla", "attention", "hyena", "multihyena", "sgconv", "tcnca", "ema", "mega", "tcn")
"""Mixers whose computations ONNX has operators for; complex filters (S4, S4D, StripedHyena) are not among them."""


@pytest.mark.parametrize("mixer", EXPORTED)
def test_onnx_gives_the_logits_of_the_model(mixer, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = SeqConvForCausalLM(SeqConvConfig(mixer=mixer, vocab_size=40, hidden_size=16, num_hidden_layers=1)).eval()
    ids = torch.randint(40, (2, 12))
    program = torch.onnx.export(model, (), kwargs={"input_ids": ids, "use_cache": False}, dynamo=True, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: ids.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(ids).logits, rtol=1e-4, atol=1e-5)
