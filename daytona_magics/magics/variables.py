"""``-i`` and ``-o`` of a cell, and what ``push`` and ``pull`` share with them.

A :class:`Carrier` knows what a cell brings and what is taken from it. Everything that can be wrong on this
side (a name, a type) is found before anything is sent; then the variables are brought to the sandbox, the
cell runs, and what it gave back is fetched when it has ended well.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import ProtocolError, SandboxError, SandboxUsageError
from daytona_magics.magics.parser import did_you_mean

if TYPE_CHECKING:
    from daytona_magics.runtime.events import Event, FlowWindow, Variables
    from daytona_magics.runtime.records import ExecRequest
    from daytona_magics.runtime.variables import Package
    from daytona_magics.sandboxes.binding import Binding

#: Languages whose variables can be taken, and those that get them as Python objects.
GIVING, PYTHON = ("python", "fresh", "bash"), ("python", "fresh")
#: Bytes of one environment variable; Linux allows 128 KiB with its name.
MAX_ENVIRONMENT = 120_000


def pairs(words: Iterable[str] | None, flag: str) -> list[tuple[str, str]]:
    """Parse ``[new=]name`` lists.

    Args:
        words: each with commas between its items.
        flag: how the list was introduced, for messages.

    Returns:
        (name, name on the other side) pairs.

    Raises:
        SandboxUsageError: an item is no name, or two get the same name.

    In:  pairs(["a,b=c"], "-i")
    Out: [('a', 'a'), ('c', 'b')]
    """
    found: list[tuple[str, str]] = []
    for word in words or ():
        for item in word.split(","):
            new, equals, name = item.rpartition("=")
            if not item:
                raise SandboxUsageError(
                    f"{flag} {word}: a name is missing",
                    hint=f"A trailing comma or included spaces? Write {flag} a,b or {flag} a {flag} b.",
                )
            for one in (name, new) if equals else (name,):
                if not one.isidentifier() or keyword.iskeyword(one):
                    raise SandboxUsageError(
                        f"{flag} {word}: {one!r} is not a variable name", hint=f"{flag} [NEW=]NAME[,...]"
                    )
            found.append((name, new or name))
    targets = [target for _, target in found]
    twice = next((name for name in targets if targets.count(name) > 1), None)
    if twice is not None:
        raise SandboxUsageError(f"{flag}: {twice} is named twice")
    return found


def values(
    shell: Any, wanted: list[tuple[str, str]], flag: str, scope: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The notebook's values, under the names they get in the sandbox.

    Args:
        scope: the local variables of the function the magic stands in; they come first.

    Raises:
        SandboxUsageError: there is no such variable; with the nearest one.
    """
    known = {**shell.user_ns, **(scope or {})}
    found = {}
    for name, target in wanted:
        if name not in known:
            names = [one for one in known if not one.startswith("_")]
            raise SandboxUsageError(
                f"{flag}: there is no variable {name!r} in this notebook{did_you_mean(name, names)}"
            )
        found[target] = known[name]
    return found


def environment(brought: Mapping[str, Any]) -> dict[str, str]:
    """Values as environment variables of a cell that is not Python.

    In:  environment({"N": 3, "WHERE": Path("/tmp")})
    Out: {'N': '3', 'WHERE': '/tmp'}
    """
    found = {}
    for name, value in brought.items():
        if not name.isascii():
            raise SandboxUsageError(f"-i: an environment variable cannot be called {name!r}")
        if isinstance(value, bytes | bytearray):
            text = bytes(value).decode("utf-8", "surrogateescape")
        elif isinstance(value, str | int | float | PurePath):
            text = str(value)
        else:
            raise SandboxUsageError(
                f"-i: {name} is a {type(value).__qualname__}; a cell that is not Python takes texts, "
                "numbers, bytes and paths, as environment variables",
                hint="Write a file for it, or use a Python cell.",
            )
        if "\0" in text or len(text.encode("utf-8", "surrogateescape")) > MAX_ENVIRONMENT:
            raise SandboxUsageError(
                f"-i: {name} cannot be an environment variable: it has a zero byte, or more than "
                f"{MAX_ENVIRONMENT:,} bytes",
                hint="%sandbox upload copies files.",
            )
        found[name] = text
    return found


def packed(brought: Mapping[str, Any]) -> Package:
    """Pack values; what cannot be carried is the person's to change."""
    from daytona_magics.runtime.variables import CannotCarry, pack

    try:
        return pack(dict(brought))
    except CannotCarry as error:
        raise SandboxUsageError(
            f"-i: {error}", hint="Carried are plain Python values, bytes, arrays, frames and images."
        ) from None


def explained(line: str, error: SandboxUsageError) -> SandboxUsageError:
    """The error of a line with ``-i a, b``, whose second name looks like something else to the parser."""
    found = re.search(r"(?:^|\s)(-i|-o|--input|--output)[\s=]+(\S*,)(?:\s|$)", line)
    if found is None:
        return error
    flag, word = found.groups()
    return SandboxUsageError(
        f"{flag} {word}: a name is missing after the comma",
        hint=f"A trailing comma or included spaces? Write {flag} a,b or {flag} a {flag} b.",
    )


class Carrier:
    """What one execution brings and gives.

    Args:
        package: what is brought, as Python objects.
        environ: what is brought, as environment variables.
        outputs: (name in the sandbox, name here) pairs.
        pickled: take as a pickle what cannot be taken otherwise.
        quiet: no status lines.
    """

    def __init__(
        self,
        package: Package | None = None,
        environ: Mapping[str, str] | None = None,
        outputs: list[tuple[str, str]] | None = None,
        pickled: bool = False,
        quiet: bool = False,
    ) -> None:
        self.package, self.environ = package, environ or {}
        self.outputs = outputs or []
        self._pickled, self._quiet = pickled, quiet
        self._event: Variables | None = None

    def fields(self, inputs: Mapping[str, str] | None, binding: Binding) -> dict[str, Any] | None:
        """What the request says; None when nothing is carried."""
        from daytona_magics.sandboxes import variables

        if inputs is None and not self.outputs:
            return None
        outputs = [list(pair) for pair in self.outputs]
        return variables.asked(binding.sandbox, inputs, outputs, self._pickled)

    def another(self) -> Carrier:
        """The same for one more sandbox."""
        return Carrier(self.package, self.environ, self.outputs, self._pickled, self._quiet)

    def loaded(self, request: ExecRequest, binding: Binding) -> ExecRequest:
        """The request with what it brings, which is then in the sandbox."""
        return self.loaded_all(request, [binding])[0]

    def loaded_all(self, request: ExecRequest, bindings: Sequence[Binding]) -> list[ExecRequest]:
        """The request for each of several sandboxes, with what it brings, which is then in all of them."""
        from daytona_magics.notebook.status import wait
        from daytona_magics.sandboxes import variables

        if self.environ:
            request = replace(request, env={**request.env, **self.environ})
        package = self.package
        if package is None or variables.is_small(package):
            inputs = None if package is None else variables.inline(package)
            return [replace(request, variables=self.fields(inputs, binding)) for binding in bindings]
        sent = wait(
            lambda tell: variables.send_all(bindings, tell, package),
            "sending variables",
            quiet=self._quiet,
            cancelled="cancelled before the cell was sent; the variables were not kept there",
        )
        return [
            replace(request, variables=self.fields(inputs, binding))
            for inputs, binding in zip(sent, bindings, strict=True)
        ]

    def watched(self, sink: Callable[[Event], None], window: FlowWindow) -> Callable[[Event], None]:
        """The sink, without the variables, which stay here."""
        from daytona_magics.runtime.events import Variables

        if not self.outputs:
            return sink

        def watch(event: Event) -> None:
            if isinstance(event, Variables):
                if self._event is not None:
                    raise ProtocolError("the sandbox sent variables twice")
                self._event = event
                window.consumed(event)
            else:
                sink(event)

        return watch

    def taken(self, binding: Binding) -> dict[str, Any]:
        """What the execution gave, after it has ended well; empty when nothing was asked for."""
        from daytona_magics.notebook.status import wait
        from daytona_magics.sandboxes import variables

        if not self.outputs:
            return {}
        event = self._event
        if event is None:
            raise ProtocolError("the sandbox did not send the variables it was asked for")
        return wait(
            lambda tell: variables.fetch(
                binding, tell, event, [target for _, target in self.outputs], pickled=self._pickled
            ),
            "receiving variables",
            quiet=self._quiet,
            cancelled="cancelled; the cell has run, and no variable was changed here",
        )


def carrier(shell: Any, options: Any) -> Carrier:
    """What the options of a cell say is carried; what is brought is packed, so that it can be refused now."""
    if not hasattr(options, "input"):
        return Carrier()  # a command that runs code without these options
    wanted = pairs(options.input, "-i")
    outputs = pairs(options.output, "-o")
    if options.unsafe_pickle and not outputs:
        raise SandboxUsageError("--unsafe-pickle says how to take variables; name them with -o")
    if outputs and options.language not in GIVING:
        raise SandboxUsageError(f"-o takes variables of Python and bash cells, not of {options.language}")
    if outputs and getattr(options, "bg", False):
        raise SandboxUsageError(
            "-o: a background cell ends later", hint="%sandbox pull takes its variables when it has ended."
        )
    brought = values(shell, wanted, "-i")
    package, environ = None, None
    if brought and options.language in PYTHON:
        package = packed(brought)
    elif brought:
        environ = environment(brought)
    return Carrier(package, environ, outputs, options.unsafe_pickle, options.quiet)


def run_empty(binding: Binding, made: Carrier) -> dict[str, Any]:
    """Carry variables without a cell: into, or out of, the context of the notebook's Python cells.

    Raises:
        SandboxError: they could not be carried; the message names the first one.
    """
    import uuid

    from daytona_magics.errors import RemoteError
    from daytona_magics.notebook.outcome import failure
    from daytona_magics.notebook.status import wait
    from daytona_magics.runtime.events import Done, Error, FlowWindow
    from daytona_magics.runtime.records import ExecRequest
    from daytona_magics.sandboxes import executing

    quiet = made._quiet
    channel = binding.open_channel() or wait(binding.ready, "getting a sandbox", quiet=quiet)
    request = made.loaded(
        ExecRequest(
            id=uuid.uuid4().hex, context=binding.context, language="python", code="", name="variables"
        ),
        binding,
    )
    errors: list[Error] = []
    window = FlowWindow()

    def keep(event: Event) -> None:
        if isinstance(event, Error) and not errors:
            errors.append(event)
        window.consumed(event)

    async def run(tell: Any) -> Done:
        try:
            return await executing.execute(binding, channel, request, made.watched(keep, window), window)
        except BaseException:
            # Whether cancelled or broken: nothing of it is to go on.
            if not channel.closed:
                await channel.interrupt(request.id, 1)
            raise

    done = wait(run, "carrying variables", quiet=quiet, cancelled="cancelled; no variable was changed here")
    error = failure(done, errors[0] if errors else None, timeout=0.0, told="")
    if isinstance(error, RemoteError) and error.ename == "TransferError":
        # The options it names belong to cells.
        raise SandboxError(re.sub(r"^-[io]( \w+)?: ", "", error.evalue))
    if error is not None:
        raise error
    return made.taken(binding)
