"""The codec against noise, cuts and forgeries."""

from __future__ import annotations

import random

import pytest

from daytona_magics.runtime.guest import frames


def some_frames(rng: random.Random, count: int) -> list[frames.Frame]:
    made = []
    for number in range(count):
        payload = rng.choice([b"", frames.MAGIC * 3, rng.randbytes(rng.randrange(60)), rng.randbytes(4000)])
        made.append(
            frames.Frame(rng.choice([1, 16, 17, 32]), rng.randrange(2), rng.randrange(2**32), number, payload)
        )
    return made


def encoded(frame: frames.Frame) -> bytes:
    return frames.encode(frame.type, frame.stream, frame.sequence, frame.payload, frame.flags)


@pytest.mark.parametrize("seed", range(20))
def test_any_cut_gives_the_same_frames(seed: int) -> None:
    rng = random.Random(seed)
    made = some_frames(rng, 40)
    data = b"".join(map(encoded, made))
    decoder, got, at = frames.Decoder(), [], 0
    while at < len(data):
        step = rng.choice([1, 2, 7, 100, 5000])
        got += decoder.feed(data[at : at + step])
        at += step
    assert got == made and decoder.dropped == 0


@pytest.mark.parametrize("seed", range(20))
def test_noise_between_frames_is_dropped_and_counted(seed: int) -> None:
    rng = random.Random(seed)
    made = some_frames(rng, 30)
    decoder, got, noise = frames.Decoder(), [], 0
    for frame in made:
        junk = bytes(rng.choice([0x20, 0x41, 0xD7, 0x0A]) for _ in range(rng.randrange(40))) + b" "
        noise += len(junk)
        got += decoder.feed(junk + encoded(frame))
    assert got == made and decoder.dropped == noise


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_byte_costs_its_frame_only(seed: int) -> None:
    rng = random.Random(seed)
    made = [frames.Frame(16, 0, 1, n, rng.randbytes(50).replace(b"\xd7", b"x")) for n in range(20)]
    data = bytearray(b"".join(map(encoded, made)))
    victim = rng.randrange(20)
    size = made[0].size
    # Not the length field: a forged length may swallow neighbours until its CRC is seen to be wrong.
    at = victim * size + rng.choice([*range(12), *range(16, size)])
    data[at] ^= 1 << rng.randrange(8)
    got = frames.Decoder().feed(bytes(data))
    assert got == made[:victim] + made[victim + 1 :]


def test_a_forged_length_is_bounded_and_recovered_from() -> None:
    head = frames.MAGIC + bytes([16, 0]) + b"\0\0\0\1" * 2 + (2**31).to_bytes(4, "big") + b"\0\0\0\0"
    good = frames.encode(frames.STDOUT, 1, 1, b"good")
    assert [f.payload for f in frames.Decoder().feed(head + good)] == [b"good"]
    head = frames.MAGIC + bytes([16, 0]) + b"\0\0\0\1" * 2 + (60000).to_bytes(4, "big") + b"\0\0\0\0"
    decoder = frames.Decoder()
    got = decoder.feed(head + good)
    for _ in range(61000 // len(good) + 1):
        got += decoder.feed(good)
    assert len(got) == 61000 // len(good) + 2


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_never_raise_and_memory_is_bounded(seed: int) -> None:
    rng = random.Random(seed)
    decoder = frames.Decoder()
    for _ in range(300):
        assert decoder.feed(rng.randbytes(1000) + frames.MAGIC) == []
        assert len(decoder._buffer) <= frames.MAX_ACCEPTED + frames.HEADER_SIZE + 1002
        assert len(decoder.noise) <= 8192


def test_split() -> None:
    assert list(frames.split(b"")) == [(0, b"")]
    assert list(frames.split(b"abcd", 2)) == [(1, b"ab"), (0, b"cd")]
    body = bytes(range(256)) * 50
    pieces = list(frames.split(body))
    assert b"".join(p for _, p in pieces) == body and [f for f, _ in pieces] == [1] * (len(pieces) - 1) + [0]
    with pytest.raises(ValueError, match="at most"):
        frames.encode(frames.STDOUT, 1, 1, b"x" * (frames.MAX_ACCEPTED + 1))
