"""Equations of the site as MathML, which browsers draw themselves: nothing is fetched, and nothing waits for a script."""

import html

from docutils import nodes
from latex2mathml.converter import convert


def draw(self, node, display: str):
    text = node.astext()
    try:
        made = convert(text, display=display)
    except Exception as error:  # what it does not know is shown as it is written
        self.builder.warn(f"equation: {error}: {text}") if hasattr(
            self.builder, "warn"
        ) else None
        made = f"<code>{html.escape(text)}</code>"
    self.body.append(made if display == "inline" else f'<div class="math">{made}</div>')
    raise nodes.SkipNode


def setup(app):
    inline, block = (
        (lambda self, node, display=display: draw(self, node, display), None)
        for display in ("inline", "block")
    )
    app.add_html_math_renderer("mathml", inline, block)
    return dict(parallel_read_safe=True)
