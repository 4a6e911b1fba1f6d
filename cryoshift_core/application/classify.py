"""Classify the particles of a tomogram in one call, with or without their positions, or with a saved model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import data_fetch

from ..errors import InputError
from ..simulation import structures
from . import job, target_data
from .job import Classification as Classification
from .job import as_text as as_text
from .job import profile_of as profile_of
from .pipeline import Device
from .profiles import PROFILES, Profile


def classify(
    *,
    out_dir: str | Path,
    tomogram: str | Path | Sequence[str | Path] = "",
    coordinates: str | Path = "",
    subtomograms: str | Path = "",
    model: str | Path = "",
    classes: str | Sequence[str] = "",
    voxel_size: float = 0.0,
    contrast: str = "auto",
    background: str | Path = "",
    tilt_axis: float = 0.0,
    tilt_range: float = 60.0,
    defocus: float = 3.0,
    spike_snr: float = 0.0,
    picking_error: float = 0.0,
    own_background: bool = True,
    candidates: int = 2000,
    purity: float = 0.8,
    n_picks: int = 0,
    box: int = 0,
    profile: str | Profile = "laptop",
    method: str = "cryoshift",
    project_folder: str | Path = "",
    n_seeds: int = 1,
    average_rotations: bool = False,
    templates: str = job.TEMPLATES[0],
    may_be_absent: str | Sequence[str] = "",
    held_out_tomograms: str | Sequence[str] = "",
    seed: int = 0,
    device: Device = "auto",
) -> Classification:
    """Classes, confidences and class fractions of the particles in a tomogram, without a label; files in `out_dir`.

    A source is simulated for the classes at the target's voxel size, and simulated molecules are put into particle-free
    boxes of the target's own tomogram, where there are enough. `source_only` and `method` are fitted, a checkpoint is
    selected without target labels, and its probabilities are calibrated. A method can name another one without its
    adversaries (`Method.unaligned`); it is fitted, too, and used where the adversaries change the class fractions.
    Where a check speaks against the adapted network, `source_only` takes its place and a warning says so. With
    particle-free background, the accuracy is estimated on spike-ins, in boxes that were not trained with.

    A tomogram without coordinates is picked: the candidates of :func:`picks.candidates` take the place of the
    positions, a class "ice" for those without a particle is added, and of each other class the most confident are
    listed, as many as keep the expected purity, or `n_picks`.

    With `model`, nothing is simulated or trained: the saved classifier predicts, and its classes, box and voxel size
    are used. A warning says so where the subtomograms are further away than those that the model was adapted to.

    Files: predictions.star (all rows and columns of the input, with classes and probabilities), classes/<class>.star,
    predictions_purity.star, report.html, spike_in.csv, model.safetensors (see `Classifier.load`), manifest.json;
    predictions.tbl for a Dynamo table; those of `picks.write` for a tomogram without coordinates. They are written to a
    new folder that is renamed to `out_dir` at the end; earlier results at `out_dir` are moved aside. After an
    interruption, the same call goes on from the simulated data and the training that are kept in NAME.kept beside
    `out_dir`; that folder is deleted at the end. The steps one by one: :func:`job.open`.

    Parameters
    ----------
    out_dir : folder of the results
    tomogram, coordinates : a tomogram (.mrc, .em, .hdf, .zarr) and a list of positions in it (.star, .tbl, .json, ...);
        or several, as a folder, a sequence or a text with commas, and a STAR that names the tomogram of each row, or
        no list: then all are picked
    subtomograms : a stack, a folder or a STAR with _rlnImageName, in place of the two
    model : model.safetensors of an earlier run, to predict without training; "": train
    classes : at least two built-in names, PDB, mmCIF, MRC or EM files, or entries such as pdb:6zu5; a sequence, or a
        text with commas. Behind a map, @ and its voxel size in A, such as average.em@8.0, overrides its header. "": the
        profile's
    voxel_size : A; 0: the file's own
    contrast : "dark" (protein dark), "bright", or "auto": decide from the grey values
    background : particle-free boxes (stack, folder or STAR); "": cut from the tomogram
    tilt_axis : degrees from the volume's y axis towards x
    tilt_range : largest tilt in degrees, of the molecules in experimental boxes
    defocus : um, underfocus positive, of the molecules in experimental boxes
    spike_snr : var(signal) / var(background) of the spike-ins; 0: estimated from the target
    picking_error : largest distance of a position from its particle, A; 0: half a voxel
    own_background : train a method that can use them with molecules in the tomogram's own particle-free boxes, too
    candidates : largest number of candidates in a tomogram without coordinates
    purity : least expected purity, the mean calibrated probability, 0 to 1: of the picks listed of each class or,
        where positions were given, of the rows in predictions_purity.star
    n_picks : list so many picks of each class in all tomograms, the most confident ones, whatever their purity; 0:
        `purity` decides
    box : voxels; 0: from the structures or the subtomograms
    profile : amount of simulated data and training: a name in `profiles.PROFILES`, or a Profile
    method : a name in `methods.METHODS`
    project_folder : folder that the names in a STAR of subtomograms are relative to, where it is not the STAR's own,
        such as RELION's project folder
    n_seeds : networks are trained with so many seeds from `seed` on; probabilities are their means, and the column
        _csAgreement says which fraction of them gives the class. model.safetensors holds all of them
    average_rotations : predict each subtomogram in the two or four orientations that 180-degree rotations give it, and
        average: some 0.01 more balanced accuracy for as many times the time of prediction (docs/search.md)
    templates : "combined", one answer of the network and of template matching, weighted by what is right on spike-ins,
        where two classes at least are molecules; "beside", the network's answer and a second opinion; or "off"
    may_be_absent : classes that may not occur, a sequence or a text with commas: no warning demands them
    held_out_tomograms : names of some of several tomograms, that are classified and not adapted to
    seed : of every random draw
    device : "auto", "cpu", "cuda" or "mps"

    Raises
    ------
    InputError
        a wrong value, an unreadable file, or an `out_dir` that holds other files
    """
    return job.open(**locals()).report()


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """The options of :func:`classify` except for `out_dir`, for a command that takes them."""
    parser = argparse.ArgumentParser(f"python -m cryoshift_core {command}", description=description)
    add = parser.add_argument
    add(
        "--tomogram",
        default="",
        help=".mrc, .em, .hdf or .zarr, or several: a folder, or names by commas",
    )
    add("--coordinates", default="", help=".star, .tbl, .json, .ndjson, .txt, ...: positions in the tomogram")
    add("--subtomograms", default="", help="in place of the two: a stack, a folder or a STAR with _rlnImageName")
    add("--model", default="", help="model.safetensors of an earlier run: predict without training")
    add("--classes", default="", help="names, files or entries such as pdb:6zu5, by commas (default: the profile's)")
    add(
        "--pixel_size",
        "--voxel_size",
        default=0.0,
        type=float,
        dest="voxel_size",
        help="A per voxel (default: from the file)",
    )
    add("--contrast", default="auto", choices=("auto", "dark", "bright"), help="of protein (default: auto)")
    add("--background", default="", help="particle-free boxes: a stack, a folder or a STAR (default: cut them)")
    add("--tilt_axis", default=0.0, type=float, help="degrees from y towards x (default: 0)")
    add("--tilt_range", default=60.0, type=float, help="largest tilt in degrees (default: 60)")
    add("--defocus", default=3.0, type=float, help="um, underfocus positive (default: 3)")
    add("--spike_snr", default=0.0, type=float, help="SNR of spike-ins (default: estimated)")
    add("--picking_error", default=0.0, type=float, help="largest error of the positions in A (default: half a voxel)")
    add("--own_background", default=True, action=argparse.BooleanOptionalAction, help="train in own free boxes, too")
    add("--candidates", default=2000, type=int, help="largest number of candidates where it picks (default: 2000)")
    add("--purity", default=0.8, type=float, help="least expected purity of what is listed (default: 0.8)")
    add("--n_picks", default=0, type=int, help="picks to list of each class, whatever their purity (default: by it)")
    add("--box", default=0, type=int, help="voxels (default: from the structures)")
    add("--profile", default="laptop", help=f"{', '.join(PROFILES)} (default: laptop)")
    add("--method", default="cryoshift", help="default: cryoshift")
    add("--project_folder", default="", help="that a STAR's _rlnImageName are relative to (default: the STAR's own)")
    add("--n_seeds", default=1, type=int, help="training seeds whose probabilities are averaged (default: 1)")
    add(
        "--templates",
        default=job.TEMPLATES[0],
        choices=job.TEMPLATES,
        help="template matching: one answer with the network, a second opinion beside it, or none",
    )
    add("--average_rotations", action="store_true", help="average predictions over 180-degree rotations (slower)")
    add("--may_be_absent", default="", help="classes that may not occur, by commas")
    add("--held_out_tomograms", default="", help="of several, by commas: classified, and not adapted to")
    add("--seed", default=0, type=int, help="of every random draw (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line of :func:`classify`: 0, 2 after an InputError, which is printed as one line, or 130 after ctrl-C."""
    about = "Classify the particles of a tomogram, or a stack of them."
    reader = parser("classify", about)
    reader.add_argument("--out_dir", "--out", required=True, help="folder of the results")
    options = reader.parse_args(arguments)
    try:
        if not options.model:
            picking = not (options.coordinates or options.subtomograms)
            usual = profile_of(options.profile).classes
            names = target_data.read_classes(data_fetch.local(options.classes), usual, background=picking)
            print("classes:", *map(structures.describe, names), sep="\n  ", flush=True)
        opened = job.open(**vars(options))
        if opened.kept is not None and opened.kept.is_dir():
            print(f"going on from what an earlier run has left in {opened.kept}", flush=True)
        result = opened.report()
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(*getattr(stop, "__notes__", ["Stopped before anything was made."]), sep="\n", file=sys.stderr)
        return 130
    print(result)
    return 0
