"""The gallery: small pictures of executed notebooks for docs/gallery.md; committed notebooks have no outputs.

python -m cryoshift_core.course.gallery [--profile laptop]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat
from PIL import Image

from ..application.profiles import PROFILES
from ..errors import InputError
from ..support.runtime import atomic, check_known, root, write_text
from .runner import title

PAGE, FOLDER = "gallery.md", "gallery"
SIZE, QUALITY = (560, 400), 70  # pixels and JPEG quality of a picture
# Figures too large to be read at that size -> left, top, right and bottom of what is shown, in parts of the figure.
SHOWN_PART: Mapping[tuple[str, str], tuple[float, float, float, float]] = {
    ("03_warp_randomization", "mixing_desk"): (0.0, 0.0, 2 / 3, 2 / 7),
    ("06_your_own_subtomograms", "threshold"): (0.0, 0.0, 2 / 3, 1.0),
    ("07_compare_runs", "closer"): (0.0, 0.0, 1.0, 0.5),
}
# Notebook -> figures (names that the notebook saves them by) and what they show.
SHOWN: Mapping[str, Mapping[str, str]] = {
    "00_start_here": {
        "real_tomogram": "A slice through a yeast cell, without and with the ribosomes that experts listed",
        "idea": "The idea: warps change the images, class-wise discriminators the features",
    },
    "01_simulate_subtomograms": {
        "tilts_one_by_one": "Planes fill Fourier space, tilt by tilt; the view turns",
        "reconstruction": "A reconstructed ribosome, and the missing wedge in plain ice",
    },
    "01b_a_source_domain": {
        "sliders": "Defocus, dose, tilt range and ice thickness",
        "crowding": "Neighbours: none, 10 %, 20 % and 30 % of the volume",
    },
    "02_the_domain_gap": {
        "source_and_target": "Source subtomograms of known class, target subtomograms of unknown class",
        "practice": "Where a network that has only seen simulations puts the classes of a practice target",
    },
    "02b_shape_or_size": {
        "stand_ins": "Molecules and their stand-ins of the same mass",
        "who_wins": "What wins where shape and mass contradict each other",
    },
    "02c_which_factor_hurts": {
        "features": "Features of source and target",
        "factors": "One factor at a time: distance, confidence, accuracy",
    },
    "03_warp_randomization": {
        "fitted_by_hand": "Gain, blur and high-pass of the signal, fitted by hand",
        "mixing_desk": "The mixing desk, two of seven warps: the result, and what two classifiers call it",
    },
    "03b_warping_games": {
        "two_games": "Warps trained against a discriminator, and against the classifier",
        "lesson_decoder": "A published mistake made visible",
    },
    "04_multi_adversarial_adaptation": {
        "toy": "Adaptation on a toy that can be seen whole",
        "label_shift": "Alignment where the class fractions differ",
    },
    "04b_choosing_without_labels": {
        "evidence_rules": "Rules that choose a checkpoint without labels",
        "evidence_alignment": "Alignment of the domains against accuracy",
    },
    "05_evaluation": {
        "scores": "One experiment between its two bounds",
        "confusion": "The confusions of three networks",
    },
    "05b_reading_the_evidence": {
        "evidence_gap_closed": "The share of the gap that is closed, over ten seeds",
        "evidence_recall": "Recall of each class",
    },
    "06_your_own_subtomograms": {
        "places": "Predicted classes in the shipped lamella",
        "threshold": "A threshold against the purity of a class",
    },
    "06b_hiv_by_particle": {
        "places": "Predicted classes in a tomogram of HIV-1 particles",
        "scores": "Balanced accuracy over held-out particles",
    },
    "07_compare_runs": {"closer": "Many runs in one figure, a target at a time"},
}


def write(runs: Path, notebooks: Path, docs: Path) -> list[Path]:
    """Paths of docs/gallery.md and its pictures, from the figures of executed notebooks; earlier pictures are replaced.

    Parameters
    ----------
    runs : folder with NAME/figures/*.png of each notebook, such as runs/laptop
    notebooks, docs : folders of the repository

    Raises
    ------
    InputError
        a notebook was not run, or saved no such figure. Then nothing is written.
    """
    pictures = {(name, one): runs / name / "figures" / f"{one}.png" for name, shown in SHOWN.items() for one in shown}
    if missing := [str(path) for path in pictures.values() if not path.is_file()]:
        raise InputError(f"expected the figures of all notebooks, {missing[0]} is missing; run make tutorial first.")
    for old in (docs / FOLDER).glob("*.jpg"):
        old.unlink()
    written = []
    for (name, one), path in pictures.items():
        with Image.open(path) as whole:
            left, top, right, bottom = SHOWN_PART.get((name, one), (0.0, 0.0, 1.0, 1.0))
            width, height = whole.size
            part = whole.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
            picture = part.convert("RGB")
        picture.thumbnail(SIZE, Image.Resampling.LANCZOS)
        with atomic(docs / FOLDER / f"{name}_{one}.jpg") as partial:
            picture.save(partial, format="JPEG", quality=QUALITY, optimize=True)
        written.append(docs / FOLDER / f"{name}_{one}.jpg")
    return [write_text(docs / PAGE, text(notebooks)), *written]


def text(notebooks: Path) -> str:
    """The text of docs/gallery.md for the notebooks in a folder."""
    parts = [
        "# Gallery\n\nSome figures of each notebook at the `laptop` profile. Committed notebooks hold no outputs; "
        "`make tutorial` runs them, and\n`make site` writes pages with all figures and sliders that move. "
        "`make gallery` renews this page.\n"
    ]
    for name, shown in SHOWN.items():
        heading = title(nbformat.read(notebooks / f"{name}.ipynb", as_version=4))
        parts.append(f"\n## [{heading}](../notebooks/{name}.ipynb)\n")
        parts += [f"\n{caption}:\n\n![{caption}]({FOLDER}/{name}_{one}.jpg)\n" for one, caption in shown.items()]
    return "".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Exit status of the command: 0, or 2 where a profile is unknown or a figure is missing."""
    parser = argparse.ArgumentParser(
        "python -m cryoshift_core.course.gallery",
        description="Write docs/gallery.md and its pictures from executed notebooks.",
    )
    parser.add_argument("--profile", default="laptop", help="profile of the run: " + " or ".join(PROFILES))
    parser.add_argument("--runs", type=Path, help="folder of the executed notebooks (default: runs/<profile>)")
    options = parser.parse_args(arguments)
    try:
        check_known("a profile", options.profile, PROFILES)
        runs = (options.runs or root() / "runs" / options.profile).expanduser().resolve()
        written = write(runs, root() / "notebooks", root() / "docs")
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in written) / 1e3
    print(f"{written[0]}: {len(written) - 1} pictures, {size:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
