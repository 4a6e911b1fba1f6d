"""Can hand be told? A molecule against its mirror image: what the boxes hold, and what a network takes from them.

python tests/bench/bench_hand.py from the root takes half an hour of CPU time. Three answers for each pair:

- The bound: with noise of known power, two images are told apart with probability Phi(d / 2), d their distance in units
  of the noise. A molecule in a pose is compared with its mirror image in the pose and at the shift that make it most
  alike, found by search. Whatever has only the box needs at least the SNR printed to be right in 95 % of the boxes.
- A matched filter, which tries poses of both: right in how many boxes?
- A network that learns from labels: right in how many of other boxes, with all poses and with poses that differ little?

The pair of 70S and 80S is the yardstick.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation
from torch import Tensor

import cryoshift_core as cs
from cryoshift_core import data, fourier, metrics, models
from cryoshift_core.simulation import controls, imaging, optics, specimens
from cryoshift_core.simulation.specimens import Specimens, Templates

WIDTH = 384.0  # A, edge of the box
VOXEL_SIZES = (16.0, 12.0, 8.0)
MIRRORED = ("ribosome_70S", "spliceosome", "TRiC", "RuvAB", "apoferritin")
PAIRS = (("ribosome_70S", "ribosome_80S"), *((name, "mirror") for name in MIRRORED))
POSES, TRIED, KEPT, ROUNDS = 8, 24000, 48, 20  # of the search for the most similar pose
COARSE = 1 / 30  # 1/A, the highest frequency of its first round
SNRS = (0.003, 0.01, 0.03, 0.1)  # of the matched filter; `NETWORK_SNR` is that of the network
SOUGHT, FILTERS, NETWORK_SNR, LABELLED, HELD_OUT, STEPS = 200, 8000, 3.0, 4000, 600, 800
ANGLES = {"all poses": None, "within about 45 degrees": 0.8, "within about 20 degrees": 0.35}


def acquisition(voxel_size: float) -> optics.Optics:
    return optics.Optics(voxel_size=voxel_size, b_factor=300.0, misalignment=4.0, thickness=160.0)


def templates(pair: tuple[str, str], voxel_size: float) -> Templates:
    """A molecule and its rival, which is its mirror image or another molecule."""
    name, rival = pair
    box, draw = round(WIDTH / voxel_size), torch.Generator().manual_seed(0)
    if rival != "mirror":
        return specimens.templates(pair, voxel_size, box, generator=draw)
    change = {"change": lambda _, volume: controls.shape(volume, "mirror")}
    one, other = (specimens.templates([name], voxel_size, box, generator=draw, **k) for k in ({}, change))
    both = {"transforms": one.transforms + other.transforms, "shapes": (range(1), range(1, 2))}
    return replace(one, names=pair, radius=one.radius.repeat(2), **both)


def turned(rotation: Tensor, angle: float, generator: torch.Generator) -> Tensor:
    """Rotations (N, 3, 3), each followed by a random one of about `angle` radians."""
    vectors = angle * torch.randn(3, len(rotation), generator=generator)
    return torch.from_numpy(Rotation.from_rotvec(vectors.T.numpy()).as_matrix()).float() @ rotation


class Observer:
    """What an observer knows who knows the molecules, the transfer function and the power of the noise."""

    def __init__(self, pair: tuple[str, str], voxel_size: float) -> None:
        self.bank, setting = templates(pair, voxel_size), acquisition(voxel_size)
        index, k = fourier.half_ball(self.bank.box)
        response, sigma = optics.transfer(setting, self.bank.box)
        seen = (response != 0) & (sigma > 0)
        self.index, self.k = index[seen], k[seen]
        self.twice = 1.0 + (self.k[:, 2] > 0)  # for the half of the Fourier grid that is not there
        self.response, self.sigma = response[seen], sigma[seen]

    def images(
        self, template: int, rotation: Tensor, shift: Tensor | None = None, some: Tensor | None = None
    ) -> Tensor:
        """Noise-free coefficients (N, P), in units such that the noise has a variance of 1 in each."""
        shift = torch.zeros(len(rotation), 3) if shift is None else shift
        one = Specimens(torch.full((len(rotation), 1), template), rotation[:, None], shift[:, None])
        some = torch.ones(len(self.k), dtype=torch.bool) if some is None else some
        factor = self.twice[some].sqrt() * self.response[some] / self.sigma[some]
        parts = torch.arange(len(one)).split(20)
        return torch.cat([imaging.gather(self.bank, one[part], 0, self.k[some]) * factor for part in parts])

    def snr(self, image: Tensor) -> Tensor:
        """SNR in the box of an image (1, P) as `images` gives it."""
        return (image.abs() * self.sigma).square().sum() / (self.twice * self.sigma.square()).sum()

    def distances(self) -> Tensor:
        """Distance (POSES,) of the molecule from its rival's nearest image, in units of the noise at an SNR of 1."""
        g = torch.Generator().manual_seed(1)
        some = self.k.norm(dim=1) * self.bank.box / WIDTH < COARSE
        grid = specimens.random_rotations(TRIED, g)
        rivals, found = self.images(1, grid, some=some), []
        for pose in specimens.random_rotations(POSES, g)[:, None]:
            image = self.images(0, pose)
            best = (rivals - image[:, some]).abs().square().sum(1).argsort()[:KEPT]
            rotation, shift = grid[best], torch.zeros(KEPT, 3)
            for size in (0.2 * 0.75 ** torch.arange(ROUNDS)).tolist():  # radians, and tenths of a voxel
                more = turned(rotation.repeat(4, 1, 1), size, g)
                moved = shift.repeat(4, 1) + 10 * size * torch.randn(4 * KEPT, 3, generator=g)
                rotation, shift = torch.cat([rotation, more]), torch.cat([shift, moved])
                near = (self.images(1, rotation, shift) - image).abs().square().sum(1)
                best = near.argsort()[:KEPT]
                rotation, shift = rotation[best], shift[best]
            found.append((near.min() / self.snr(image)).sqrt())
        return torch.stack(found)

    def matched(self, snr: float) -> float:
        """How often the best of FILTERS poses of each of the two is one of the right molecule, (SOUGHT,) new boxes."""
        g = torch.Generator().manual_seed(2)
        y = torch.arange(SOUGHT) % 2
        placed, setting = specimens.specimens(y, self.bank, generator=g, offset=0.0), acquisition(WIDTH / self.bank.box)
        x = imaging.image_by_transfer(placed, self.bank, setting, generator=g, snr=snr).x[:, 0]
        measured = torch.fft.rfftn(torch.fft.ifftshift(x, dim=(1, 2, 3)), dim=(1, 2, 3)).flatten(1)[:, self.index]
        measured = measured * self.twice.sqrt() / self.sigma
        grid = specimens.random_rotations(FILTERS, g)
        best = []
        for template in (0, 1):
            bank = self.images(template, grid)
            alike = (measured @ bank.conj().T).real / bank.abs().square().sum(1).sqrt()
            best.append(alike.amax(1))
        return float(((best[1] > best[0]).long() == y).float().mean())


def needed(apart: Tensor, right: float = 0.95) -> float:
    """SNR at which pairs with these distances at an SNR of 1 are told apart with probability `right`, on average."""

    def excess(log_snr: float) -> float:
        return float(torch.special.ndtr(apart.double() * math.exp(log_snr / 2) / 2).mean()) - right

    return math.exp(brentq(excess, -20, 20))


def learned(pair: tuple[str, str], voxel_size: float, angle: float | None, seed: int = 0) -> float:
    """Balanced accuracy of a network that learns the two from labels, on other boxes."""
    g = torch.Generator().manual_seed(seed)
    bank = templates(pair, voxel_size)
    y = torch.arange(LABELLED + HELD_OUT) % 2
    placed = specimens.specimens(y, bank, generator=g)
    if angle is not None:
        placed = replace(placed, rotation=turned(torch.eye(3).expand(len(y), 3, 3), angle, g)[:, None])
    made = imaging.image_by_transfer(placed, bank, acquisition(voxel_size), generator=g, snr=NETWORK_SNR)
    x, groups = data.normalize(made.x), torch.zeros(LABELLED, dtype=torch.long)
    one = cs.Labelled(x[:LABELLED], y[:LABELLED], pair, voxel_size, made.snr[:LABELLED], groups)
    other = cs.Unlabelled(one.x, voxel_size, groups, "the same boxes")
    config = cs.TrainingConfig(steps=STEPS, rotations=(0,) if angle else (0, 1, 2, 3))
    fit = cs.fit("source_only", one, other, config=config, seed=seed, device="cpu", progress=False)
    return metrics.balanced_accuracy(models.predict(fit.network, x[LABELLED:], device="cpu"), y[LABELLED:])


def main() -> None:
    """Print the three answers, a line for each pair and voxel size."""
    torch.set_num_threads(1)
    for pair in PAIRS:
        for voxel_size in VOXEL_SIZES:
            print(
                *pair,
                f"{voxel_size:g} A: at least SNR {needed(Observer(pair, voxel_size).distances()):.2g}",
                flush=True,
            )
        observer = Observer(pair, 12.0)
        found = ", ".join(f"{observer.matched(snr):.2f} at SNR {snr:g}" for snr in SNRS)
        print(*pair, f"12 A: a matched filter is right in {found}", flush=True)
        found = ", ".join(f"{learned(pair, 12.0, angle):.2f} {name}" for name, angle in ANGLES.items())
        print(*pair, f"12 A, SNR {NETWORK_SNR:g}: a network with {LABELLED} labels is right in {found}", flush=True)


if __name__ == "__main__":
    main()
