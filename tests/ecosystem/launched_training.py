"""Training under ``accelerate launch``: each process reads its share of the batch, the first writes the weights."""

import sys

import torch
from accelerate import Accelerator

from seqconv import SeqConvConfig, SeqConvForCausalLM


def main(processes: str, out: str) -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == int(processes)
    config = SeqConvConfig(vocab_size=17, hidden_size=16, num_hidden_layers=2, mixer="mamba")
    model = SeqConvForCausalLM(config)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    batch = torch.randint(0, 17, (4, 9), generator=torch.Generator().manual_seed(0))
    share = batch.chunk(accelerator.num_processes)[accelerator.process_index]
    for _ in range(3):
        accelerator.backward(model(share, labels=share).loss)
        optimizer.step()
        optimizer.zero_grad()
    accelerator.wait_for_everyone()
    unwrapped = accelerator.unwrap_model(model)
    unwrapped.save_pretrained(out, is_main_process=accelerator.is_main_process, save_function=accelerator.save)


if __name__ == "__main__":
    main(*sys.argv[1:])
