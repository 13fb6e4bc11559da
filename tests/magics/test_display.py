"""What a hostile sandbox can make the notebook page show: pictures and text, nothing that acts."""

from __future__ import annotations

import base64
import html
import re
import time
from typing import Any

import pandas
import polars
import pytest

from daytona_magics.notebook.display import RemoteValue, safe_bundle, safe_html, safe_transient
from daytona_magics.notebook.terminal import LONGEST, TerminalFilter, clean

MEGA = 1 << 20

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

    def test_polars_tables_stay_inline(self) -> None:
        cleaned = safe_html(polars.DataFrame({"a": [1], "b": ["<i>"]})._repr_html_())
        assert "<iframe" not in cleaned and "<style" not in cleaned and '<table border="1"' in cleaned

    def test_what_a_frame_does_not_load_is_named_in_it(self) -> None:
        framed = html.unescape(safe_html('<script src="https://cdn.example/x.js"></script>'))
        assert framed.index("Content-Security-Policy") < framed.index("securitypolicyviolation")
        assert framed.index("securitypolicyviolation") < framed.index("cdn.example")

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
        assert "data:image/png" in safe_html('<img src="da&#9;ta:image/png;base64,AAAA">')
        assert "src" not in safe_html('<img src="data:text/html;base64,AAAA">').replace("referrerpolicy", "")

    @pytest.mark.parametrize(
        "source",
        [
            "https://evil.example/?stolen",
            "HTTPS://evil.example",
            "ht&#10;tps://evil.example",
            "//evil.example",
            "/api/contents/secret.txt",
            "http://127.0.0.1:8888/api/contents",
            "data:text/html;base64,AAAA",
            "files/secret.png",
        ],
    )
    def test_no_image_is_loaded_from_anywhere(self, source: str) -> None:
        hostile = f'a<img src="{source}" srcset="{source} 2x" alt="b"><td background="{source}">c'
        cleaned = safe_html(hostile)
        assert "evil" not in cleaned and "secret" not in cleaned and "8888" not in cleaned
        assert not re.search(r'src="(?!data:image/)', cleaned) and 'alt="b"' in cleaned
        assert source in safe_bundle({"text/html": hostile}, trust=True)[0]["text/html"]

    def test_an_image_that_is_not_loaded_is_said_to_be(self) -> None:
        cleaned = safe_html('<img src="https://x.example/a.png">')
        picture = base64.b64decode(re.search(r"base64,([A-Za-z0-9+/=]+)", cleaned).group(1))
        assert b"not loaded" in picture

    @pytest.mark.parametrize(
        "address", ["da&#9;ta:text/html,x", "java&#10;script:x", "&#1;javascript:x", "blob:x"]
    )
    def test_schemes_cannot_hide(self, address: str) -> None:
        assert "href" not in safe_html(f'<a href="{address}">x</a>')

    def test_links_to_the_web_and_to_mail_stay(self) -> None:
        for address in ("https://a.example/x?y=1", "mailto:a@b.example"):
            assert f'href="{address}"' in safe_html(f'<a href="{address}">x</a>')

    def test_a_frame_cannot_be_sent_away_without_a_script(self) -> None:
        framed = safe_html(
            '<style>x</style><meta http-equiv="refresh" content="0;url=https://e.example"><META x>'
            '<link rel="dns-prefetch" href="//e.example"><base href="https://e.example">'
        )
        inner = html.unescape(re.search(r'srcdoc="([^"]*)"', framed).group(1))
        assert len(re.findall(r"<meta\b", inner, re.I)) == 2  # the character set and the policy: ours
        assert not re.search(r"<link\b", inner, re.I) and len(re.findall(r"<base\b", inner, re.I)) == 1
        assert "base-uri 'none'" in inner and "form-action 'none'" in inner

    @pytest.mark.parametrize(
        "hostile",
        [
            "<div>" * (MEGA // 5),
            "<b><table><td></b>" * (MEGA // 18),
            "<p " + " ".join(f"a{n}" for n in range(MEGA // 6)) + ">",
            "<p " + "/".join(f"a{n}" for n in range(MEGA // 6)) + ">",
            "<p " + "".join(f'a{n}="1"' for n in range(MEGA // 9)) + ">",
            "<p x='>' " + " ".join(f"a{n} x='><'" for n in range(MEGA // 12)) + ">",
            "<style scoped>" + ".dataframe a {}" * (MEGA // 15),
            "<" + " " * MEGA,
        ],
        ids=lambda text: text[:14],
    )
    def test_a_hostile_megabyte_takes_no_time(self, hostile: str) -> None:
        began = time.monotonic()
        safe_html(hostile)
        assert time.monotonic() - began < 30

    def test_a_long_honest_table_stays_inline(self) -> None:
        frame = pandas.DataFrame({"a": range(3000), "b": ['don\'t "quote"'] * 3000})
        assert "<iframe" not in safe_html(frame.to_html())


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
        assert set(data) == {"text/plain"} and "model_id" not in data["text/plain"]
        said, note = data["text/plain"].split("\n")
        assert said == "ok" and note.startswith("(not shown: application/javascript, text/javascript, ")
        assert "and 1 more" in note and "trust" in note

    def test_nothing_is_said_where_a_richer_form_is_left(self) -> None:
        bundle = {"application/x-evil": "x", "text/plain": "ok", "image/png": "AAAA"}
        assert safe_bundle(bundle)[0] == {"text/plain": "ok", "image/png": "AAAA"}
        assert safe_bundle({}) == ({}, {})
        assert "not shown" in safe_bundle({"application/javascript": "x"})[0]["text/plain"]

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

    @pytest.mark.parametrize(
        "markdown",
        [
            "![](https://evil.example/?stolen)",
            "![a](http://127.0.0.1:8888/api/shutdown 'title')",
            "![a](/api/contents/secret.txt)",
            "![a][there]\n\n[there]: https://evil.example",
            "![there]\n\n[there]: https://evil.example",
            "![ok](data:image/png;base64,AAAA) ![](secret.png)",
            "![x](data:image/svg+xml;base64,AAAA)",
            r"[x](javascript\:alert(1))",
            "[x](da&#9;ta:text/html,x)",
            "&#" + "9" * 5000 + ";",
        ],
    )
    def test_markdown_that_would_load_something_is_shown_as_text(self, markdown: str) -> None:
        bundle = {"text/plain": "<Markdown object>", "text/markdown": markdown}
        data, _ = safe_bundle(bundle)
        assert set(data) == {"text/plain"}
        assert data["text/plain"].startswith(markdown) and "not shown" in data["text/plain"]
        assert safe_bundle(bundle, trust=True)[0] == bundle

    def test_markdown_with_an_embedded_image_passes(self) -> None:
        markdown = "# a\n![b](data:image/png;base64,AAAA) [c](https://d.example) `x ! [y]`"
        assert safe_bundle({"text/markdown": markdown})[0] == {"text/markdown": markdown}

    @pytest.mark.parametrize(
        "hostile",
        [
            " " * MEGA,
            "a" * MEGA,
            "[x](java" + " " * MEGA,
            "<http://" * (MEGA // 8) + ">",
            "![" * (MEGA // 2),
            "![" + "a" * MEGA,
            "![a](data:image/png;base64," + "A" * MEGA,
            "&#" + "1" * MEGA,
            "&#x" + "1" * MEGA,
            "&" * MEGA,
            "\\" * MEGA,
        ],
        ids=lambda text: text[:12],
    )
    def test_a_hostile_megabyte_of_markdown_takes_no_time(self, hostile: str) -> None:
        began = time.monotonic()
        safe_bundle({"text/markdown": hostile, "text/latex": hostile})
        assert time.monotonic() - began < 30

    @pytest.mark.parametrize(
        "mimetype",
        ["application/vnd.vega.v5+json", "application/vnd.vegalite.v5+json", "application/vnd.vega.v6+json"],
    )
    def test_vega_is_not_drawn_by_the_page(self, mimetype: str) -> None:
        spec = {
            "data": {"url": "/api/contents/secret.txt"},
            "mark": "image",
            "encoding": {"url": {"field": "x"}},
        }
        data, _ = safe_bundle({mimetype: spec, "text/plain": "chart"})
        assert set(data) == {"text/plain"} and mimetype in data["text/plain"]
        assert safe_bundle({mimetype: spec, "image/png": "AAAA", "text/plain": "chart"})[0] == {
            "image/png": "AAAA",
            "text/plain": "chart",
        }
        assert safe_bundle({mimetype: spec}, trust=True)[0] == {mimetype: spec}

    def test_a_figure_of_data_passes(self) -> None:
        figure = {
            "data": [
                {
                    "type": "scatter",
                    "x": [1, 2.5, None],
                    "y": {"dtype": "f8", "bdata": "AAAAAAAA8D//////"},
                    "hovertemplate": "<b>%{hovertext}</b><br>x=%{x}<extra></extra>",
                    "marker": {"color": "#636efa"},
                },
                {"type": "sankey", "link": {"source": [0, 1], "target": [2, 3]}},
                {"type": "image", "source": "data:image/png;base64,AAAA"},
            ],
            "layout": {
                "title": {"text": "R&D: 1 < 2, 50 %", "font": {"style": "italic"}},
                "mapbox": {"style": "open-street-map"},
                "shapes": [{"path": "M 1 1 L 3 3 Z"}],
            },
            "frames": [],
        }
        sent = {
            **figure,
            "config": {"plotlyServerURL": "https://plot.ly", "responsive": True, "showLink": True},
        }
        data, _ = safe_bundle({"application/vnd.plotly.v1+json": sent})
        assert data == {"application/vnd.plotly.v1+json": {**figure, "config": {"responsive": True}}}

    @pytest.mark.parametrize(
        "figure",
        [
            {"layout": {"images": [{"source": "https://evil.example/?stolen"}]}},
            {"layout": {"images": [{"source": "/api/contents/secret.png"}]}},
            {"layout": {"images": [{"source": "data:image/svg+xml,<svg>"}]}},
            {"data": [{"type": "choropleth", "geojson": "/api/contents/secret.json"}]},
            {"data": [{"type": "image", "source": "secret.png"}]},
            {"layout": {"mapbox": {"style": "/api/contents/x"}}},
            {"layout": {"mapbox": {"style": {"sources": {"a": {"tiles": ["api/{z}"]}}}}}},
            {"layout": {"mapbox": {"layers": [{"source": "api/contents/x"}]}}},
            {"layout": {"annotations": [{"text": '<a href="https://evil.example">x</a>'}]}},
            {"layout": {"title": {"text": '<span style="cursor:url(/x)">'}}},
            {"data": [{"hovertemplate": "%{customdata[0]}%{x}", "customdata": ["<", "a href=x>"]}]},
            {"data": [{"text": "$\\href{x}{y}$"}]},
            {"data": [{"someURL": "api"}]},
            {"frames": [{"layout": {"images": [{"source": "x"}]}}]},
            [],
        ],
    )
    def test_a_figure_that_could_load_something_does_not(self, figure: Any) -> None:
        bundle = {"application/vnd.plotly.v1+json": figure}
        data, _ = safe_bundle(bundle)
        assert set(data) == {"text/plain"} and "not shown" in data["text/plain"]
        assert safe_bundle(bundle, trust=True)[0] == bundle

    def test_a_map_shows_no_markup_in_its_popups(self) -> None:
        good = {"type": "Feature", "properties": {"name": "a"}}
        bad = {"type": "Feature", "properties": {"name": "<img src=x onerror=alert(1)>"}}
        assert safe_bundle({"application/geo+json": good})[0] == {"application/geo+json": good}
        assert "application/geo+json" not in safe_bundle({"application/geo+json": bad})[0]

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
            ("\x1b]8;;javascript:alert(1)\x1b\\L\x1b]8;;\x1b\\", "L"),
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
        assert len(one._rest) <= LONGEST + 2

    @pytest.mark.parametrize(
        "hostile",
        [
            "\x9d" * MEGA + "\x07",
            "\x90" * MEGA + "\x1bx",
            "\x1b]" * (MEGA // 2) + "\x07",
            "\x1bP" * (MEGA // 2) + "\x1bx",
            "\x1b[" * (MEGA // 2) + "\x01",
            "\x1b[" + "0" * MEGA + "\x01",
            "\x1b" + " " * MEGA,
            "\x1b]8;" + ";" * MEGA + "\x07",
            "\x1b]" + "x" * MEGA,
        ],
        ids=lambda text: repr(text[:6]),
    )
    def test_a_hostile_megabyte_takes_no_time(self, hostile: str) -> None:
        began = time.monotonic()
        shown = clean(hostile)
        one = TerminalFilter()
        pieces = "".join(one.feed(hostile[at : at + 4000]) for at in range(0, len(hostile), 4000))
        assert time.monotonic() - began < 30
        assert not re.search("[\x1b\x80-\x9f]", shown) and pieces == shown

    def test_a_sequence_without_end_is_text_without_its_introducer(self) -> None:
        long = "\x1b]52;" + "A" * LONGEST + "\x07z"
        assert clean(long).replace("\x07", "") == "]52;" + "A" * LONGEST + "z"
        one = TerminalFilter()
        assert "".join(one.feed(char) for char in long) == clean(long)

    def test_half_a_surrogate_pair_is_replaced(self) -> None:
        assert clean("a\ud800b\udfff") == "a\ufffdb\ufffd"
        assert clean("😀") == "😀"

    def test_text_without_escapes_is_returned_as_it_is(self) -> None:
        text = "x" * 100_000
        assert TerminalFilter().feed(text) is text
