"""Classify macromolecules in cryo-electron subtomograms, from simulated labels and unlabelled experimental data.

The public interface in ten lines::

    import cryoshift_core as cs

    source = cs.simulate_source(["ribosome_80S", "TRiC"], n=2000, box=32, voxel_size=12.0, seed=0)  # Labelled
    target = cs.read_subtomograms("particles.star")  # Unlabelled
    fit = cs.fit("cryoshift", source, target, seed=0)  # never a target label
    classifier = cs.select(fit, target)  # label-free
    table = classifier.predict(target)  # class, calibrated probability, unknown
    classifier.save("model.safetensors")
    cs.load("model.safetensors").predict(target)  # box, voxel size, contrast, classes, calibration are inside

The root of the package is the method; read it in this order: errors, fourier, data, models, losses, warps, methods,
training, selection, calibration, metrics. The wings `simulation`, `tomography`, `application`, `course` and `benchmark`
stand beside it; `support` has devices, files and digests. Subtomograms are float32 tensors (N, 1, Z, Y, X); lengths are
in A, angles in degrees. Importing the package imports neither torch nor a wing; each name is loaded at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_WHERE = {
    "Classifier": "application.classifier",
    "HeldOutLabels": "data",
    "InputError": "errors",
    "Job": "application.job",
    "Labelled": "data",
    "Term": "methods",
    "TrainingConfig": "training",
    "Unlabelled": "data",
    "classify": "application.classify",
    "compare": "benchmark.compare",
    "extract_subtomograms": "application.target_data",
    "fit": "training",
    "load": "application.classifier",
    "load_labels": "simulation",
    "open": "application.job",
    "preflight": "application.preflight",
    "read_subtomograms": "application.target_data",
    "register": "methods",
    "select": "application.classifier",
    "simulate_source": "simulation",
    "simulate_target": "simulation",
    "stream_source": "simulation",
}

__all__ = [*_WHERE, "__version__"]

if TYPE_CHECKING:
    from .application.classifier import Classifier as Classifier
    from .application.classifier import load as load
    from .application.classifier import select as select
    from .application.classify import classify as classify
    from .application.job import Job as Job
    from .application.job import open as open
    from .application.preflight import preflight as preflight
    from .application.target_data import extract_subtomograms as extract_subtomograms
    from .application.target_data import read_subtomograms as read_subtomograms
    from .benchmark.compare import compare as compare
    from .data import HeldOutLabels as HeldOutLabels
    from .data import Labelled as Labelled
    from .data import Unlabelled as Unlabelled
    from .errors import InputError as InputError
    from .methods import Term as Term
    from .methods import register as register
    from .simulation import load_labels as load_labels
    from .simulation import simulate_source as simulate_source
    from .simulation import simulate_target as simulate_target
    from .simulation import stream_source as stream_source
    from .training import TrainingConfig as TrainingConfig
    from .training import fit as fit


def __getattr__(name: str) -> Any:
    """A public name from the module that defines it (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
