"""How often the verdict is right, on targets of the core tier whose labels are known.

After `python -m cryoshift_core evidence --tier core --keep-data`: python tests/bench/bench_verdict.py from the root. A
class is wrong where its precision or its recall on target-test is under 0.5.
"""

import sys
from pathlib import Path

import torch

from cryoshift_core import models
from cryoshift_core.application import spike_in
from cryoshift_core.application.classifier import Predictions
from cryoshift_core.application.verdict import judge
from cryoshift_core.benchmark import runner
from cryoshift_core.benchmark.jobs import Job

METHODS = ("source_only", "cryoshift_reference", "cryoshift")


def main(work: Path, table: Path) -> None:
    """Print a line per run, and how many classes with and without an alarm are wrong."""
    context = runner.Context(work)
    rows = {(r["scenario"], int(r["seed"]), r["method"]): r for r in runner.read(table) if r["tier"] == "core"}
    wrong: dict[bool, list[bool]] = {True: [], False: []}  # without an alarm -> of each class
    for scenario, seed in sorted({key[:2] for key in rows}):
        target = None
        for method in METHODS:
            if (row := rows.get((scenario, seed, method))) is None:
                continue
            job = Job("laptop", "core", method, scenario, seed)
            target = target or runner.target_data(job, runner.source_data(job, context), context)
            shared, used = target.shared, row["used"]
            fit = shared.source_only
            if used != "source_only":
                source = shared.source if used == "cryoshift_reference" else target.own_source
                fit = context.train(job, used, source, target.train, shared.validation)
            network = fit.restore(int(row["selected_step"]))
            p = models.predict(network, target.test.x, device="cpu")
            spikes = target.spike_ins["spike_balanced_accuracy"]
            score = spike_in.score(models.predict(network, spikes.x, device="cpu"), spikes)
            found = judge(Predictions(fit.classes, p), target.test.x, shared.source, score)
            y, called = target.test_labels.y, p.argmax(1)
            for k, name in enumerate(fit.classes):
                if (called == k).any():
                    right = (called == k) & (y == k)
                    scores = [float(right.sum() / (which == k).sum()) for which in (called, y) if (which == k).any()]
                    wrong[name in found.classes].append(min(scores) < 0.5)
            print(scenario, seed, method, found, flush=True)
    for good, values in wrong.items():
        print(f"{'no alarm' if good else 'alarm'}: {sum(values)} of {len(values)} classes are wrong")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/evidence"), Path("notebooks/evidence/evidence.csv"))
