"""The catalog of public data in ``catalog.toml``: contents, licence, citation and addresses of each item."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from cryoshift_core.errors import InputError

CATALOG = Path(__file__).parent / "catalog.toml"
PUBLIC = re.compile(r"(?i)(pdb|emdb):[\w-]{4,12}")  # entries that `local` replaces by a file


@dataclass(frozen=True)
class Item:
    """One item of the catalog.

    Attributes
    ----------
    name : name to request; ``{id}`` in it stands for any id that matches `pattern`
    title : one line that describes it
    kind : structure, map, file or archive; or folder: a collection that is downloaded file by file
    licence, citation : terms of use, and the paper to cite
    gives : content of the file
    file : path in the cache folder, with forward slashes. Empty for a folder
    urls : addresses of the same file, tried in this order
    size : bytes, None if not known; rounded if `size_is_approximate`
    sha256 : hash of the published file; None: the hash of the first download is recorded and required later
    landing : web page of the item
    note : what a user has to know or do
    pattern : regular expression of valid ids
    """

    name: str
    title: str
    kind: str
    licence: str
    citation: str
    gives: str
    file: str = ""
    urls: tuple[str, ...] = ()
    size: int | None = None
    size_is_approximate: bool = False
    sha256: str | None = None
    landing: str = ""
    note: str = ""
    pattern: str = ""


@lru_cache
def catalog(path: Path = CATALOG) -> dict[str, Item]:
    """All items by name, in the order of the file. An item with `entry` inherits missing fields from that item.

    Raises
    ------
    InputError
        The file is not TOML, an item lacks a field or has an unknown one, or a name occurs twice.
    """
    items: dict[str, Item] = {}
    try:
        for row in tomllib.loads(path.read_text(encoding="utf-8"))["item"]:
            entry = row.pop("entry", None)
            if "urls" in row:
                row["urls"] = tuple(row["urls"])
            item = replace(_resolve(entry, items), **row) if entry else Item(**row)
            if item.name in items:
                raise InputError(f"{path}: expected unique names, got {item.name} twice; rename one of them.")
            items[item.name] = item
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a catalog ({error}); expected [[item]] tables: restore the file.") from None
    return items


def find(name: str, items: dict[str, Item] | None = None) -> Item:
    """The item with this name: one of the catalog, or ``pdb:6zu5``, ``emdb:1234``, ``empiar:10164/PATH``.

    Raises
    ------
    InputError
        There is none.
    """
    items = catalog() if items is None else items
    known = items.get(name.lower())
    if known and not known.pattern:
        return known
    return _resolve(name, items)


def _resolve(name: str, items: dict[str, Item]) -> Item:
    family, _, key = name.partition(":")
    template = items.get(f"{family.lower()}:{{id}}")
    if template is None:
        close = difflib.get_close_matches(name, items, n=3, cutoff=0.4)
        raise InputError(
            f"There is no {name!r} in the catalog; expected a name from `python -m data_fetch list`"
            + (f", such as {', '.join(close)}." if close else ".")
        )
    if template.name.startswith("emdb"):
        key = re.sub(r"(?i)^emd-", "", key)
    key = key if "/" in template.pattern else key.lower()
    if not re.fullmatch(template.pattern, key) or {".", ".."} & set(key.split("/")):
        raise InputError(
            f"{name!r}: expected an id that matches {template.pattern}, as in {template.name}, got {key!r}; correct it."
        )
    words = {"id": key, "ID": key.upper(), "mid": key[1:3]}
    filled = {field: getattr(template, field).format(**words) for field in ("name", "file", "landing")}
    urls = tuple(url.format(**words) for url in template.urls)
    title = f"{template.name.partition(':')[0].upper()} {key}"
    return replace(template, **filled, title=title, urls=urls, pattern="")


def describe(item: Item) -> str:
    """Description of an item, one ``field: value`` per line."""
    size = "not known" if item.size is None else f"{'about ' * item.size_is_approximate}{item.size:,} bytes"
    rows = {
        "name": item.name,
        "title": item.title,
        "kind": item.kind,
        "gives": item.gives,
        "size": size,
        "sha256": item.sha256 or "not published: the hash of the first download is recorded, and required later",
        "licence": item.licence,
        "cite": item.citation,
        "page": item.landing or "none known",
        "from": "\n         ".join(item.urls) or "no address known",
        "note": item.note,
    }
    return "\n".join(f"{field + ':':9}{value}" for field, value in rows.items() if value)
