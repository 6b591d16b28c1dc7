"""The recurrences of the originals as plain loops in float64, one sequence, head and token at a time."""

import torch
import torch.nn.functional as F


def convolution(x, weight, bias=None, before=None, silu=False):
    """(channels, length): every output by its own sum over the taps."""
    channels, width = weight.shape
    before = x.new_zeros(channels, width - 1) if before is None else before
    padded = torch.cat([before, x], dim=1).double()
    y = torch.zeros(x.shape, dtype=torch.float64)
    for t in range(x.shape[1]):
        y[:, t] = (padded[:, t : t + width] * weight.double()).sum(1)
    y = y if bias is None else y + bias.double()[:, None]
    return F.silu(y) if silu else y


def runs(seq_idx):
    """[(index, first, end), ...] of one row."""
    found, first = [], 0
    for t in range(1, len(seq_idx) + 1):
        if t == len(seq_idx) or seq_idx[t] != seq_idx[first]:
            found.append((int(seq_idx[first]), first, t))
            first = t
    return found


def selective_scan(u, dt, A, B, C, state=None):
    """One row: u, dt (channels, length), B and C as functions of (channel, time); the outputs and the last state."""
    channels, d_state = A.shape
    h = torch.zeros(channels, d_state, dtype=A.dtype) if state is None else state
    y = torch.zeros(u.shape, dtype=torch.float64)
    for t in range(u.shape[1]):
        rows = []
        for d in range(channels):
            rows.append(torch.exp(dt[d, t] * A[d]) * h[d] + dt[d, t] * B(d, t) * u[d, t])
            out = (C(d, t) * rows[d]).sum()
            y[d, t] = 2 * out.real if out.is_complex() else out
        h = torch.stack(rows)
    return y, h


def ssd(x, dt, A, B, C, state=None):
    """One row: x (length, heads, width), dt (length, heads), B and C (length, groups, d_state)."""
    heads, per_group = x.shape[1], x.shape[1] // B.shape[1]
    S = torch.zeros(heads, x.shape[2], B.shape[2], dtype=torch.float64) if state is None else state.double()
    outputs = []
    for t in range(len(x)):
        groups = [head // per_group for head in range(heads)]
        S = torch.stack([
            torch.exp(dt[t, h] * A[h]) * S[h] + dt[t, h] * torch.outer(x[t, h], B[t, g]) for h, g in enumerate(groups)
        ])  # fmt: skip
        outputs.append(torch.stack([S[h] @ C[t, g] for h, g in enumerate(groups)]))
    return torch.stack(outputs), S


def linear_attention(q, k, v, *, gk=None, gv=None, beta=None, a=None, b=None, u=None, scale=None, state=None):
    """One sequence: q, k, a, b, gk (length, heads, d_k), v, gv (length, heads, d_v), beta (length, heads).

    ``S' = diag(exp(gk)) S diag(exp(gv))``; then ``k (beta (v - S'^T k))^T``, ``b (S^T a)^T + k v^T`` or ``k v^T`` is
    added; with ``u`` the output reads the state before, and the token with that weight.
    """
    length, heads, d_k = q.shape
    scale = d_k**-0.5 if scale is None else scale
    S = torch.zeros(heads, d_k, v.shape[2], dtype=torch.float64) if state is None else state.double()
    outputs = []
    for t in range(length):
        states, out = [], []
        for h in range(heads):
            before = S[h]
            decayed = before if gk is None else torch.exp(gk[t, h])[:, None] * before
            decayed = decayed if gv is None else decayed * torch.exp(gv[t, h])[None]
            write = v[t, h]
            if beta is not None:
                write = beta[t, h] * (write - decayed.T @ k[t, h])
            after = decayed + torch.outer(k[t, h], write)
            if a is not None:
                after = after + torch.outer(b[t, h], before.T @ a[t, h])
            read = after if u is None else before + torch.outer(u[h] * k[t, h], v[t, h])
            out.append(scale * read.T @ q[t, h])
            states.append(after)
        S = torch.stack(states)
        outputs.append(torch.stack(out))
    return torch.stack(outputs), S
