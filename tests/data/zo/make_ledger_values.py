#!/usr/bin/env python3
"""Prints the worked bytes of docs/formats.md ("Grids, ledgers and scalars") that tests/unit/zo_optim/ledger_test.cc
compares with: a small ledger, a patch that leads to it, scalars, and the digests of their replays. Written from that page,
with directions of make_direction_values.py; Python's standard library only."""
import hashlib
import struct

from make_direction_values import normal_units, philox, sign, stream_of

RADEMACHER, NORMAL = 1, 2
SEED_STREAM = 0x7A6F5F7365656473


def float32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


# ---- grids and replay ----


def seed_of(ledger_seed, ref):
    halves = lambda x: (x & 0xFFFFFFFF, x >> 32)
    words = []
    for n in 2 * ref, 2 * ref + 1:
        words.append(philox(halves(n // 4) + halves(SEED_STREAM), halves(ledger_seed))[n % 4])
    return words[0] | words[1] << 32


def unit_of(values, largest_scale):
    reach = max(2.0, 4 * max(abs(v) for v in values), 32 * largest_scale)
    power = 1.0
    while power < reach:
        power *= 2
    return power / 2**24


def replay(start, distribution, bits, ledger_seed, epsilon, entries):
    """The values of each tensor; round() takes the even one of two equally near whole numbers."""
    largest_scale = max(epsilon, 2.0 ** (14 - bits))
    out = {}
    for name, values in start.items():
        unit, stream = unit_of(values, largest_scale), stream_of(name)
        made = []
        for i, value in enumerate(values):
            units = round(value / unit)
            for ref, n in entries.items():
                seed = seed_of(ledger_seed, ref)
                z = sign(seed, stream, i) if distribution == RADEMACHER else normal_units(seed, stream, i) / 2**13
                units += round(float32(float32(n / 2**bits) * z) / unit)
            made.append(units * unit)
        out[name] = made
    return out


def digest(tensors):
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        hasher.update(struct.pack("<Q", len(name)) + name.encode())
        hasher.update(struct.pack("<Q", len(tensors[name])))
        hasher.update(b"".join(struct.pack("<f", v) for v in tensors[name]))
    return hasher.digest()


# ---- packed forms ----


def varint(n):
    out = b""
    while n >= 128:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def numbers(values):
    def bits_with(k):
        text = ""  # a character a bit, in the order in which they fill the bytes
        for v in values:
            upper = v >> k
            if upper >= 20:
                text += "1" * 20 + "".join(str(v >> b & 1) for b in range(64))
            else:
                text += "1" * upper + "0" + "".join(str(v >> b & 1) for b in range(k))
        return text

    k = min(range(41), key=lambda k: (len(bits_with(k)), k))
    text = bits_with(k)
    text += "0" * (-len(text) % 8)
    return bytes([k]) + bytes(int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8))


def zigzag(n):
    return 2 * n if n >= 0 else -2 * n - 1


def packed_entries(entries):
    gaps, before = [], -1
    for ref in sorted(entries):
        gaps.append(ref - before - 1)
        before = ref
    return varint(len(entries)) + numbers(gaps) + numbers([zigzag(entries[ref]) for ref in sorted(entries)])


def packed_importance(importance):
    return b"\1" + bytes(importance) if importance else b"\0"


def ledger(distribution, bits, seed, pool, epsilon, start, round_, weights, entries, importance):
    out = b"HDLG" + bytes([2, 1, distribution, bits]) + struct.pack("<Q", seed) + varint(pool)
    out += struct.pack("<d", epsilon) + start + varint(round_) + weights
    return out + packed_entries(entries) + packed_importance(importance)


def patch(from_round, from_weights, round_, weights, changes, importance):
    out = b"HDLP" + bytes([2, 1]) + varint(from_round) + from_weights[:8] + varint(round_) + weights
    return out + packed_entries(changes) + packed_importance(importance)


def scalars(weights, skipped, steps):
    out = b"HDZS" + bytes([1, 1, 0]) + weights + varint(skipped) + varint(len(steps))
    gaps, before = [], 0
    for ref, _ in steps:
        gaps.append(ref - before)
        before = ref
    return out + numbers(gaps) + b"".join(struct.pack("<f", value) for _, value in steps)


# ---- the example ----

START = {
    "a": [float32((37 * i % 101 - 50) / 60) for i in range(5)],
    "b.weight": [float32((53 * i % 89 - 44) / 1000) for i in range(70)],
}
SEED, BITS, POOL, EPSILON = 0x0123456789ABCDEF, 20, 8, 2.0**-10
BEFORE, AFTER = {1: 5000, 2: 40}, {1: 5000, 4: -12345, 6: 70}
CHANGES = {2: -40, 4: -12345, 6: 70}
IMPORTANCE = [0, 255, 17, 3, 128, 64, 200, 1]
STEPS = [(1, 0.5), (1, -2.25), (6, float32(1.5e-3))]


def main():
    start_file = hashlib.sha256(b"start").digest()
    weights = {}
    for kind, word in (RADEMACHER, "Rademacher"), (NORMAL, "normal"):
        for round_, entries in (2, BEFORE), (3, AFTER):
            weights[kind, round_] = digest(replay(START, kind, BITS, SEED, EPSILON, entries))
            print(f"digest of round {round_}, {word}:", weights[kind, round_].hex())
    before, after = weights[RADEMACHER, 2], weights[RADEMACHER, 3]
    print("ledger: ", ledger(RADEMACHER, BITS, SEED, POOL, EPSILON, start_file, 3, after, AFTER, IMPORTANCE).hex())
    print("patch:  ", patch(2, before, 3, after, CHANGES, IMPORTANCE).hex())
    print("scalars:", scalars(after, 2, STEPS).hex())


if __name__ == "__main__":
    main()
