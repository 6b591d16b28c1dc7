"""Packages of seqconv's ops under the originals' import names: in a fresh process, back, and where the original is."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = ("mamba_ssm", "causal_conv1d", "fla", "flashfftconv")

THIRD_PARTY = '''
"""A layer as other projects write it."""

import torch
from torch import nn
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from fla.modules import FusedRMSNormGated, ShortConvolution
from fla.ops.gated_delta_rule import chunk_gated_delta_rule
from fla.ops.generalized_delta_rule.dplr.chunk import chunk_dplr_delta_rule
from flashfftconv import FlashFFTConv
from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, selective_scan_fn
from mamba_ssm.ops.triton.layernorm_gated import RMSNorm as RMSNormGated
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

try:
    from mamba_ssm.ops.triton.layernorm import RMSNorm, layer_norm_fn, rms_norm_fn
except ImportError:
    RMSNorm, layer_norm_fn, rms_norm_fn = None, None, None


class Layer(nn.Module):
    def __init__(self, dim=4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, 3))
        self.norm = RMSNorm(dim)
        self.gated = RMSNormGated(dim)
        self.conv = FlashFFTConv(16)
        self.short = ShortConvolution(dim, 4)

    def forward(self, x):
        u = causal_conv1d_fn(x.transpose(1, 2), self.weight, activation="silu")
        B = torch.ones(x.shape[0], 2, x.shape[1])
        y = selective_scan_fn(u, torch.rand_like(u), -torch.ones(x.shape[2], 2), B, B, delta_softplus=True)
        y = self.conv(y, self.weight).transpose(1, 2)
        y, residual = self.norm(y, x, prenorm=True)
        return self.gated(self.short(y)[0], residual)
'''


def run(code, folder):
    environment = {"PYTHONPATH": f"{folder}:{ROOT}:{ROOT / 'kernels'}", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_third_party_code_in_a_fresh_process(tmp_path):
    (tmp_path / "third_party.py").write_text(THIRD_PARTY)
    out = run(
        f"""
        import sys
        from importlib import import_module
        from importlib.util import find_spec
        shims = [import_module("seqconv.integrations." + name) for name in {NAMES}]
        assert not any(name in sys.modules or find_spec(name) for name in {NAMES})
        for shim in shims:
            shim.install()
            shim.install()  # nothing the second time
        import torch, third_party
        layer = third_party.Layer()
        x = torch.randn(2, 9, 4, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad.abs().sum() > 0 and third_party.RMSNorm is not None
        import mamba_ssm, fla
        from seqconv.integrations.transformers.functions import FUNCTIONS
        assert not any(function.installed() for function in FUNCTIONS.values())  # a shim is no original
        assert find_spec("mamba_ssm") is mamba_ssm.__spec__ and mamba_ssm.__version__[0] == "2"
        for missing in ("fla.ops.gsa", "mamba_ssm.utils"):
            try:
                import_module(missing)
            except ModuleNotFoundError as error:
                print(error.name)
        try:
            from fla.ops import chunk_gsa
        except ImportError:
            print("chunk_gsa")
        for shim in shims:
            shim.uninstall()
            shim.uninstall()
        assert not any(name.split(".")[0] in {NAMES} for name in sys.modules)
        assert not any(find_spec(name) for name in {NAMES})
        print("gone", layer(x).shape[-1])
        """,
        tmp_path,
    )
    assert out == ["fla.ops.gsa", "mamba_ssm.utils", "chunk_gsa", "gone", "4"]


def test_the_original_keeps_its_place(tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("ORIGINAL = True\n")
    out = run(
        f"""
        from importlib import import_module
        for name in {NAMES}:
            shim = import_module("seqconv.integrations." + name)
            for imported in (False, True):
                if imported:
                    import_module(name)
                try:
                    shim.install()
                except ValueError as error:
                    assert str(error).startswith(name + ".install: received the package " + name + " itself"), error
                    shim.uninstall()
                    print(import_module(name).ORIGINAL)
        """,
        tmp_path,
    )
    assert out == ["True", "True"] * len(NAMES)
