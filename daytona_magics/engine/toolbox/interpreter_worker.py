"""The program that runs the code of one interpreter context: handed to the sandbox's ``python3 -c`` as text.

It reads one JSON line per execution from descriptor 3 and answers with one on descriptor 4; what the code and
its children print goes to descriptors 1 and 2, which are pipes of their own. So nothing that is printed can
be taken for an answer. Standard library only, Python 3.8 or newer, and no import of this package.
"""

import builtins
import json
import linecache
import os
import signal
import sys
import traceback


def main() -> None:
    """Serve executions until the toolbox hangs up."""
    requests = os.fdopen(3, "r", encoding="utf-8")
    answers = os.fdopen(4, "w", encoding="utf-8")
    for fd in (3, 4):
        os.set_inheritable(fd, False)
    module = type(sys)("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    sys.argv = [""]
    sys.path.insert(0, "")
    for number, line in enumerate(requests, 1):
        request = json.loads(line)
        answer = run(request["code"], request["envs"], module.__dict__, f"<cell {number}>")
        answers.write(json.dumps({**answer, "id": request["id"]}) + "\n")
        answers.flush()


def run(code: str, envs: "dict[str, str]", names: "dict[str, object]", filename: str) -> "dict[str, object]":
    """Execute `code`; returns {} or {name, value, traceback} of what it raised."""
    before = {name: os.environ.get(name) for name in envs}
    os.environ.update(envs)
    lines = code.splitlines(True)
    linecache.cache[filename] = (len(code), None, lines, filename)
    try:
        # An interrupt that came between two executions belongs to neither.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        exec(compile(code, filename, "exec"), names)
        return {}
    except SystemExit as error:
        if error.code in (None, 0):
            return {}
        return describe(error)
    except BaseException as error:  # noqa: BLE001 - whatever the code raises is the answer
        return describe(error)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                continue  # The code closed or replaced it.


def describe(error: BaseException) -> "dict[str, object]":
    """What went wrong, without this program's own frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == "<string>":
        trace = trace.tb_next
    try:
        value = str(error)
    except Exception:  # noqa: BLE001 - the code wrote the method that failed
        value = "<the exception cannot be shown>"
    text = "".join(traceback.format_exception(type(error), error, trace))
    return {"name": type(error).__name__, "value": value, "traceback": text}


if __name__ == "__main__":
    main()
