"""What each client makes of each transcript.  Where all three agree, it stands once."""

from __future__ import annotations

import base64
from typing import Any

from tests.contract.golden.scenarios import MISSING, ODD
from tests.contract.golden.scripted_server import COMMAND

_TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "<cell 1>", line 1, in <module>\n'
    '    raise ValueError("no \\u2603")\n'
    "ValueError: no \u2603\n"
)

MADE_OF_IT: dict[str, Any] = {
    "bulk-download": {
        **{path: base64.b64encode(data).decode() for path, data in ODD.items()},
        MISSING: [404, "FILE_NOT_FOUND"],
        "golden/folder": [400, "INVALID_FILE_PATH"],
    },
    "bulk-download-missing": ["DaytonaFileNotFoundError", 404],
    "bulk-upload-python": "accepted",
    "bulk-upload-python-stream": "accepted",
    "bulk-upload-python-async": "accepted",
    "bulk-upload-python-async-stream": "accepted",
    "bulk-upload-typescript": "accepted",
    "bulk-upload-typescript-stream": "accepted",
    "bulk-upload-refused": ["DaytonaError", 400],
    "pty-exit-0": {"output": "BEGIN é \033[1mbold\033[0m\r\n", "exit_code": 0, "error": None},
    "pty-exit-3": {"output": "BEGIN ", "exit_code": 3, "error": None},
    "pty-signal": {"output": "BEGIN ", "exit_code": 137, "error": "ended by SIGKILL"},
    "pty-without-control": {"output": "BEGIN ", "exit_code": 3, "error": None},
    "pty-in-use": ["DaytonaConflictError", 409],
    "session-command": [COMMAND, 4, "é <out>\n", ""],
    "session-logs": {
        "followed": ["out\nénd", "érr\n"],
        "read": ["out\nérr\nénd", "out\nénd", "érr\n"],
    },
    "interpreter-output": {"stdout": "out é \u2603\n", "stderr": "", "error": None},
    "interpreter-stderr": {"stdout": "", "stderr": "mé\n", "error": None},
    "interpreter-error": {"stdout": "", "stderr": "", "error": ["ValueError", "no \u2603", _TRACEBACK]},
    "interpreter-timeout": ["DaytonaTimeoutError", None],
    "interpreter-no-context": ["DaytonaConnectionError", None],
    # By the event alone: who asks is told that it is still stopping.
    "socket-io": "over",
    # By asking: there are no events for a wrong key.
    "socket-io-refused": "over",
}

OTHERWISE: dict[str, dict[str, Any]] = {
    "python": {},
    "python-async": {},
    "typescript": {
        "bulk-upload-refused": ["DaytonaInvalidFilePathError", 400],
        # Its WebSocket tells of a refused upgrade in a text only,
        "pty-in-use": ["DaytonaConnectionError", None],
        # and takes no connection on which the server chose none of the subprotocols it offered.
        "pty-without-control": ["DaytonaConnectionError", None],
    },
}

#: Transcripts that a client does not go through to the end.
NOT_PLAYED: dict[str, list[str]] = {"python": [], "python-async": [], "typescript": ["pty-without-control"]}
