"""The daemon's front: lets clients in at the door and answers their requests."""

from __future__ import annotations

from . import endings, jobs, marking, peeking, scanning
from .connection import Connection
from .execution import RUNNING, Request
from .supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .doors import PipeDoor, SocketDoor
    from .execution import Execution
    from .loop import Loop

MAX_CLIENTS = 64
#: Bytes of text a ``describe`` answers with at most.
MAX_TAIL = 1 << 20


class RequestError(Exception):
    """A request that cannot be served; ``code`` is for programs, the text for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Server:
    """Clients, and what they may ask.

    Args:
        door: where clients come in.
        hello: what every client is told first.
        head, tail: limits of each execution's journal, bytes.
    """

    def __init__(
        self,
        loop: Loop,
        door: SocketDoor | PipeDoor,
        folder: str,
        hello: dict[str, Any],
        head: int = 64 << 20,
        tail: int = 192 << 20,
    ) -> None:
        self._loop = loop
        self._door = door
        self.supervisor = Supervisor(loop, folder, self._changed, head, tail)
        self._hello = hello
        self._clients: list[Connection] = []
        #: When the newest cell began, in seconds since 1970; 0 before the first.
        self._last_cell = 0.0
        self._operations: dict[str, Callable[[Connection, dict[str, Any]], dict[str, Any] | None]] = {
            "execute": self._execute,
            "subscribe": self._subscribe,
            "interrupt": self._interrupt,
            "answer": self._answer,
            "reset": self._reset,
            "skim": self._skim,
            "status": lambda client, request: self.supervisor.status(),
            "forget": self._forget,
            "names": self._names,
            "scan": self._scan,
            "peek": self._peek,
            "marks": self._marks,
            "describe": self._describe,
            "ping": lambda client, request: {},
        }
        for fd in door.fds:
            loop.add(fd, self._accept)

    def _accept(self, events: int) -> None:
        for line in self._door.accept():
            client = Connection(self._loop, line, self._request, self._clients.remove)
            self._clients.append(client)
            if len(self._clients) > MAX_CLIENTS:
                client.close()
            else:
                client.send(self._hello)

    def _changed(self, execution: Execution) -> None:
        self._last_cell = max(self._last_cell, execution.started_at or 0.0)
        for client in list(self._clients):
            client.changed(execution)

    def _request(self, client: Connection, request: dict[str, Any]) -> None:
        operation, number = request.get("op"), request.get("req")
        if isinstance(number, bool) or not isinstance(number, int):
            number = None
        reply: dict[str, Any] = {"op": "reply", "req": number, "ok": True}
        if operation == "shutdown":
            client.send(reply)
            self.supervisor.shutdown()
            self._loop.later(0.05, self._loop.stop)
            return
        handler = self._operations.get(operation) if isinstance(operation, str) else None
        try:
            if handler is None:
                raise RequestError(
                    "unknown-op", "this guest does not know the operation %.40r" % (operation,)
                )
            answer = handler(client, request)
        except RequestError as error:
            reply.update(ok=False, error=error.code, message=str(error))
        except ValueError as error:
            reply.update(ok=False, error="bad-request", message=str(error))
        else:
            if answer is None:
                return
            reply.update(answer)
        # Who does not say what number its answer should have wants none, not even a refusal.
        if "req" in request:
            client.send(reply)

    def _find(self, request: dict[str, Any]) -> Execution:
        name = request.get("id")
        execution = self.supervisor.executions.get(name) if isinstance(name, str) else None
        if execution is None:
            raise RequestError("unknown-execution", "this guest never saw the execution %.64r" % (name,))
        return execution

    def _execute(self, client: Connection, request: dict[str, Any]) -> None:
        wanted = Request.from_json(request)
        reply: dict[str, Any] = {"op": "reply", "req": request.get("req"), "ok": True}
        execution, known, behind = self.supervisor.execute(wanted)
        reply.update(stream=execution.stream, state=execution.state, known=known, behind=behind)
        client.send(reply)
        if not known and not wanted.job:
            client.subscribe(execution, 0)
            if execution.state == RUNNING:
                client.linger()

    def _subscribe(self, client: Connection, request: dict[str, Any]) -> None:
        execution = self._find(request)
        after = request.get("after", 0)
        if isinstance(after, bool) or not isinstance(after, int) or after < 0:
            raise ValueError("after must be a sequence number")
        client.unsubscribe(execution)
        client.send(
            {
                "op": "reply",
                "req": request.get("req"),
                "ok": True,
                "stream": execution.stream,
                "state": execution.state,
                "last": execution.journal.last,
            }
        )
        client.subscribe(execution, min(after, execution.journal.last), request.get("skim") is True)

    def _interrupt(self, client: Connection, request: dict[str, Any]) -> dict[str, Any]:
        execution, level = self._find(request), request.get("level", 1)
        if level not in (1, 2, 3):
            raise ValueError("level must be 1, 2 or 3")
        context = self.supervisor.context_of(execution)
        if context is None:
            return endings.did("it had ended already", "kept", 0)
        return context.interrupt(execution, level)

    def _skim(self, client: Connection, request: dict[str, Any]) -> dict[str, Any]:
        client.skim(self._find(request))
        return {}

    def _describe(self, client: Connection, request: dict[str, Any]) -> dict[str, Any]:
        execution, limit = self._find(request), request.get("tail", 0)
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= MAX_TAIL:
            raise ValueError("tail must be a number of bytes up to %d" % MAX_TAIL)
        return jobs.describe(execution, limit)

    def _answer(self, client: Connection, request: dict[str, Any]) -> dict[str, Any]:
        execution, number = self._find(request), request.get("number")
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError("number must be that of a question")
        answer = {key: request[key] for key in ("text", "error") if isinstance(request.get(key), str)}
        message = {**answer, "end": request.get("end") is True}
        context = self.supervisor.context_of(execution)
        if context is None or not context.answer(execution, number, message):
            raise RequestError("not-asked", "the cell does not wait for this answer")
        return {}

    def _reset(self, client: Connection, request: dict[str, Any]) -> dict[str, Any]:
        names = request.get("contexts")
        if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise ValueError("contexts must be a list of names or null")
        return {"contexts": self.supervisor.reset(names)}

    def _scan(self, client: Connection, request: dict[str, Any]) -> None:
        def answer(body: dict[str, Any]) -> None:
            client.send({"op": "reply", "req": request.get("req"), "ok": "error" not in body, **body})

        scanning.scan(self._loop, scanning.wanted(request), answer)

    def _marks(self, client: Connection, request: dict[str, Any]) -> None:
        def answer(body: dict[str, Any]) -> None:
            client.send({"op": "reply", "req": request.get("req"), "ok": "error" not in body, **body})

        path, since = scanning.wanted(request)["path"], self._last_cell
        scanning.beside(self._loop, path, lambda: marking.marks(path, since), answer, waits=False)

    def _peek(self, client: Connection, request: dict[str, Any]) -> None:
        def answer(body: dict[str, Any]) -> None:
            client.send({"op": "reply", "req": request.get("req"), "ok": "error" not in body, **body})

        peeking.peek(self._loop, peeking.wanted(request), answer)

    def _names(self, client: Connection, request: dict[str, Any]) -> None:
        head = {"op": "reply", "req": request.get("req"), "ok": True}
        self.supervisor.lookups.ask(request, lambda answer: client.send({**answer, **head}))

    def _forget(self, client: Connection, request: dict[str, Any]) -> dict[str, Any]:
        execution = self._find(request)
        if not self.supervisor.forget(execution):
            raise RequestError("still-running", "this execution has not ended")
        for one in self._clients:
            one.unsubscribe(execution)
        return {}
