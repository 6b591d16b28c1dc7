"""The S4D classifier as it is written in plain PyTorch: the peer of the training benchmark, channels before time.

Per layer, with ``F`` the FFT of twice the length and ``K[c, l] = 2 Re sum_n C[c, n] (exp(dt A)[n] - 1) / A[n]
exp(l dt A[n])`` by the complex Vandermonde matrix: ``y = GLU(W gelu(F^-1(F u · F K) + D u))``. Gu et al. 2022, arXiv
2206.11893; bidirectional as in their code, a second ``K`` for the future from lag 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainS4D(nn.Module):
    """One layer, (batch, d_model, length) in and out."""

    def __init__(self, d_model: int, pairs: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.log_dt = nn.Parameter(torch.empty(d_model))
        self.log_decay = nn.Parameter(torch.empty(d_model, pairs))
        self.frequency = nn.Parameter(torch.empty(d_model, pairs))
        self.C = nn.Parameter(torch.empty(1 + bidirectional, d_model, pairs, 2))
        self.D = nn.Parameter(torch.empty(d_model))
        self.output = nn.Conv1d(d_model, 2 * d_model, kernel_size=1)

    def forward(self, u: Tensor) -> Tensor:
        length = u.shape[-1]
        k = F.pad(self.taps(length), (0, length))
        if len(k) == 2:
            k = torch.stack([k[0], k[1].flip(-1)])
        spectrum = torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(k.sum(0))
        y = torch.fft.irfft(spectrum, n=2 * length)[..., :length] + self.D[:, None] * u
        return F.glu(self.output(F.gelu(y)), dim=1)

    def taps(self, length: int) -> Tensor:
        """Impulse responses, (directions, d_model, length)."""
        A = torch.complex(-self.log_decay.exp(), self.frequency)
        dtA = A * self.log_dt.exp()[:, None]
        C = torch.view_as_complex(self.C) * (dtA.exp() - 1) / A
        powers = (dtA[..., None] * torch.arange(length)).exp()
        return 2 * torch.einsum("dhn,hnl->dhl", C, powers).real


class PlainClassifier(nn.Module):
    """Embedding, layers with residual connections and batch norms after them, mean over the length, linear map."""

    def __init__(
        self, tokens: int, classes: int, d_model: int, layers: int, pairs: int, *, bidirectional: bool
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, d_model)
        self.layers = nn.ModuleList(PlainS4D(d_model, pairs, bidirectional=bidirectional) for _ in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(d_model) for _ in range(layers))
        self.classifier = nn.Linear(d_model, classes)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).mT
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(x + layer(x))
        logits: Tensor = self.classifier(x.mean(-1))
        return logits
