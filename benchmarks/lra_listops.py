"""How far a run on full ListOps got: ``python -m benchmarks.lra_listops RUN``.

Reads the folder of a run, finished or not, and writes ``benchmarks/results/lra_listops.json``: recipe, data, versions
and metrics. ``docs/lra.md`` quotes :func:`sentence`.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lra.report.runs import read_run

RESULT = Path(__file__).parent / "results" / "lra_listops.json"
HARDWARE = ("CPU", "threads", "accelerator", "python")


def record_of(folder: Path) -> dict[str, Any]:
    """What the folder of a run says, without what only its machine knows.

    Raises:
        ValueError: it holds no run.
    """
    run = read_run(folder)
    about = {name: run.about[name] for name in ("recipe", "data", "parameters", "versions")}
    hardware = {name: value for name, value in run.about["hardware"].items() if name in HARDWARE}
    return {**about, "hardware": hardware, "result": run.result, "metrics": list(run.lines)}


def sentence(record: Mapping[str, Any]) -> str:
    """Best accuracy on validation, where it was reached, and where the run stood then."""
    seen = [line for line in record["metrics"] if "eval_accuracy" in line]
    best, last = max(seen, key=lambda line: line["eval_accuracy"]), record["metrics"][-1]
    return (
        f"{100 * best['eval_accuracy']:.1f} % on validation after {best['step']:,} steps and "
        f"{best['cpu_s']:,.0f} CPU seconds; {last['step']:,} of {record['recipe']['steps']:,} steps were done"
    )


def main() -> None:
    """Parse the command line, write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lra_listops", description=__doc__)
    parser.add_argument("run", type=Path)
    record = record_of(parser.parse_args().run)
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(sentence(record))


if __name__ == "__main__":
    main()
