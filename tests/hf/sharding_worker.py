"""One of two processes that train mixers under FSDP2; each checks its gradients against those of one process."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests"), str(ROOT / "tests" / "hf")]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from tiny import language_model, prompts  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from torch.nn.utils import clip_grad_norm_  # noqa: E402

from seqconv.parameters import kept_parameters  # noqa: E402
from tolerances import assert_near  # noqa: E402

HALF = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def whole(t):
    return t.full_tensor() if isinstance(t, DTensor) else t


def train(model, batches):
    """Gradients of one step, and the parameters after it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    for ids in batches:
        (model(ids, labels=ids).loss / len(batches)).backward()
    gradients = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    clip_grad_norm_(model.parameters(), 1e9, foreach=True)
    optimizer.step()
    return gradients, {name: whole(p.detach()) for name, p in model.named_parameters()}


def main(rank, folder, mixers):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(f"{folder}/store", 2))
    mesh, batches = init_device_mesh("cpu", (2,)), [prompts(2, 6), prompts(2, 6).flip(1)]
    for mixer in mixers:
        for dtype, policy in ((torch.float64, MixedPrecisionPolicy()), (torch.float32, HALF)):
            plain, model = (language_model(mixer, dtype=dtype) for _ in range(2))
            if policy is HALF:
                plain.to(torch.bfloat16)
            kept = kept_parameters([plain])
            names = {name for name, p in plain.named_parameters() if policy is not HALF or id(p) in kept}
            for block in model.model.backbone.blocks:
                fully_shard(block, mesh=mesh, mp_policy=policy)
            fully_shard(model, mesh=mesh, mp_policy=policy)
            want, moved = train(plain, batches)
            got, after = train(model, batches[rank : rank + 1])
            assert set(got) == set(want), mixer
            loose = None if policy is not HALF else torch.bfloat16
            for name in names & set(want):
                assert_near(got[name], want[name], dtype=loose, what=f"{mixer}, gradient of {name}")
                if policy is not HALF:
                    assert_near(after[name], moved[name], what=f"{mixer}, {name} after a step")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
    sys.stdout.flush()
    os._exit(0)  # threads of the process group are not waited for
