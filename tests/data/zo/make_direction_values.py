#!/usr/bin/env python3
"""Prints the worked values of tests/unit/zo_optim/direction_test.cc: the definition of zo_optim/direction/direction.h in
Python's whole numbers, with the table of make_normal_table.py (its output is read, not computed again)."""
import functools
import hashlib
import re
import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = [
    int(word)
    for word in re.findall(
        r"-?\d+", re.sub(r"//.*", "", (HERE.parents[2] / "zo_optim/direction/normal_table.inc").read_text())
    )
]
assert len(TABLE) == 32


@functools.lru_cache(maxsize=64)
def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [
            (p1 >> 32) ^ c[1] ^ k[0],
            p1 & 0xFFFFFFFF,
            (p0 >> 32) ^ c[3] ^ k[1],
            p0 & 0xFFFFFFFF,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def word(seed, stream, n):
    block = n // 64 * 16 + n % 16
    halves = lambda x: (x & 0xFFFFFFFF, x >> 32)
    return philox(halves(block) + halves(stream), halves(seed))[n % 64 // 16]


def stream_of(name):
    return struct.unpack("<Q", hashlib.sha256(b"heddle\0direction\0" + name.encode()).digest()[:8])[0]


def normal_units(seed, stream, i):
    """Of 2^-13."""
    w = word(seed, stream, i)
    return sum(TABLE[w >> k & 31] * (1 - 2 * (w >> (k + 5) & 1)) for k in (0, 6, 16, 22))


def sign(seed, stream, i):
    return 1 - 2 * (word(seed, stream, i // 32) >> (i % 32) & 1)


def known_answer(seed, stream):
    """Of weights on a grid of 2^-12 that are moved along elements 37 to 5036, first signs, then normals."""
    float32 = lambda x: struct.unpack("<f", struct.pack("<f", x))[0]
    in_units = lambda scale, z: round(float32(float32(scale) * z) * 2**12)
    hasher = hashlib.sha256()
    for z_of in sign, lambda *where: normal_units(*where) / 2**13:
        for k in range(5000):
            z = z_of(seed, stream, 37 + k)
            units = k % 100 - 50 + in_units(0.37, z) + in_units(-0.21, z) - in_units(0.11, z)
            hasher.update(struct.pack("<f", units / 2**12))
    return hasher.hexdigest()


def main():
    name, seed = "model.layers.0.self_attn.q_proj.weight", 0x0123456789ABCDEF
    stream = stream_of(name)
    print("stream", hex(stream))
    indices = [0, 1, 31, 32, 63, 64, 1000, 2047, 2048, 123456789012]
    print("signs  ", [sign(seed, stream, i) for i in indices])
    print("normals", [normal_units(seed, stream, i) for i in indices], "/ 2^13")
    for count in 10_000, 1_000_000:
        print(f"sha256 of the first {count} signs as bytes 0/1:", end=" ")
        print(hashlib.sha256(bytes(word(seed, stream, i // 32) >> (i % 32) & 1 for i in range(count))).hexdigest())
        print(f"sha256 of the first {count} normals as float32:", end=" ")
        normals = (struct.pack("<f", normal_units(seed, stream, i) / 2**13) for i in range(count))
        print(hashlib.sha256(b"".join(normals)).hexdigest())
    print("sha256 of CheckDirections:", known_answer(seed, stream))


if __name__ == "__main__":
    main()
