"""Pieces of one HTML page that needs no other file. All text is escaped here."""

import base64
from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: .8rem 0;
        font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; vertical-align: top;
         white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; border-bottom: 1px solid #bbb; }
td { border-bottom: 1px solid #eee; }
img { max-width: 100%; height: auto; }
p { max-width: 46rem; color: #444; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 13px; }
.wide { overflow-x: auto; }
"""

# Names in a report come from the data: even if an escape were forgotten, nothing runs.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page of `parts`, which the other functions made."""
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """A heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is to the left, the others to the right."""
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = [
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    ]
    return f'<div class="wide"><table><tr>{titles}</tr>{"".join(lines)}</table></div>'


def picture(png: bytes, says: str) -> str:
    """A PNG within the page; `says` is for whoever cannot see it."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(says)}">'


def folded(title: str, text: str) -> str:
    """Literal `text` that is shown after a click on `title`."""
    return (
        f"<details><summary>{escape(title)}</summary>"
        f"<pre>{escape(text)}</pre></details>"
    )
