"""What the Cryo-Shift notebooks import, in the order in which to read it.

Each room is one idea and imports only rooms above it::

    volumes      normalise, contrast, crop, extract, change the pixel size
    files        MRC volumes and STAR tables on disk
    extraction   more cubes of a tomogram than memory holds, on disk
    structures   atoms -> potential; the shipped templates; a template by name or by file
    optics       CTF, dose filter, tilt geometry, transfer bank
    simulate     specimen -> cubes, by the fast path and by the tilt path
    domains      Labelled, Unlabelled, HeldOutLabels; train/test splits
    scenarios    the named source and target domains
    models       classifiers and discriminators
    warp         warp modules
    losses       gradient reversal, MADA, image realism, CORAL, MMD, MCC
    methods      name -> sum of terms, one entry per method
    training     the one loop: fit(method, source, target)
    selection    choosing a checkpoint without labels
    calibration  honest confidences, and "none of these", without labels
    evaluation   metrics, intervals, gap closed
    experiment   somebody's particles -> unlabelled cubes
    answers      predictions -> tables in the format that came in; shares with intervals; class averages
    spikein      known molecules in somebody's own ice: an accuracy without annotation
    parameters   profiles, and the typed parameters of the notebooks
    runs         run folders, generators and manifests
    figures      every plot that the notebooks show
    report       one page for the one who asked: classes, galleries, warnings
    explore      sliders in Jupyter, a grid of frames when headless
    trials       methods x scenarios x seeds -> one CSV, a row per model trained and scored
    evidence     `make evidence`: what that CSV says, in tables, verdicts and figures
    tutorial     `make tutorial`: the series through papermill, with an index page

The physics (volumes to simulate) and the learning (models to training) meet only in domains and in the notebooks.
Imaged are float32 tensors (N, 1, Z, Y, X), protein bright; lengths are in A, angles in degrees.
"""

__version__ = "0.2.0"
