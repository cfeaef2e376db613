"""How the site shows equations and docstrings.

Equations become MathML, which browsers draw themselves: nothing is fetched, and nothing waits for a script. Docstrings
are plain text, not reStructuredText, so they keep their lines.
"""

import html

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

LOG = logging.getLogger(__name__)


def draw(self, node, display: str):
    text = node.astext()
    try:
        made = convert(text, display=display)
    except Exception as error:  # what it does not know is shown as it is written
        LOG.warning("equation: %s: %s", error, text)
        made = f"<code>{html.escape(text)}</code>"
    self.body.append(made if display == "inline" else f'<div class="math">{made}</div>')
    raise nodes.SkipNode


def keep_lines(app, what, name, obj, options, lines):
    "Show a docstring line by line."
    lines[:] = [f"| {line}" if line else "" for line in lines]


def setup(app):
    inline, block = (
        (lambda self, node, display=display: draw(self, node, display), None)
        for display in ("inline", "block")
    )
    app.add_html_math_renderer("mathml", inline, block)
    app.connect("autodoc-process-docstring", keep_lines)
    return dict(parallel_read_safe=True)
