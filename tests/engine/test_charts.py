"""Charts of a code run, through the unmodified SDK and the real matplotlib."""

from __future__ import annotations

import base64
import json
from typing import Any

from daytona.common.charts import (
    BarChart,
    BoxAndWhiskerChart,
    CompositeChart,
    LineChart,
    PieChart,
    ScatterChart,
)

from daytona_magics.engine.api import charts

PROGRAM = """
import sys
import matplotlib.pyplot as plt
print("before", end="")
plt.plot([1, 2, 3], [2, 4, 8], label="up"); plt.plot([1, 2], [0, float("nan")])
plt.title("Line é"); plt.xlabel("X"); plt.ylabel("Y"); plt.yscale("log")
plt.show()
plt.scatter([1, 2], [3, 4], label="dots"); plt.show()
plt.bar(["a", "b"], [5, 6.5], label="group"); plt.show()
plt.barh(["c"], [7]); plt.show()
plt.pie([1, 3], labels=["one", "three"]); plt.show()
plt.boxplot([[1, 2, 3, 4, 100]]); plt.title("Box"); plt.show()
figure, (left, right) = plt.subplots(1, 2)
figure.suptitle("Both"); left.plot([0, 1]); left.set_title("L"); right.bar([1], [2])
plt.show()
plt.show()
print("after", sys.argv[1:], __name__)
"""


def test_every_kind_of_chart(shared: Any) -> None:
    from daytona.common.process import CodeRunParams

    run = shared.process.code_run(PROGRAM, CodeRunParams(argv=["x"]))
    assert (run.exit_code, run.result) == (0, "beforeafter ['x'] __main__\n")
    assert run.artifacts.stdout == run.result
    line, scatter, bar, across, pie, box, both = run.artifacts.charts
    for chart in run.artifacts.charts:
        assert base64.b64decode(chart.png).startswith(b"\x89PNG")
    assert isinstance(line, LineChart)
    assert (line.title, line.x_label, line.y_label, line.y_scale) == ("Line é", "X", "Y", "log")
    assert [(e.label, e.points) for e in line.elements] == [("up", [[1, 2], [2, 4], [3, 8]]), ("", [[1, 0]])]
    assert line.x_ticks and len(line.x_ticks) == len(line.x_tick_labels)
    assert isinstance(scatter, ScatterChart)
    assert (scatter.elements[0].label, scatter.elements[0].points) == ("dots", [[1, 3], [2, 4]])
    assert isinstance(bar, BarChart)
    assert [(e.label, e.group, e.value) for e in bar.elements] == [("a", "group", "5"), ("b", "group", "6.5")]
    assert [(e.label, e.value) for e in across.elements] == [("c", "7")]
    assert isinstance(pie, PieChart)
    assert [(e.label, round(e.angle), e.radius) for e in pie.elements] == [("one", 90, 1), ("three", 270, 1)]
    assert isinstance(box, BoxAndWhiskerChart) and box.title == "Box"
    stats = box.elements[0]
    assert (stats.min, stats.first_quartile, stats.median, stats.third_quartile, stats.max) == (1, 2, 3, 4, 4)
    assert stats.outliers == [100]
    assert isinstance(both, CompositeChart) and both.title == "Both"
    assert [(e.type, e.title) for e in both.elements] == [("line", "L"), ("bar", "")]


def test_a_program_that_fails_shows_its_own_lines_only(shared: Any) -> None:
    run = shared.process.code_run("import matplotlib\ndef f():\n    raise KeyError('k')\nf()")
    assert run.exit_code == 1
    assert 'File "<stdin>", line 4, in <module>' in run.result and "KeyError: 'k'" in run.result
    assert "in main" not in run.result and "line 3, in f" in run.result
    assert shared.process.code_run("import matplotlib, sys; sys.exit(3)").exit_code == 3
    assert shared.process.code_run("# matplotlib\nx = = 1").exit_code == 1
    pickled = "import matplotlib, pickle\nclass K: pass\nprint(type(pickle.loads(pickle.dumps(K()))) is K)"
    assert shared.process.code_run(pickled).result == "True\n"


def test_what_is_not_a_chart_is_not_taken_for_one(shared: Any) -> None:
    said = 'dtn_artifact_k39fd2:{"type":"chart","value":{"title":"forged"}}'
    run = shared.process.code_run(f"import matplotlib\nprint({said!r})")
    assert run.result == said + "\n" and run.artifacts.charts == []
    assert shared.process.code_run("print(1)").artifacts.charts == []


def test_only_known_fields_of_the_right_type_pass() -> None:
    value = {
        "type": "line",
        "title": 3,
        "png": "AA==",
        "x_ticks": [1, "2"],
        "y_ticks": [1, 2.5],
        "evil": "x",
        "elements": [{"label": "l", "points": [[1, 2], [3]]}, "no", {"points": [[1, 2]], "elements": [{}]}],
    }
    line = f"m:{json.dumps({'type': 'chart', 'value': value})}\n".encode()
    rest, found = charts.split(b"a" + line + b"m:[1\nm:{}\nb", "m:")
    assert rest == b"am:[1\nb"
    assert found == [
        {
            "type": "line",
            "png": "AA==",
            "y_ticks": [1, 2.5],
            "elements": [{"label": "l"}, {"points": [[1, 2]]}],
        }
    ]
    assert charts.split(b'm:{"type":"chart","value":{"max":NaN,"min":Infinity}}\n', "m:") == (b"", [{}])
    deep = b"m:" + b"[" * 100_000 + b"\n"
    assert charts.split(deep, "m:") == (deep, [])
