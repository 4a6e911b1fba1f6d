"""Views in space: molecules as surfaces, and picks in a tomogram.

In JupyterLab, with k3d (``pip install -c constraints.txt -e '.[view3d]'``), the pointer turns and zooms. Elsewhere, and
without k3d, a slider turns drawings of matplotlib: live, among frames on a page, or as a figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from skimage.measure import marching_cubes
from torch import Tensor

from ..application.pictures import group_style
from .explore import Sliders, explore, is_live
from .figures import isosurface, surface_level

AZIMUTHS = tuple(range(0, 360, 45))  # degrees; the views of a drawing that a slider turns
GREY = 0x7FA6C9


def has_k3d() -> bool:
    """Whether views turn under the pointer here: a user is attached, and k3d is installed."""
    return is_live() and find_spec("k3d") is not None


def molecules(maps: Mapping[str, Tensor], voxel_size: float) -> Figure | None:
    """Surfaces of molecules: a live view side by side, or one at a time with a slider that turns it.

    Parameters
    ----------
    maps : name -> (Z, Y, X) potential; names without a surface are left out
    voxel_size : A

    Returns
    -------
    The static figure where there is no user, else None, as :func:`explore.explore` does.
    """
    maps = {name: volume for name, volume in maps.items() if float(volume.max()) > 0}
    if has_k3d():
        _show(molecule_scene(maps, voxel_size))
        return None

    def draw(axes: Sequence[Axes], name: str, azimuth: int) -> None:
        (ax,) = axes
        isosurface(ax, maps[name])  # type: ignore[arg-type]  # the axes are those of the projection "3d"
        ax.view_init(elev=20, azim=azimuth)  # type: ignore[attr-defined]

    sliders: Sliders = {"name": ("molecule", list(maps)), "azimuth": ("turned by (degrees)", list(AZIMUTHS))}
    start = {"name": next(iter(maps)), "azimuth": AZIMUTHS[0]}
    return explore(draw, sliders, start=start, size=3.0, projection="3d")


def tilt_disc(tilt: float) -> np.ndarray:
    """(49, 3) rim of the central slice of a tilt image: unit vectors (kx, ky, kz); `tilt` in degrees about ky."""
    around, angle = np.linspace(0, 2 * np.pi, 49), np.deg2rad(tilt)
    return np.stack([np.cos(around) * np.cos(angle), np.sin(around), np.cos(around) * np.sin(angle)], 1)


def tilt_planes(ax: Axes, tilts: Sequence[float], azimuth: float) -> None:
    """Draw the central slices of tilt images in Fourier space on a 3-D axis: discs up to the Nyquist frequency.

    Parameters
    ----------
    tilts : degrees about the axis ky; the last one is outlined
    azimuth : of the view about the beam kz, degrees; at 0 it is along ky
    """
    space: Any = ax
    for tilt in tilts:
        edge, width = ("black", 1.4) if tilt == tilts[-1] else ("#4C7FA6", 0.5)
        space.add_collection3d(
            Poly3DCollection([tilt_disc(tilt)], facecolor=("#7FA6C9", 0.35), edgecolor=edge, linewidth=width)
        )
    space.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1), xticks=[], yticks=[], zticks=[])
    space.set(xlabel="kx", ylabel="ky", zlabel="kz")
    for axis in (space.xaxis, space.yaxis, space.zaxis):
        axis.labelpad = -14
    space.set_box_aspect((1, 1, 1), zoom=0.95)
    space.view_init(elev=12, azim=azimuth - 90)


def molecule_scene(maps: Mapping[str, Tensor], voxel_size: float) -> Any:
    """A k3d plot with the surfaces of molecules (see :func:`molecules`), side by side along x, in A."""
    import k3d

    plot, left = k3d.plot(grid_visible=False), 0.0
    for name, volume in maps.items():
        data = np.asarray(volume, dtype=np.float32)
        points, faces, *_ = marching_cubes(data, surface_level(data))
        xyz = points[:, ::-1] * voxel_size + [left, 0, 0]
        plot += k3d.mesh(xyz.astype(np.float32), faces.astype(np.uint32), color=GREY, name=name, flat_shading=False)
        plot += k3d.text(name, position=[left, 0, 0], size=0.7, label_box=False, is_html=True)
        left += data.shape[2] * voxel_size
    return plot


def picks(zyx: np.ndarray, groups: np.ndarray, names: Sequence[str], shape: Sequence[int], voxel_size: float,
          diameter: float = 250.0) -> Figure | None:  # fmt: skip
    """Positions in a tomogram, coloured by class: a live view, or one that a slider turns.

    Parameters
    ----------
    zyx : (N, 3) voxels
    groups : (N,) index into `names`
    shape : Z, Y, X of the tomogram, voxels
    voxel_size, diameter : A, of a voxel and of the balls of the live view

    Returns
    -------
    The static figure where there is no user, else None, as :func:`explore.explore` does.
    """
    if has_k3d():
        _show(pick_scene(zyx, groups, names, shape, voxel_size, diameter))
        return None
    nm = zyx * voxel_size / 10
    ends = np.array(shape) * voxel_size / 10

    def draw(axes: Sequence[Axes], azimuth: int) -> None:
        ax: Any = axes[0]
        for k, name in enumerate(names):
            z, y, x = nm[groups == k].T
            colour, marker = group_style(k)
            ax.scatter(x, y, z, s=5, color=colour, marker=marker, label=name, depthshade=True, linewidths=0)
        ax.set(xlim=(0, ends[2]), ylim=(0, ends[1]), zlim=(0, ends[0]), xlabel="x (nm)", ylabel="y (nm)")
        ax.set_zticks([0, ends[0]], ["z = 0", f"{ends[0]:.0f} nm"])  # a label along z would leave the picture
        ax.set_box_aspect((ends[2], ends[1], ends[0]), zoom=0.8)  # room for the labels in every view
        ax.tick_params(labelsize=6)
        ax.view_init(elev=35, azim=azimuth - 60)
        for text in ax.legend(fontsize=7, loc="upper left", markerscale=2).get_texts():
            text.set_parse_math(False)  # a class may be named after a file with a dollar sign

    sliders = {"azimuth": ("turned by (degrees)", list(AZIMUTHS))}
    return explore(draw, sliders, start={"azimuth": AZIMUTHS[0]}, size=4.2, frames=3, projection="3d")


def pick_scene(zyx: np.ndarray, groups: np.ndarray, names: Sequence[str], shape: Sequence[int], voxel_size: float,
               diameter: float) -> Any:  # fmt: skip
    """A k3d plot with a ball per position (see :func:`picks`), in A; the grid is as large as the tomogram."""
    import k3d

    ends = [float(edge) * voxel_size for edge in reversed(shape)]
    plot = k3d.plot(grid=[0, 0, 0, *ends], grid_auto_fit=False, axes=["x\\,(A)", "y\\,(A)", "z\\,(A)"])
    for k, name in enumerate(names):
        xyz = (zyx[groups == k][:, ::-1] * voxel_size).astype(np.float32)
        colour = int(group_style(k)[0].removeprefix("#"), 16)
        plot += k3d.points(xyz, point_size=diameter, color=colour, shader="3d", name=name)
    return plot


def _show(plot: Any) -> None:
    from IPython.display import display

    display(plot)
