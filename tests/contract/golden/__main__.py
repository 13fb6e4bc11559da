"""Record the transcripts anew from a live engine: ``python -m tests.contract.golden``."""

from __future__ import annotations

from daytona import Daytona

from tests.contract.golden import replay
from tests.contract.golden.scenarios import SCENARIOS, SENDERS, STREAM_SENDERS, Live
from tests.contract.golden.transcript import FOLDER, Step, dump
from tests.engine_process import isolated_engine

_ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def main() -> None:
    with isolated_engine() as engine:
        sandbox = Daytona(engine.config()).create()
        live = Live(engine.url, engine.key, sandbox)
        live.sent = _what_is_sent(live)
        for name, scenario in SCENARIOS.items():
            live.begin()
            scenario(live)
            (FOLDER / f"{name}.txt").write_text(dump(live.steps))
            print(name)
        sandbox.delete()


def _what_is_sent(live: Live) -> dict[str, bytes]:
    """What each sender sends, told to a server that accepts everything."""
    any_upload = [
        Step("=", b"upload"),
        Step(">", b"POST /toolbox/{sandbox}/files/bulk-upload HTTP/1.1\r\n\r\n"),
        Step("<", _ACCEPTED),
    ]
    sent = {}
    for client in replay.CLIENTS:
        uploads = [
            sender for sender in (*SENDERS, *STREAM_SENDERS) if sender.removesuffix("-stream") == client
        ]
        transcripts = {f"bulk-upload-{sender}": any_upload for sender in uploads}
        with replay.serving(transcripts, live.described(), check=False) as servers:
            replay.read(client, servers)
            sent |= {sender: servers[f"bulk-upload-{sender}"].captured for sender in uploads}
    return sent


if __name__ == "__main__":
    main()
