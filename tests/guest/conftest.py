from __future__ import annotations

from collections.abc import Iterator

import pytest

from .harness import Client, Guest


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    one = Guest()
    yield one
    one.close()


@pytest.fixture
def client(guest: Guest) -> Iterator[Client]:
    one = guest.client()
    yield one
    one.close()
    one.guest.clients.remove(one)
