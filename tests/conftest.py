"""What holds for every test: tables that users may add to are as before after it."""

import pytest

from cryoshift_core import methods, models, selection, warps
from cryoshift_core.simulation import scenarios
from data_fetch import readers

TABLES = (methods.METHODS, methods.TERMS, models.ENCODERS, selection.VALIDATORS, warps.WARPS)
TABLES += (scenarios.FACTORS, scenarios.SCENARIOS, readers.PICKS, readers.SUBTOMOGRAMS, readers.TOMOGRAMS)


def _restored():
    """METHODS, TERMS, ENCODERS, VALIDATORS, WARPS, FACTORS, SCENARIOS and the readers' tables, restored at the end."""
    before = [dict(table) for table in TABLES]
    yield
    for table, entries in zip(TABLES, before, strict=True):
        if table != entries:
            table.clear()
            table.update(entries)


@pytest.fixture(autouse=True, scope="module")
def tables_of_a_module():
    """Tables as before after the tests of a module, whose own fixtures may add to them."""
    yield from _restored()


@pytest.fixture(autouse=True)
def tables(tables_of_a_module):
    """Tables as before after each test."""
    yield from _restored()
