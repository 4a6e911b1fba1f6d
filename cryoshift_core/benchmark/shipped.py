"""The evidence that ships, drawn in notebooks: figures with their verdicts in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from . import collect, runner, statistics, tables
from .figures import forest
from .statistics import Comparison, Gap


@dataclass(frozen=True)
class Evidence:
    """Rows of evidence.csv and per_class.csv of one profile, and `show(figure, name)`, which a notebook passes."""

    rows: list[statistics.Row]
    per_class: list[statistics.Row]
    show: Callable[[Figure, str], object]

    def missing(self, what: str, tier: str) -> None:
        """Print that a part has not been measured, and what measures it."""
        print(f"{what}: not measured yet; `make evidence TIER={tier}` does it.")

    def draw(self, name: str, tier: str) -> None:
        """Show a figure out of `tables.DRAWINGS`."""
        figure = tables.DRAWINGS[name].draw(self.rows, self.per_class)
        if figure is None:
            self.missing(name, tier)
        else:
            self.show(figure, f"evidence_{name}")

    def compare(self, found: Mapping[str, Comparison], title: str, label: str, name: str, tier: str) -> None:
        """Show paired differences, and print for each whether its interval leaves out zero, and its adjusted p.

        Parameters
        ----------
        found : what is compared -> its difference to `label`
        label : name of what all are compared with
        """
        if not found:
            self.missing(title, tier)
            return
        self.show(forest(found, title, f"balanced accuracy: difference to {label}"), name)
        for what, one in found.items():
            adjusted = f" (adjusted p {p})" if (p := statistics.p_text(one.p)) else ""
            print(f"{what}: {one.interval:+.3f} ({one.seeds} seeds), {verdict(one, label)}{adjusted}")

    def of(self, method: str, wanted: tuple[str, ...] = statistics.NAMED) -> dict[str, Gap]:
        """Scenario -> what was measured of a method there."""
        gaps = {gap.scenario: gap for gap in statistics.gap_table(self.rows) if gap.method == method}
        return {scenario: gaps[scenario] for scenario in wanted if scenario in gaps}


def verdict(found: Comparison, label: str) -> str:
    """Words for a paired difference: worse or better than `label`, or not distinguishable from it."""
    return f"{found.outcome} {'from' if found.outcome == 'not distinguishable' else 'than'} {label}"


def evidence(show: Callable[[Figure, str], object], profile: str = "laptop") -> Evidence:
    """The evidence that ships, at a profile; InputError where there is none."""
    folder = collect.shipped().parent
    both = (runner.read(folder / name) for name in ("evidence.csv", "per_class.csv"))
    rows, per_class = ([row for row in one if row["profile"] == profile] for one in both)
    return Evidence(rows, per_class, show)


def real_rows(target: str, method: str, model: str, profile: str = "laptop") -> list[statistics.Row]:
    """The rows of real.csv, the evidence on experimental tomograms that ships; [] where there are none.

    Parameters
    ----------
    target : "yeast_171" or "hiv_vlp"
    model : "as trained" or "as chosen"
    """
    asked = {"profile": profile, "target": target, "method": method, "model": model}
    rows = runner.read(collect.shipped().parent / "real.csv")
    return [row for row in rows if all(row[name] == value for name, value in asked.items())]
