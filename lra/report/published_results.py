"""Accuracies that papers report on the Long Range Arena, with their sources, for comparison with measured ones.

Averages are the papers' plain means; a task that a model failed on ("-") counts as 50 where the paper counts it so.
Text has no validation set: its published numbers are selected on the test set unless the paper says otherwise.
"""

from dataclasses import dataclass

TASKS = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")


@dataclass(frozen=True)
class Published:
    """One row of a paper's table, in percent.

    Attributes:
        model: name in the paper.
        mixers: names of the mixers of seqconv that it may be compared with.
        accuracies: in the order of :data:`TASKS`; ``None`` where it failed or was not run.
        source: paper and table.
    """

    model: str
    mixers: tuple[str, ...]
    accuracies: tuple[float | None, ...]
    source: str

    def accuracy(self, task: str) -> float | None:
        """On a task by name; ``None`` where the table has nothing, or the task is none of the six."""
        return self.accuracies[TASKS.index(task)] if task in TASKS else None


LRA, S4, MEGA = "LRA paper, table 1", "S4 paper, table 10", "MEGA paper, table 2"
LIQUID, SIMBA, METALA = "Liquid-S4 paper, table 1", "copied from the HGRN and S5 papers", "MetaLA paper, table 7"

ROWS = (
    Published("Random", (), (10.0, 50.0, 50.0, 10.0, 50.0, 50.0), S4),
    Published("Transformer", ("attention",), (36.37, 64.27, 57.46, 42.44, 71.40, None), LRA),
    Published("Transformer, run again", ("attention",), (37.11, 65.21, 79.14, 42.94, 71.83, None), MEGA),
    Published("Local attention", ("attention",), (15.82, 52.98, 53.39, 41.46, 66.63, None), LRA),
    Published("S4 (first version)", ("s4",), (58.35, 76.02, 87.09, 87.26, 86.05, 88.10), S4),
    Published("S4 (second version)", ("s4",), (59.60, 86.82, 90.90, 88.65, 94.20, 96.35), S4),
    Published("S4D-LegS", ("s4d",), (60.47, 86.18, 89.46, 88.19, 93.06, 91.95), LIQUID),
    Published("S4D-Inv", ("s4d",), (60.18, 87.34, 91.09, 87.83, 93.78, 92.80), LIQUID),
    Published("S4D-Lin", ("s4d",), (60.52, 86.97, 90.96, 87.93, 93.96, None), LIQUID),
    Published("S5", ("s5",), (62.15, 89.31, 91.40, 88.00, 95.33, 98.58), SIMBA),
    Published("SGConv", ("sgconv",), (61.45, 89.20, 91.11, 87.97, 95.46, 97.83), SIMBA),
    Published("MEGA", ("mega",), (63.14, 90.43, 91.25, 90.44, 96.01, 97.98), MEGA),
    Published("MEGA-chunk", ("mega", "tcnca"), (58.76, 90.19, 90.97, 85.80, 94.41, 93.81), MEGA),
    Published("Mamba", ("mamba",), (38.02, 82.98, 72.14, 69.82, 69.26, 67.32), METALA),
)


def published_for(mixer: str, task: str) -> list[tuple[str, float, str]]:
    """Model, accuracy and source of every row that has a number for a mixer and a task."""
    found = [(row.model, row.accuracy(task), row.source) for row in ROWS if mixer in row.mixers]
    return [(model, accuracy, source) for model, accuracy, source in found if accuracy is not None]
