"""Sphinx extension of the site: formulas as MathML, and docstrings that are plain text rather than reStructuredText."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)
# Code and emphasis keep their meaning; |k|, *.mrc, **values and name_ are meant as they stand.
KEPT = re.compile(r"(``.+?``|:\w+:`.+?`|`.+?`_?|(?<![\w*])\*{1,2}[^\W_][^*\n]*[^\W_]\*{1,2}(?![\w*]))")
# The bar of \bar p: as an accent, browsers without a font for formulas draw it into the letter, where it is not seen.
BAR = ('<mover accent="true">', '<mover accent="false">')
MARKS = re.compile(r"([|*]|(?<=\w)_(?!\w))")


def to_mathml(writer: Any, node: nodes.Element, block: bool) -> None:
    """Write a formula, which browsers show without a script; its LaTeX text and a warning for an unknown command."""
    latex = node.astext().replace(r"\begin{equation}", "").replace(r"\end{equation}", "").strip()
    try:
        text = latex2mathml.tex2mathml(latex, as_block=block).replace(*BAR)
    except MathError as error:
        LOG.warning("formula %s: %s", latex, error, location=node)
        text = f"<code>{writer.encode(latex)}</code>"
    anchors = "".join(f'<span id="{name}"></span>' for name in node.get("ids", []))
    writer.body.append(f'<div class="math">{anchors}{text}</div>' if block else anchors + text)
    raise nodes.SkipNode


def escape(line: str) -> str:
    """A line of a docstring in which marks that are no markup are escaped."""
    pieces = KEPT.split(line)
    return "".join(piece if i % 2 else MARKS.sub(r"\\\1", piece) for i, piece in enumerate(pieces))


def escape_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape a docstring in place; indented code after a line that ends with :: stays as it is."""
    code_above = -1  # indentation of the line that ends with ::
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if line.strip() and code_above >= 0 and indent <= code_above:
            code_above = -1
        if code_above < 0:
            lines[i] = escape(line)
            code_above = indent if line.rstrip().endswith("::") else -1


def rejoin_property(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Undo in place that napoleon takes what stands before a colon in the first line of a property for its type."""
    types = [i for i, line in enumerate(lines) if line.startswith(":type: ")]
    if what == "property" and types:
        lines[0] = f"{lines.pop(types[0]).removeprefix(':type: ')}: {lines[0]}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer "mathml", and what happens to a docstring before and after napoleon reads its sections."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda writer, node: to_mathml(writer, node, False), None),
        block_renderers=(lambda writer, node: to_mathml(writer, node, True), None),
    )
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)
    app.connect("autodoc-process-docstring", rejoin_property, priority=600)  # napoleon has 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
