"""Rules of cells in several sandboxes, and of what a kernel may reap, without a sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daytona_magics.errors import RemoteError, SandboxError, SandboxUsageError, SeveralFailed
from daytona_magics.notebook import sections, sinks
from daytona_magics.notebook.outcome import CellOutput
from daytona_magics.notebook.results import Heading, Results
from daytona_magics.runtime import events
from daytona_magics.sandboxes import endpoint, identity, keys, labels, reaping, several, tags, worktree
from daytona_magics.sandboxes.identity import Identity

WHO = Identity("k" * 16, "", "h" * 12, "sandbox", False, "p" * 12)
DEAD = {
    labels.CREATED_BY: labels.CREATOR,
    labels.HOST: WHO.host,
    labels.PLACE: WHO.place,
    labels.KERNEL: "d" * 16,
}


def test_names_patterns_and_labels() -> None:
    assert several.names("a, b,a,c-*") == ["a", "b", "c-*"]
    assert [several.is_pattern(name) for name in ("a-1", "a*", "a?", "[ab]", "k=v")] == [False] + [True] * 4
    for text in ("", ",", "a,", "a,,b"):
        with pytest.raises(SandboxUsageError, match="names with commas"):
            several.names(text)


class TestReaping:
    @pytest.fixture(autouse=True)
    def nobody_lives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(identity, "alive", lambda kernel: kernel == "a" * 16)

    def orphan(self, tags: dict[str, str], who: Identity = WHO) -> bool:
        binding: Any = SimpleNamespace(who=lambda: who, sandbox=None, beside={})
        return reaping.orphan(binding, SimpleNamespace(id="x", labels=tags))

    def test_only_with_every_label_of_a_dead_kernel_of_this_machine(self) -> None:
        assert self.orphan(DEAD), "the positive control"
        for label in DEAD:
            without = {key: value for key, value in DEAD.items() if key != label}
            assert not self.orphan(without)
            assert not self.orphan({**DEAD, label: "another"}) or label == labels.KERNEL
        assert not self.orphan({**DEAD, labels.KERNEL: "a" * 16}), "that kernel lives"
        assert not self.orphan({**DEAD, labels.KERNEL: WHO.kernel}), "this kernel lives"
        assert not self.orphan(DEAD, replace(WHO, place="")), "no locks are seen from here"

    def test_what_this_kernel_uses_is_none(self) -> None:
        box = SimpleNamespace(id="x", labels=DEAD)
        binding: Any = SimpleNamespace(who=lambda: WHO, sandbox=SimpleNamespace(id="x"), beside={})
        assert not reaping.orphan(binding, box)
        binding = SimpleNamespace(who=lambda: WHO, sandbox=None, beside={"x": object()})
        assert not reaping.orphan(binding, box)

    @pytest.mark.parametrize(
        ("state", "age", "recoverable", "expected"),
        [
            ("error", 0, False, True),
            ("error", 0, True, False),
            ("build_failed", 0, None, True),
            ("creating", 5, None, False),
            ("creating", 5000, None, True),
            ("started", 5000, None, False),
            ("stopped", 5000, None, False),
        ],
    )
    def test_half_made(self, state: str, age: float, recoverable: bool | None, expected: bool) -> None:
        made = datetime.now(timezone.utc) - timedelta(seconds=age)
        box = SimpleNamespace(state=state, created_at=made.isoformat(), recoverable=recoverable)
        assert reaping.half_made(box) is expected
        assert not reaping.half_made(SimpleNamespace(state="creating", created_at=None, recoverable=None))


def test_two_lock_folders_are_two_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for name in ("one", "two", "one"):
        folder = tmp_path / name
        folder.mkdir(mode=0o700, exist_ok=True)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        seen.append(identity.place())
        identity._place.cache_clear()
    assert seen[0] == seen[2] != seen[1] and all(len(word) == 12 for word in seen)


def test_the_magics_own_labels_are_reserved() -> None:
    own = [value for name, value in vars(labels).items() if name.isupper() and name != "CREATOR"]
    assert own and all(tags.reserved(key) for key in [*own, "code-toolbox-language"])
    assert not tags.reserved("team") and not tags.reserved("created")


class TestKeys:
    @pytest.fixture(autouse=True)
    def forgotten(self) -> Iterator[None]:
        keys.forget()
        yield
        keys.forget()

    def test_a_file_that_was_named(self, tmp_path: Path) -> None:
        path = tmp_path / "some.env"
        path.write_text(
            "# a note\nexport DAYTONA_API_KEY = 'dtn_1 x'  \nDAYTONA_TARGET=eu # here\nPATH=/evil\n"
            "DAYTONA_API_URL=\n"
        )
        assert keys.from_file(path) == {"DAYTONA_API_KEY": "dtn_1 x", "DAYTONA_TARGET": "eu"}
        path.write_text("A=1\n")
        with pytest.raises(SandboxUsageError, match="no DAYTONA_API_KEY"):
            keys.from_file(path)

    def test_what_was_given_comes_before_the_environment_and_is_not_in_it(self) -> None:
        from daytona_magics.config import SandboxConfig

        config, environ = SandboxConfig(), {"DAYTONA_API_URL": "https://daytona.example/api"}
        assert endpoint.key_missing(config, environ)
        before = keys.fingerprint()
        keys.remember({"DAYTONA_API_KEY": "dtn_secret", "HOME": "/evil"})
        assert not endpoint.key_missing(config, environ) and keys.fingerprint() != before
        made = endpoint.connect(config, environ)
        assert made.api_key == "dtn_secret" and "dtn_secret" not in repr(made) + keys.fingerprint()
        assert keys.given("HOME") == "" and "DAYTONA_API_KEY" not in environ
        assert keys.forget() and not keys.forget()

    def test_a_token_goes_with_its_organization(self) -> None:
        from daytona_magics.config import SandboxConfig

        token = {"DAYTONA_JWT_TOKEN": "jwt"}
        assert endpoint.choose(SandboxConfig(), token).kind == "cloud"
        with pytest.raises(SandboxError, match="needs DAYTONA_ORGANIZATION_ID"):
            endpoint.connect(SandboxConfig(), token)
        made = endpoint.connect(SandboxConfig(), {**token, "DAYTONA_ORGANIZATION_ID": "org-1"})
        assert made.organization == "org-1" and made.title == "Daytona cloud, organization org-1"

    async def test_the_client_proves_itself_by_the_token(self) -> None:
        from daytona_magics.sandboxes import client as sdk

        made = endpoint.Endpoint("cloud", "http://127.0.0.1:9/api", "r", "jwt", organization="org-1")
        client: Any = sdk.open_client(made)
        try:
            headers = client._api_client.default_headers
            assert headers["Authorization"] == "Bearer jwt"
            assert headers["X-Daytona-Organization-ID"] == "org-1"
        finally:
            await client.close()


class TestWorktree:
    def test_of_a_clean_clone(self) -> None:
        text = (
            "# branch.oid 123\n# branch.head main\n# branch.upstream origin/main\n# branch.ab +0 -0\n\n"
            "https://github.com/me/it.git\n"
        )
        found = worktree.parse("/w", text)
        assert found.branch == "main" and found.sync == "all committed, in step with the remote branch"
        assert found.page == "https://github.com/me/it/tree/main"

    @pytest.mark.parametrize(
        "remote",
        [
            "https://github.com.evil.example/me/it",
            "https://evil.example/github.com/me/it",
            "javascript:alert(1)//github.com/me/it",
            "https://github.com/me/it/../../x",
            "https://github.com/../it",
            "git@github.com:me/it\x1b[2J",
        ],
    )
    def test_a_link_leads_to_github_and_nowhere_else(self, remote: str) -> None:
        text = f"# branch.head a b?c\n? x\n1 .M\n\n{remote}"
        assert worktree.parse("/w", text).page == ""
        good = worktree.parse("/w", "# branch.head a b?c\n? x\n\nhttps://tok@github.com/me/it")
        assert good.page == "https://github.com/me/it/tree/a%20b%3Fc" and "1 not committed" in good.sync

    def test_nonsense_is_no_branch(self) -> None:
        for text in ("", "\n\n", "# branch.\n# branch.head\n", "\x00" * 100, "# branch.ab +9 -9\n"):
            assert worktree.parse("/w", text) == worktree.Worktree("/w")


class TestSection:
    """What one sandbox sends is bounded, whatever it is."""

    def section(self, of: int = 2) -> sections.Section:
        return sections.Section("a", "id", of, capture=False, trust=False, timeout=0.0)

    def test_a_flood_is_counted_and_what_is_kept_has_no_holes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sinks, "CAPTURE_LIMIT", 4 << 20)
        section = self.section()
        for number in range(200):
            section.take(events.Stream("stdout", f"{number:05d}" + "x" * 65_000))
        assert sum(map(events.weight, section._events)) <= 2 << 20 and section._cut > 8 << 20
        kept = [int(event.text[:5]) for event in section._events if isinstance(event, events.Stream)]
        assert kept == list(range(len(kept)))
        section.end(events.Done("ok"))
        assert len(section.outcome.stdout) <= sections.KEPT_TEXT

    def test_the_live_line_is_short_and_harmless(self) -> None:
        section = self.section()
        for text in ("first\nsecond", "\rthird\x1b]0;title\x07\x1b[2J", "y" * 10_000_000):
            section.take(events.Stream("stderr", text))
        assert "\x1b" not in section.said and len(section.said) <= 1000
        section.take(events.Stream("stdout", "\r 10%\r 20%"))
        assert section.said == "20%"

    def test_clear_output_forgets_what_was_before(self) -> None:
        section = self.section()
        section.take(events.Stream("stdout", "old"))
        section.take(events.Clear())
        section.take(events.Stream("stdout", "new"))
        section.end(events.Done("ok"))
        assert section.outcome.stdout == "new"

    def test_names_of_sandboxes_do_nothing_to_a_page_or_a_terminal(self) -> None:
        heading = Heading("<img src=x onerror=alert(1)>\x1b[2J", "ok", ok=True)
        assert "<img" not in heading._repr_html_() and "\x1b" not in repr(heading)
        view = sections.View([self.section()], quiet=True)
        view._sections[0].name = "<script>\x1b[2J"
        assert "<script" not in view._html() and "\x1b" not in view._text()


def test_results_and_the_error() -> None:
    error = RemoteError.of("ValueError", "no", ["frame", "ValueError: no"])
    results = Results(
        {
            "a": CellOutput(stdout="1\n", seconds=0.1),
            "b": CellOutput(error=error),
            "c": CellOutput(error=error),
        }
    )
    assert results.failed == ["b", "c"] and not results.ok and results.stdout["a"] == "1\n"
    assert list(results.errors) == ["b", "c"] and len(results) == 3 and results["a"].ok
    raised = SeveralFailed(results.errors, 3, results)
    drawn = "\n".join(raised._render_traceback_())
    assert drawn.count("frame") == 1 and "2 of 3 sandboxes: b, c" in drawn and "ValueError: no" in drawn
    import pickle

    assert str(pickle.loads(pickle.dumps(raised))) == str(raised)
