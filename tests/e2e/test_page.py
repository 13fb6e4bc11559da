"""What a sandbox cell shows in a real JupyterLab page: a hostile one gains nothing, an honest one is right.

Each attack is shown twice by the same notebook: as every output of a sandbox is, and once more with the guard
off (``SandboxConfig.trust``), where it must work, or the attack would prove nothing.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.lab import Lab, screenshot

pytestmark = pytest.mark.timeout(300)

#: Name -> mimetype and content. HIT is code that says where it ran, LISTENER an address where one listens.
ATTACKS = {
    "script": ("text/html", "<script>HIT</script>"),
    "handler": ("text/html", '<img src="x:" onerror="HIT">'),
    "svg_onload": ("text/html", "<iframe srcdoc='<svg onload=HIT></svg>'></iframe>"),
    "svg_animation": ("text/html", '<svg><animate onbegin="HIT" attributeName="x" dur="1s"></animate></svg>'),
    "frame": ("text/html", "<iframe srcdoc='<script>HIT</script>'></iframe>"),
    "details": ("text/html", '<details open ontoggle="HIT">x</details>'),
    "link": ("text/html", '<a class="attack" href="javascript:HIT">link</a>'),
    "mimetype": ("application/javascript", "HIT"),
    "markdown": ("text/markdown", 'text <img src="x:" onerror="HIT">'),
    "api": ("text/html", "<script>fetch('/api/contents').then(r => r.json()).then(() => {HIT})</script>"),
    "beacon": ("text/html", '<img src="LISTENER">'),
    "markdown_beacon": ("text/markdown", "![picture](LISTENER)"),
    "style_beacon": ("text/html", '<div style="background:url(LISTENER)">x</div>'),
    "style": ("text/html", "<style>:root{--HIT-style:1}</style>"),
    "overlay": ("text/html", '<div class="HIT-overlay" style="position:fixed;top:0;left:0">over</div>'),
    "command": (
        "text/html",
        '<button data-commandlinker-command="x" class="attack HIT-command">Save</button>',
    ),
}
SHOW = "%%sandbox -q\nimport json\nfor bundle in json.loads({!r}):\n    display(bundle, raw=True)"
ESCAPES = (
    "%%sandbox -q\nprint('\\x1b]0;title\\x07\\x1b]52;c;c2VjcmV0\\x07'"
    "'\\x1b]8;;javascript:alert(1)\\x1b\\\\escaped\\x1b]8;;\\x1b\\\\')"
)
#: A view of a widget of the notebook's own kernel, drawn by a sandbox that has learned its id.
FORGED = (
    "from ipywidgets import IntSlider\nslider = IntSlider(description='HOST{0}')\n"
    "view = {{'application/vnd.jupyter.widget-view+json': {{'version_major': 2, 'version_minor': 0,"
    " 'model_id': slider.model_id}}, 'text/plain': 'forged'}}\n"
    "get_ipython().run_cell_magic('sandbox', '-q', f'display({{view!r}}, raw=True)')"
)
HUGE = "%%sandbox -q\ndisplay({'text/html': '<b>' + 'x' * (70 << 20) + '</b>'}, raw=True)"


class Listener(http.server.ThreadingHTTPServer):
    """Notes the addresses it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Note)

    def __enter__(self) -> Listener:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Note(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Listener)
        self.server.asked.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    with Listener() as made:
        yield made


def shown(kind: str, listener: Listener) -> str:
    """The cell that shows all attacks; what they reach is named after ``kind``."""
    bundles = []
    for name, (mimetype, content) in ATTACKS.items():
        hit = f"top.{kind}_{name}=1" if "HIT-" not in content else kind
        address = f"http://127.0.0.1:{listener.server_port}/{kind}/{name}"
        bundles.append(
            {mimetype: content.replace("HIT", hit).replace("LISTENER", address), "text/plain": name}
        )
    return SHOW.format(json.dumps(bundles))


@pytest.fixture(scope="module")
def page(server: Lab, browser: Browser, listener: Listener) -> Iterator[Page]:
    made = server.open(
        browser,
        "hostile",
        "%load_ext daytona_magics",
        "%%sandbox --timeout 0\n0",
        shown("guarded", listener),
        ESCAPES,
        FORGED.format("guarded"),
        HUGE,
        "%config SandboxConfig.trust = True",
        shown("trusted", listener),
        FORGED.format("trusted"),
        "'the end'",
    )
    for link in made.locator("a.attack").all():
        # It may lie under the overlay of the attack that works.
        link.evaluate("link => { link.removeAttribute('target'); link.click() }")
    made.wait_for_function("window.trusted_link && window.trusted_api && window.trusted_svg_animation")
    made.locator(".jp-Cell-outputArea").get_by_text("HOSTtrusted").first.wait_for()
    screenshot(made, "hostile")
    yield made
    made.context.close()


def reached(page: Page, listener: Listener, kind: str) -> set[str]:
    """The attacks that did something outside of their own output."""
    found = {name for name in ATTACKS if page.evaluate(f"window.{kind}_{name} === 1")}
    found |= {path.rpartition("/")[2] for path in listener.asked if path.startswith(f"/{kind}/")}
    style = f"getComputedStyle(document.documentElement).getPropertyValue('--{kind}-style')"
    found |= {"style"} if page.evaluate(style) else set()
    over = f".{kind}-overlay"
    where = "divs => divs.some(div => getComputedStyle(div).position === 'fixed')"
    found |= {"overlay"} if page.eval_on_selector_all(over, where) else set()
    command = f".{kind}-command[data-commandlinker-command]"
    found |= {"command"} if page.locator(command).count() else set()
    return found


def test_nothing_hostile_reaches_the_page(page: Page, listener: Listener) -> None:
    assert reached(page, listener, "guarded") == set()
    # They were shown, each in its place: not a page that broke on the way.
    assert page.get_by_text("the end").count() and page.get_by_text("picture").count()


def test_with_the_guard_off_each_attack_works(page: Page, listener: Listener) -> None:
    assert set(ATTACKS) - reached(page, listener, "trusted") == set()


def test_a_widget_of_the_kernel_is_not_shown_by_a_sandbox(page: Page) -> None:
    outputs = page.locator(".jp-Cell-outputArea")
    assert outputs.get_by_text("HOSTguarded").count() == 0
    assert outputs.get_by_text("HOSTtrusted").count() == 1


def test_escape_sequences_do_nothing(page: Page) -> None:
    text = page.locator(".jp-OutputArea-output", has_text="escaped").first
    assert text.inner_text().strip() == "escaped" and text.locator("a").count() == 0
    assert "title" not in page.title().replace("hostile", "")


def test_what_is_too_large_is_named(page: Page) -> None:
    assert page.get_by_text("an output of 70 MiB is not shown").count() == 1


#: Name -> cell, and what must be found in its output: a selector, or text in a frame.
HONEST = {
    "pandas": (
        "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})",
        "table.dataframe td >> text=x",
    ),
    "styler": (
        "pd.DataFrame({'styled': [1, 2]}).style.highlight_max(color='lightgreen')",
        "frame: td >> text=2",
    ),
    "polars": ("import polars as pl\npl.DataFrame({'pole': [1, 2]})", "table.dataframe th >> text=pole"),
    "matplotlib": (
        "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()",
        "img[src^='data:image/png']",
    ),
    "pillow": ("from PIL import Image as P\nP.new('RGB', (40, 20), 'red')", "img[src^='data:image/png']"),
    "svg": (
        "from IPython.display import SVG\n"
        'SVG(\'<svg xmlns="http://www.w3.org/2000/svg" width="60" height="20">'
        '<rect width="60" height="20"/></svg>\')',
        "img[src^='data:image/svg']",
    ),
    "latex": ("from IPython.display import Latex\nLatex(r'$\\frac{1}{2}$')", "mjx-container"),
    "sympy": ("import sympy\nsympy.sqrt(sympy.Symbol('x')) / 3", "mjx-container"),
    "markdown": ("from IPython.display import Markdown\nMarkdown('## Head\\n*text*')", "h2 >> text=Head"),
    "json": ("from IPython.display import JSON\nJSON({'key': [1, 2]})", "text=root"),
    "html": ("from IPython.display import HTML\nHTML('<b>bold</b> <i>slanted</i>')", "b >> text=bold"),
    "audio": ("from IPython.display import Audio\nAudio(b'RIFF0000WAVE', embed=True)", "frame: audio"),
    "iframe": (
        "from IPython.display import IFrame\nIFrame('https://example.org/page', 300, 60)",
        "frame: text=not loaded",
    ),
    "rich": (
        "from rich.table import Table\nt = Table(title='T'); t.add_column('col'); t.add_row('[red]1[/]')\nt",
        "pre >> text=col",
    ),
    "plotly": (
        "import plotly.graph_objects as go\ngo.Figure(go.Bar(x=[1, 2], y=[2, 1]), {'height': 220})",
        ".main-svg",
    ),
    "altair": (
        "import altair\naltair.Chart(altair.Data(values=[{'a': 1}])).mark_bar().encode(x='a:Q')",
        "frame: text=not loaded",
    ),
    "bokeh": (
        "from bokeh.embed import file_html\nfrom bokeh.plotting import figure\n"
        "from bokeh.resources import INLINE\n"
        "p = figure(height=150, width=300); p.scatter([1, 2], [2, 1])\nHTML(file_html(p, INLINE))",
        "frame: .bk-Figure",
    ),
    "tqdm": ("from tqdm.notebook import tqdm\nfor _ in tqdm(range(3), desc='bar'): pass", "text=bar: 100%"),
    "widget": ("from ipywidgets import IntSlider\nIntSlider()", "text=not shown"),
    "colours": ("print('\\x1b[31mred\\x1b[0m \\x1b[1mbold\\x1b[0m')", ".ansi-red-fg >> text=red"),
}


@pytest.fixture(scope="module")
def honest(server: Lab, browser: Browser) -> Iterator[Page]:
    """A page in which all of them were shown."""
    cells = [f"%%sandbox -q\n{cell}" for cell, _ in HONEST.values()]
    made = server.open(browser, "honest", "%load_ext daytona_magics", *cells)
    yield made
    made.context.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_honest_output_looks_right(server: Lab, honest: Page, dark: bool) -> None:
    server.dress(honest, dark)
    try:
        # Cells below the fold are drawn when they come into sight.
        for at, (kind, (_, found)) in enumerate(HONEST.items(), start=1):
            area = honest.locator(".jp-CodeCell").nth(at)
            area.scroll_into_view_if_needed()
            inside = area.locator(".jp-Cell-outputArea")
            if found.startswith("frame: "):
                target = inside.frame_locator("iframe").locator(found[7:]).first
            else:
                target = inside.locator(found).first
            target.wait_for(timeout=45_000)
            if "img" in found:
                width = target.evaluate("image => image.decode().then(() => image.naturalWidth)")
                assert width > 0, kind
    finally:
        screenshot(honest, "dark" if dark else "light")
