"""Template matching: which class, imaged in which pose, resembles a subtomogram most?

The classical way to tell molecules in tomograms (Frangakis et al. 2002, PNAS 99:14153; Förster et al. 2010, Methods
Enzymol. 483:215), and an opinion that is independent of the network: it is not trained, it knows each class by its
structure alone, and it tries poses, which a network does not. It takes some 8 CPU-ms for a subtomogram of 32^3.

A particle that is none of the classes has a best template, too. What speaks against it is that a free shape explains
much more of the subtomogram than this template does: a round one, or a mixture of what all templates have in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import InputError
from ..fourier import half_ball, shell_means, shells
from ..simulation import imaging, specimens
from ..simulation.controls import distance
from ..simulation.optics import Optics, transfer
from ..support.modes import class_thresholds
from ..support.runtime import pick_device
from ..tomography.wedge import Wedge, mean_power
from .spike_in import through

POSES = 2000  # of each class, about 15 degrees apart
HIGHEST = 0.3  # cycles per voxel
FINEST = 12  # Fourier voxels: what poses 15 degrees apart can follow; it bounds the memory of large boxes
STEP = 1.5  # voxels between the positions that are tried, one step to each side
REACH = 0.3  # of the box: radius of the free shapes
SHELLS, COMMON = 6, 100  # of a round shape; of the templates' principal components
SAMPLE = 1000  # templates that these are computed from, and subtomograms that frequencies are weighted by
AT_ONCE = 8  # subtomograms
FALSE_REJECTION = 0.02  # of known subtomograms by each of the two free shapes


@dataclass(frozen=True, eq=False)
class Matches:
    """How well templates explain N subtomograms.

    Attributes
    ----------
    classes : K names
    correlation : (N, K) with the best template of each class, at the measured frequencies; NaN for a class without one
    excess : (N, 2) log of what a round shape, and a mixture of all templates, explain relative to the best template
    """

    classes: tuple[str, ...]
    correlation: Tensor
    excess: Tensor

    @property
    def with_template(self) -> Tensor:
        """(K,) bool."""
        return ~self.correlation[0].isnan()

    @property
    def labels(self) -> Tensor:
        """(N,) index of the class of the best template."""
        return self.correlation.nan_to_num(-math.inf).argmax(1)

    def subset(self, rows: Tensor) -> Matches:
        """Those of `rows`."""
        return Matches(self.classes, self.correlation[rows], self.excess[rows])

    def limits(self, y: Tensor, target: Matches) -> Tensor:
        """Excess (K, 2) of each class above which a subtomogram is none of the classes; these are of known class.

        Parameters
        ----------
        y : (N,) classes of these subtomograms, which look like the target's, such as spike-ins
        target : of the target's subtomograms, which decide what is usual there; see :func:`modes.class_thresholds`
        """
        none, called = np.full(len(self.classes), np.inf), target.labels.numpy()  # inf: too few to tell what is usual
        pairs = zip(self.excess.double().numpy().T, target.excess.double().numpy().T, strict=True)
        each = [class_thresholds(none, known, y.numpy(), own, called, FALSE_REJECTION) for known, own in pairs]
        return torch.from_numpy(np.stack(each, 1)).float()

    def strangeness(self, limits: Tensor) -> Tensor:
        """(N,) above 0 where a free shape explains so much more of a subtomogram that it is none of the classes."""
        return (self.excess - limits[self.labels]).amax(1)


@dataclass(frozen=True, eq=False)
class TemplateBank:
    """Images of each class in many poses, as the tilt series shows them without noise.

    Attributes
    ----------
    classes : K names
    box : voxels
    index : (P,) measured samples below `HIGHEST`, and within `FINEST` Fourier voxels, in the flattened half grid of the
        Fourier transform
    weight : (P,) of the samples
    phases : (S, P) of the positions that are tried
    templates : (K', T, 2 P) of length 1: real and imaginary parts
    shown : (K',) the classes that they show; a class without density, such as ice, has none
    round, common : (SHELLS, 2 P) and (SHELLS + COMMON, 2 P) orthonormal: what the free shapes consist of
    """

    classes: tuple[str, ...]
    box: int
    index: Tensor
    weight: Tensor
    phases: Tensor
    templates: Tensor
    shown: Tensor
    round: Tensor
    common: Tensor

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        x: Tensor,
        optics: Optics,
        wedge: Wedge | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> TemplateBank:
        """Templates of classes, with the transfer function of a tilt series, for subtomograms like x.

        A sample is weighted with the inverse of the root of the mean power of x in its shell. This is half-way between
        plain correlation and a matched filter, which divides by the power and trusts the highest frequencies too much
        where a tomogram was filtered.

        Parameters
        ----------
        classes : names or files
        x : (N, 1, n, n, n), unlabelled
        wedge : measured tilt range, which replaces that of `optics`; None: that of `optics` counts

        Raises
        ------
        InputError
            no class has a density
        """
        box, generator = x.shape[-1], torch.Generator("cpu").manual_seed(seed)
        optics = optics if wedge is None else through(optics, wedge)
        bank = specimens.templates(classes, optics.voxel_size, box, generator=generator)
        index, k = half_ball(box)
        response, noise = transfer(optics, box)
        used = (response != 0) & (noise > 0) & (k.norm(dim=1) < min(HIGHEST, FINEST / box))
        index, k, response = index[used], k[used], response[used]
        shell = shells((box, box, box))
        power, _ = shell_means(mean_power(x[:SAMPLE]).cpu(), shell)
        weight = power.to(response).clamp_min(1e-9)[shell].flatten()[index] ** -0.25  # of subtomogram and template
        weight = weight * (1.0 + (k[:, 2] > 0)).sqrt()  # for the half of the Fourier grid that is not there
        factor = weight * response
        shown = [n for n, name in enumerate(bank.names) if any(bank.transforms[s].any() for s in bank.shapes[n])]
        if not shown:
            raise InputError(f"Expected a class with a density to match, got {', '.join(bank.names)}.")
        images = []
        for n in shown:
            posed = specimens.specimens(torch.full((POSES,), n), bank, generator=generator, offset=0.0)
            parts = torch.arange(POSES).split(50)
            images.append(torch.cat([imaging.gather(bank, posed[part], 0, k) * factor for part in parts]))
        templates = torch.view_as_real(torch.stack(images)).flatten(2)
        templates = templates / templates.norm(dim=2, keepdim=True)
        every = templates.flatten(0, 1)
        some = every[:: math.ceil(len(every) / SAMPLE)]
        values, vectors = torch.linalg.eigh(some @ some.T)
        common = (some.T @ vectors[:, values > 1e-5 * values[-1]][:, -COMMON:]).T
        round_ = torch.view_as_real(_coefficients(_shells(box), index) * factor).flatten(1)
        steps = torch.tensor([-STEP, 0.0, STEP])
        at = torch.cartesian_prod(steps, steps, steps)
        at = at[at.norm(dim=1) < 1.5 * STEP]
        phases = torch.polar(torch.ones(len(at), len(k)), 2 * math.pi * at @ k.T)
        chosen = pick_device(device)
        free = map(_orthonormal, (round_, torch.cat([round_, common])))
        tensors = (t.to(chosen) for t in (index, weight, phases, templates, torch.tensor(shown), *free))
        return cls(bank.names, box, *tensors)

    def match(self, x: Tensor, progress: bool = False) -> Matches:
        """Matches of subtomograms (N, 1, n, n, n), protein bright.

        Raises
        ------
        InputError
            none, or another box
        """
        if tuple(x.shape[1:]) != (1, *(self.box,) * 3) or not len(x):
            raise InputError(f"Expected subtomograms (N, 1, n, n, n) of n = {self.box} voxels, got {tuple(x.shape)}.")
        best, excess = [], []
        bar = tqdm(total=len(x), desc="match templates", disable=not progress, mininterval=1, ascii=True, unit="box")
        for start in range(0, len(x), AT_ONCE):
            boxes = x[start : start + AT_ONCE].to(self.index.device)
            one = _coefficients(boxes[:, 0], self.index) * self.weight
            energy = one.abs().square().sum(1).clamp_min(1e-30)
            moved = torch.view_as_real(one[:, None] * self.phases).flatten(2)  # (B, S, 2 P)
            alike = moved @ self.templates.flatten(0, 1).T
            top = alike.unflatten(2, self.templates.shape[:2]).amax((1, 3))  # (B, K')
            free = [(moved @ shape.T).square().sum(2).amax(1) for shape in (self.round, self.common)]
            explained = top.amax(1).clamp_min(1e-6).square()
            best.append(top / energy.sqrt()[:, None])
            excess.append((torch.stack(free, 1) / explained[:, None]).log())
            bar.update(len(one))
        bar.close()
        correlation = torch.full((len(x), len(self.classes)), math.nan)
        correlation[:, self.shown.cpu()] = torch.cat(best).cpu()
        return Matches(self.classes, correlation, torch.cat(excess).cpu())


def _coefficients(x: Tensor, index: Tensor) -> Tensor:
    """Fourier coefficients (N, P) of volumes (N, n, n, n) about their centres."""
    return torch.fft.rfftn(torch.fft.ifftshift(x, dim=(1, 2, 3)), dim=(1, 2, 3)).flatten(1)[:, index]


def _shells(box: int) -> Tensor:
    """Soft shells (SHELLS, n, n, n) about the centre of a box, from 0 to `REACH` of its width."""
    radii = torch.linspace(0, REACH * box, SHELLS)
    return torch.exp(-0.5 * ((distance(box) - radii[:, None, None, None]) / (REACH * box / SHELLS)).square())


def _orthonormal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.T).Q.T.contiguous()
