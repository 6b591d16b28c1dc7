"""What two processes of ``torchrun`` do in the tests: whole runs by DDP and FSDP, a pause, an evaluation.

Arguments: a folder for the runs, the folder of the data.
"""

import json
import sys
from pathlib import Path

import accelerate.state
from accelerate.utils import DistributedType

from lra.training import distributed
from lra.training.distributed import is_first, leave_process_group, processes
from lra.training.evaluation import evaluate
from lra.training.run import read_recipe, run, run_for
from tiny_run import tiny


def allow_fsdp_on_the_processor() -> None:
    """Take accelerate past the point where it turns FSDP into DDP without an accelerator; the rest of it works."""
    enter = accelerate.state.AcceleratorState.__init__

    def entered(self, *arguments, fsdp_plugin=None, **options):
        fresh = not accelerate.state.AcceleratorState._shared_state
        enter(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None and fresh:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            accelerate.state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    accelerate.state.AcceleratorState.__init__ = entered
    distributed.has_accelerator = lambda: True  # torch itself must not be told so: its optimisers ask too


def main() -> None:
    """Everything in one start, since each costs seconds of imports."""
    folder, root = Path(sys.argv[1]), Path(sys.argv[2])
    assert processes() == 2
    found = {"ddp": run(same(), folder / "ddp", data_root=root, quiet=True).accuracy}
    run_for(same(), folder / "paused", 0.0, data_root=root, quiet=True)
    found["resumed"] = run(
        read_recipe(folder / "paused"), folder / "paused", data_root=root, resume=True, quiet=True
    ).accuracy
    found["again"] = {"val": evaluate(folder / "ddp", "val", data_root=root, quiet=True)}
    allow_fsdp_on_the_processor()
    sharded = same(parallel="fsdp")
    found["fsdp"] = run(sharded, folder / "fsdp", data_root=root, quiet=True).accuracy
    run_for(sharded, folder / "fsdp-paused", 0.0, data_root=root, quiet=True)
    found["fsdp-resumed"] = run(sharded, folder / "fsdp-paused", data_root=root, resume=True, quiet=True).accuracy
    if is_first():
        (folder / "found.json").write_text(json.dumps(found))
    leave_process_group()


def same(**changes):
    """A recipe in which a row's gradient does not depend on the rest of its batch; 70 rows divide unevenly."""
    return tiny(norm="layer", **{"task.val": 70, **changes})


if __name__ == "__main__":
    main()
