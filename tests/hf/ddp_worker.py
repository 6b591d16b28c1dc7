"""One of two processes of DDP: gradients of half of a batch each, averaged, in autocast; writes them to a file."""

import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from seqconv import SeqConvConfig, SeqConvForCausalLM


def model():
    torch.manual_seed(0)
    return SeqConvForCausalLM(SeqConvConfig(mixer="s4d", vocab_size=17, hidden_size=8, num_hidden_layers=1))


def batch():
    return torch.randint(0, 17, (2, 33), generator=torch.Generator().manual_seed(0))


def main(rank, folder):
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(f"{folder}/store", 2))
    wrapped, ids = DistributedDataParallel(model()), batch()[rank : rank + 1]
    with torch.autocast("cpu", torch.bfloat16):
        loss = wrapped(ids, labels=ids).loss
    loss.backward()
    if rank == 0:
        torch.save(
            {name: p.grad for name, p in wrapped.module.named_parameters()}, os.path.join(folder, "gradients.pt")
        )
    dist.barrier()
    os._exit(0)  # an ordinary end may hang: DDP's reducer waits for a thread of gloo that waits for Python's lock


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
