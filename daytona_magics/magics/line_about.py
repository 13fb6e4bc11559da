"""The verbs about the magics themselves: config, help."""

from __future__ import annotations

from typing import Any

from traitlets import TraitError

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics import grammar, helptext
from daytona_magics.magics.parser import did_you_mean
from daytona_magics.notebook.card import Help, Table
from daytona_magics.sandboxes.endpoint import choose


def settings(config: Any) -> dict[str, Any]:
    """The settings by name."""
    return {name: getattr(config, name) for name in sorted(config.class_own_traits(config=True))}


def config(shell: Any, options: Any) -> Any:
    """``%sandbox config [NAME=VALUE ...]``"""
    binding = sandboxes.current()
    known = settings(binding.config)
    asked = []
    for item in options.settings:
        name, equals, value = item.partition("=")
        if name not in known:
            raise SandboxUsageError(
                f"%sandbox config: there is no setting {name!r}{did_you_mean(name, list(known))}",
                hint=f"The settings: {', '.join(known)}",
            )
        if equals:
            _set(binding.config, name, value)
        asked.append(name)
    choice = choose(binding.config)
    traits = binding.config.traits()
    shown = asked or list(known)
    rows = [(name, repr(getattr(binding.config, name)), traits[name].help) for name in shown]
    where = {"embedded": "the embedded engine on this machine"}.get(choice.kind, choice.url)
    return Table(
        ("setting", "value", "meaning"),
        rows,
        shown,
        foot=" ".join([f"Cells run on {where}: {choice.reason}.", choice.offer]).strip(),
    )


def _set(config: Any, name: str, text: str) -> None:
    default = getattr(config, name)
    try:
        if isinstance(default, bool):
            words = {
                "true": True,
                "on": True,
                "yes": True,
                "1": True,
                "false": False,
                "off": False,
                "no": False,
                "0": False,
            }
            if text.lower() not in words:
                raise SandboxUsageError(f"{name} is on or off, not {text!r}")
            value: Any = words[text.lower()]
        else:
            value = type(default)(text)
        setattr(config, name, value)
    except ValueError:
        raise SandboxUsageError(f"{name} is a number, not {text!r}") from None
    except TraitError as error:
        trait = config.traits()[name]
        choices = getattr(trait, "values", None)
        more = f"{name} is one of {', '.join(map(str, choices))}, not {text!r}" if choices else str(error)
        raise SandboxUsageError(more) from None


def help_(shell: Any, options: Any) -> Help:
    """``%sandbox help [--markdown] [VERB]``"""
    if options.markdown and options.verb is not None:
        raise SandboxUsageError("--markdown is the help of everything: leave out the verb")
    if options.markdown:
        return Help(helptext.markdown())
    if options.verb is None:
        return Help(helptext.overview())
    command = grammar.BY_NAME.get(options.verb)
    if command is None:
        raise SandboxUsageError(
            f"%sandbox has no verb {options.verb!r}{did_you_mean(options.verb, list(grammar.BY_NAME))}",
            hint="%sandbox help  lists them all.",
        )
    return Help(helptext.of(command))


def git_help(shell: Any, options: Any) -> Help:
    """``%sandbox_git help [VERB]``"""
    known = grammar.FAMILIES["sandbox_git"]
    if options.verb is None:
        return Help(helptext.git_overview())
    if options.verb not in known:
        raise SandboxUsageError(
            f"%sandbox_git has no verb {options.verb!r}{did_you_mean(options.verb, list(known))}",
            hint="%sandbox_git help  lists them all.",
        )
    return Help(helptext.of(known[options.verb]))


__all__ = ["config", "git_help", "help_", "settings"]
