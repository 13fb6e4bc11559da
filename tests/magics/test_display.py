"""What a hostile sandbox can make the notebook page show: pictures and text, nothing that acts."""

from __future__ import annotations

import base64
import html
import re

import pandas
import pytest

from daytona_magics.notebook.display import RemoteValue, safe_bundle, safe_html, safe_transient
from daytona_magics.notebook.terminal import LONGEST, TerminalFilter, clean

ACTIVE = re.compile(
    r"<script|<style|<iframe|<object|<embed|<form|<link|<meta|\son\w+\s*=|javascript:|srcdoc", re.I
)


class TestHtml:
    @pytest.mark.parametrize(
        "hostile",
        [
            '<b onclick="x()">b</b>',
            '<a href="javascript:alert(1)">x</a>',
            '<a href=" JaVaScRiPt:alert(1)">x</a>',
            '<a href="data:text/html,<b>x</b>">x</a>',
            '<img src=x onerror="alert(1)">',
            "<svg onload=alert(1)><circle/></svg>",
            "<math><mtext><b onmouseover=x>y</b></mtext></math>",
            "<p style=\"background:url('javascript:x')\">y</p>",
            '<template><img src=x onerror="alert(1)"></template>',
            '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
        ],
    )
    def test_nothing_that_acts_is_left(self, hostile: str) -> None:
        cleaned = safe_html(hostile)
        assert not ACTIVE.search(cleaned), cleaned

    def test_the_page_cannot_be_touched(self) -> None:
        cleaned = safe_html(
            '<div id="main" data-commandlinker-command="x" class="jp-Dialog mine" '
            'style="position:fixed;top:0;z-index:9;color:red">y</div>'
            '<img src="/api/shutdown"><img src="http://127.0.0.1:8888/x"><a href="/lab">z</a>'
        )
        for gone in (
            "id=",
            "commandlinker",
            "jp-Dialog",
            "position",
            "z-index",
            "/api/",
            "127.0.0.1",
            "/lab",
        ):
            assert gone not in cleaned
        assert "color:red" in cleaned and 'class="mine"' in cleaned

    def test_pandas_tables_stay_inline_and_keep_their_markup(self) -> None:
        cleaned = safe_html(pandas.DataFrame({"a": [1], "b": ["<i>"]})._repr_html_())
        assert "<iframe" not in cleaned and "<style" not in cleaned
        assert '<table border="1" class="dataframe">' in cleaned
        assert "&lt;i&gt;" in cleaned and "text-align" in cleaned

    def test_a_style_block_that_only_pretends_to_be_pandas_is_framed(self) -> None:
        assert safe_html("<style scoped>body{display:none}</style>").startswith("<iframe")

    def test_scripts_and_styles_run_in_a_frame_without_origin_and_network(self) -> None:
        source = (
            "<style>td{color:red}</style><script>parent.document.title='x'</script><p>\"quoted\" & 'so'</p>"
        )
        framed = safe_html(source)
        tag = re.match(r"<iframe [^>]*>", framed)
        assert tag and 'sandbox="allow-scripts"' in tag.group() and "allow-same-origin" not in framed
        assert 'referrerpolicy="no-referrer"' in tag.group()
        inner = html.unescape(re.search(r'srcdoc="([^"]*)"', framed).group(1))
        assert source in inner
        assert inner.index("Content-Security-Policy") < inner.index("parent.document")
        assert "default-src 'none'" in inner
        # Outside of the frame's attribute there is only our own script.
        outside = framed.replace(tag.group(), "")
        assert "parent.document" not in outside and outside.count("<script>") == 1

    def test_images(self) -> None:
        assert "data:image/png" in safe_html('<img src="data:image/png;base64,AAAA">')
        assert "https://x.example/a.png" in safe_html('<img src="https://x.example/a.png">')
        assert "src" not in safe_html('<img src="data:text/html;base64,AAAA">').replace("referrerpolicy", "")


class TestBundles:
    def test_unknown_and_active_mimetypes_are_dropped(self) -> None:
        data, _ = safe_bundle(
            {
                "application/javascript": "x",
                "text/javascript": "x",
                "application/vnd.jupyter.widget-view+json": {"model_id": "host-widget"},
                "application/x-evil": "x",
                "text/plain": "ok",
            }
        )
        assert data == {"text/plain": "ok"}

    def test_svg_becomes_an_image(self) -> None:
        svg = '<svg xmlns="http://www.w3.org/2000/svg" onload="x()"><script>y</script></svg>'
        data, _ = safe_bundle({"image/svg+xml": svg})
        assert set(data) == {"text/html"} and data["text/html"].startswith("<img ")
        encoded = re.search(r"base64,([A-Za-z0-9+/=]+)", data["text/html"]).group(1)
        assert base64.b64decode(encoded).decode() == svg

    def test_images_must_be_base64_and_keep_their_size(self) -> None:
        data, metadata = safe_bundle(
            {"image/png": "iVBORw0KGgo=\n", "image/jpeg": '"><script>'},
            {"image/png": {"width": 3, "evil": "x"}, "isolated": True, "needs_background": "light"},
        )
        assert data == {"image/png": "iVBORw0KGgo=\n"}
        assert metadata == {"image/png": {"width": 3}, "needs_background": "light"}

    @pytest.mark.parametrize(
        "markdown",
        [
            "[x](javascript:alert(1))",
            "[x](java&#115;cript:alert(1))",
            "[x](java\nscript:alert(1))",
            "<img src=x onerror=alert(1)>",
            "<script>x</script>",
            "[x][1]\n\n[1]: jAvAsCrIpT:x",
        ],
    )
    def test_markdown_with_markup_is_shown_as_text(self, markdown: str) -> None:
        data, _ = safe_bundle({"text/markdown": markdown})
        assert "text/markdown" not in data and data["text/plain"]

    def test_plain_markdown_and_latex_pass(self) -> None:
        data, _ = safe_bundle({"text/markdown": "# Data: 1 < 2 <https://a.b>\n`code`", "text/latex": "$x^2$"})
        assert set(data) == {"text/markdown", "text/latex"}
        assert "text/latex" not in safe_bundle({"text/latex": r"$\href{https://x}{y}$"})[0]

    def test_plotly_and_vega_pass(self) -> None:
        bundle = {
            "application/vnd.plotly.v1+json": {"data": []},
            "application/vnd.vegalite.v5+json": {"mark": "bar"},
        }
        assert safe_bundle(bundle)[0] == bundle

    def test_trust_passes_everything(self) -> None:
        bundle = {"text/html": "<script>x</script>", "application/javascript": "x"}
        assert safe_bundle(bundle, trust=True)[0] == bundle

    def test_display_ids_cannot_meet_those_of_the_host(self) -> None:
        assert safe_transient({"display_id": "a", "other": 1}, "box") == {
            "display_id": "daytona-magics:box:a"
        }
        assert safe_transient({"display_id": {"x": 1}}, "box") == {}


class TestRemoteValue:
    def test_repr_is_the_remote_text(self) -> None:
        value = RemoteValue({"text/plain": "42"})
        assert repr(value) == "42" and value.json() == 42
        assert value._repr_mimebundle_() == ({"text/plain": "42"}, {})

    def test_without_text_there_is_still_something_to_read(self) -> None:
        value = RemoteValue({"image/png": "AAAA"})
        assert "image/png" in repr(value)
        assert set(value._repr_mimebundle_()[0]) == {"image/png", "text/plain"}


class TestTerminal:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("plain\r\n\ttext\b", "plain\r\n\ttext\b"),
            ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
            ("50%\r\x1b[K100%", "50%\r\x1b[K100%"),
            ("\x1b[2Aup", "\x1b[2Aup"),
            ("\x1b]52;c;c2VjcmV0\x07x", "x"),
            ("\x1b]0;title\x1b\\x", "x"),
            ("\x9d52;c;AA\x9cx", "x"),
            ("\x1bP1$r0m\x1b\\x", "x"),
            ("\x1b_apc\x1b\\\x1b^pm\x1b\\x", "x"),
            ("\x1b[6n\x1b[c\x1b[?1049h\x1b[2J\x1b[3J\x1b[21tx", "x"),
            (
                "\x1b]8;;https://a.example/\x1b\\L\x1b]8;;\x1b\\",
                "\x1b]8;;https://a.example/\x1b\\L\x1b]8;;\x1b\\",
            ),
            ("\x1b]8;;javascript:alert(1)\x1b\\L\x1b]8;;\x1b\\", "L\x1b]8;;\x1b\\"),
            ("\x1b]8;id=x;JaVascript:1\x07L", "L"),
            ("\x00\x07bell", "bell"),
            ("\x1bcreset\x1b7\x1b8", "reset"),
        ],
    )
    def test_allow_list(self, text: str, shown: str) -> None:
        assert clean(text).replace("\x07", "") == shown

    @pytest.mark.parametrize(
        "text", ["a\x1b]52;c;AA\x07b\x1b[31mc", "x\x1b]0;t\x1b\\y", "é\x1b[1;2;3mü\x1bPq\x1b\\z"]
    )
    def test_cuts_at_any_place_change_nothing(self, text: str) -> None:
        whole = clean(text)
        for first in range(len(text) + 1):
            for second in range(first, len(text) + 1):
                one = TerminalFilter()
                pieces = [one.feed(part) for part in (text[:first], text[first:second], text[second:])]
                assert "".join(pieces) == whole

    def test_an_endless_sequence_does_not_grow(self) -> None:
        one = TerminalFilter()
        for _ in range(100):
            one.feed("\x1b]0;" + "x" * 1000)
        assert len(one._rest) <= LONGEST

    def test_text_without_escapes_is_returned_as_it_is(self) -> None:
        text = "x" * 100_000
        assert TerminalFilter().feed(text) is text
