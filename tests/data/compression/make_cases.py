#!/usr/bin/env python3
"""Writes cases.txt: updates, what they are encoded to, what that decodes to and what is left for the next update, from
docs/formats.md ("Encoded updates") in Python's whole numbers and doubles. Shares no code with aggregation/compression.

With --example it prints the worked example of docs/formats.md instead.
"""
import hashlib
import math
import struct
import sys
from pathlib import Path

KINDS = {"top_k": 1, "random_mask": 2, "bf16": 16, "int8": 17, "int4": 18, "int2": 19, "sign": 20}
BITS = {None: 32, "bf16": 16, "int8": 8, "int4": 4, "int2": 2, "sign": 1}
LARGEST = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


def f32(x):
    """The nearest float32."""
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(LARGEST if abs(x) < 2.0**128 * (1 - 2.0**-25) else math.inf, x)


def pattern(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def word(key, n):
    block = n // 64 * 16 + n % 16
    return philox([block & 0xFFFFFFFF, block >> 32, 0, 0], [key & 0xFFFFFFFF, key >> 32])[n % 64 // 16]


def derive(seed, purpose, detail):
    data = b"heddle\0" + purpose.encode() + b"\0" + struct.pack("<Q", seed) + b"\0" + detail.encode()
    return struct.unpack("<Q", hashlib.sha256(data).digest()[:8])[0]


def share_of(stage):
    whole, _, part = stage.split(":")[1].partition(".")
    return int(whole) * 10**6 + int((part + "000000")[:6])


def kept(count, millionths):
    return -(-count * millionths // 10**6)


def places_bytes(places, count):
    if len(places) == count:
        return b""
    gaps, following = bytearray(), 0
    for place in places:
        gap, following = place - following, place + 1
        while gap >= 128:
            gaps.append(gap % 128 + 128)
            gap //= 128
        gaps.append(gap)
    bitmap = sum(1 << place for place in places).to_bytes((count + 7) // 8, "little")
    return b"\1" + bitmap if len(bitmap) <= len(gaps) else b"\2" + bytes(gaps)


def scale_of(largest, levels):
    scale = f32(largest / levels)
    if scale * levels >= largest:
        return scale
    return struct.unpack("<f", struct.pack("<I", pattern(scale) + 1))[0]


def pack(codes, bits):
    number = sum(code << (bits * i) for i, code in enumerate(codes))
    return number.to_bytes((len(codes) * bits + 7) // 8, "little")


def numbers_bytes(kind, values, key):
    """The bytes of the values and what they decode to."""
    if not values:
        return b"", []
    if kind is None:
        return struct.pack(f"<{len(values)}f", *values), values
    if kind == "bf16":
        out = []
        for value in values:
            bits = pattern(value)
            upper, lower = bits >> 16, bits & 0xFFFF
            upper += lower > 0x8000 or (lower == 0x8000 and upper % 2 == 1)
            out.append(upper - 1 if upper & 0x7FFF == 0x7F80 else upper)
        return struct.pack(f"<{len(out)}H", *out), [struct.unpack("<f", struct.pack("<I", u << 16))[0] for u in out]
    if kind == "sign":
        lanes = [0.0] * 8
        for i, value in enumerate(values):
            lanes[i % 8] += abs(value)
        total = 0.0
        for lane in lanes:
            total += lane
        scale = f32(total / len(values))
        below = [int(value < 0) for value in values]
        return struct.pack("<f", scale) + pack(below, 1), [-scale if b and scale else scale for b in below]
    levels = 2 ** (BITS[kind] - 1) - 1
    scales, codes, decoded = b"", [], []
    for first in range(0, len(values), 256):
        block = values[first : first + 256]
        scale = scale_of(max(abs(value) for value in block), levels)
        scales += struct.pack("<f", scale)
        inverse = 1 / scale if scale > 0 else 0.0
        for i, value in enumerate(block):
            code = math.floor((value * inverse + levels) + (word(key, first + i) + 0.5) * 2.0**-32)
            assert 0 <= code <= 2 * levels
            codes.append(code)
            decoded.append(max(-LARGEST, min(LARGEST, f32((code - levels) * scale))))
    return scales + pack(codes, BITS[kind]), decoded


def encode(stages, seed, update, residual):
    """update: {name: (shape, values)}; residual: the same values, or None without error feedback."""
    digest = hashlib.sha256()
    header = b"HDCU" + bytes([1, len(stages)])
    number = None
    for stage in stages:
        name = stage.split(":")[0]
        header += struct.pack("<BI", KINDS[name], share_of(stage) if ":" in stage else 0)
        number = None if ":" in stage else name
    for name in sorted(update):
        shape = update[name][0]
        digest.update(struct.pack("<I", len(name)) + name.encode() + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
    out = header + struct.pack("<Q", seed) + digest.digest()[:8]
    decoded, left = {}, {}
    for name in sorted(update):
        values = list(update[name][1])
        if residual:
            values = [f32(a + b) for a, b in zip(values, residual[name])]
        places, numbers, listed = list(range(len(values))), list(values), None
        for index, stage in enumerate(stages):
            if ":" not in stage:
                continue
            count, want = len(numbers), kept(len(numbers), share_of(stage))
            if stage.startswith("top_k"):
                chosen = sorted(sorted(range(count), key=lambda i: (-abs(numbers[i]), i))[:want])
                if listed is None and count > 0:
                    listed, domain = list(range(count)), count
            else:
                key, chosen, sizes = derive(seed, f"compression mask {index}", name), [], []
                for j in range(want):
                    begin, end = j * count // want, (j + 1) * count // want
                    chosen.append(begin + word(key, j) * (end - begin) // 2**32)
                    sizes.append(end - begin)
            numbers = [numbers[i] for i in chosen]
            places = [places[i] for i in chosen]
            listed = [listed[i] for i in chosen] if listed is not None else None
            if stage.startswith("random_mask") and residual is None:
                numbers = [f32(value * size) for value, size in zip(numbers, sizes)]
        if listed is not None:
            out += places_bytes(listed, domain)
        written, back = numbers_bytes(number, numbers, derive(seed, "compression rounding", name))
        out += written
        decoded[name] = [0.0] * len(values)
        left[name] = list(values)
        for place, value in zip(places, back):
            decoded[name][place] = value
            left[name][place] = f32(left[name][place] - value)
    return out, decoded, left


class Numbers:
    """A linear congruential generator: the same numbers with every Python."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return self.state >> 32

    def values(self, count, size=1.0):
        return [f32((self.next() / 2**31 - 1) * (self.next() / 2**32) ** 3 * size) for _ in range(count)]


def hexed(values):
    return struct.pack(f"<{len(values)}f", *values).hex() or "-"


def tensors():
    """Sets of tensors: ordinary, and those that break quantisers."""
    n = Numbers(2026)
    tiny = struct.unpack("<f", struct.pack("<I", 1))[0]
    return {
        "ordinary": {
            "base_model.model.a.lora_A.weight": ([4, 150], n.values(600)),
            "base_model.model.a.lora_B.weight": ([7, 4], n.values(28, 1e-3)),
            "bias": ([9], n.values(9, 100.0)),
        },
        "edges": {
            "all zero": ([300], [0.0] * 300),
            "all negative": ([3, 5], [f32(-abs(v) - 0.01) for v in n.values(15)]),
            "denormal": ([10], [tiny * k for k in (0, 1, -1, 5, 127, -128, 1000, 3, 2, -7)]),
            "huge": ([6], [LARGEST, -LARGEST, LARGEST / 2, 1.0, -tiny, 0.0]),
            "negative zero": ([2], [-0.0, 0.0]),
            "none": ([0, 4], []),
            "scalar": ([], [f32(-0.3)]),
            "single": ([1], [f32(1e-30)]),
            "ties": ([12], [1.0, -1.0, 0.5, 1.0, -0.5, 0.5, 0.5, -1.0, 1.0, 0.0, 0.25, 1.0]),
        },
        "long": {"w": ([1500], n.values(1500))},
    }


PIPELINES = [
    [],
    ["bf16"],
    ["int8"],
    ["int4"],
    ["int2"],
    ["sign"],
    ["top_k:0.01"],
    ["top_k:0.3", "int8"],
    ["top_k:0.05", "int4"],
    ["top_k:0.002", "sign"],
    ["random_mask:0.1"],
    ["random_mask:0.75", "int2"],
    ["random_mask:0.5", "random_mask:0.5", "bf16"],
    ["random_mask:0.5", "top_k:0.1", "int4"],
    ["top_k:0.5", "random_mask:0.2", "top_k:0.5", "sign"],
    ["top_k:1", "int8"],
]


def write_cases(path):
    lines = ["# Written by make_cases.py: sets of tensors (name, shape, values, what an earlier update left) and cases that use",
             "# them. Values are float32, little-endian, in hexadecimal; '-' is none. What is long is told by its SHA-256."]
    told = lambda data: data.hex() if len(data) <= 100 else "sha256:" + hashlib.sha256(data).hexdigest()
    joined = lambda tensors: b"".join(struct.pack(f"<{len(v)}f", *v) for _, v in sorted(tensors.items()))
    for set_name, update in tensors().items():
        n = Numbers(len(set_name))
        residual = {name: n.values(len(values), 0.1) for name, (_, values) in update.items()}
        lines.append("set\t" + set_name)
        for name, (shape, values) in update.items():
            lines.append(f"tensor\t{name}\t{','.join(map(str, shape)) or '-'}\t{hexed(values)}\t{hexed(residual[name])}")
        for index, stages in enumerate(PIPELINES):
            # `huge` times a stratum's size, or with what was left added, is not finite: refused, so no case.
            masked = any(stage.startswith("random_mask") for stage in stages)
            for feedback in (False, True):
                without = "huge" if (masked or feedback) and "huge" in update else "-"
                chosen = {k: v for k, v in update.items() if k != without}
                seed = derive(index, set_name, "seed")
                encoded, decoded, left = encode(stages, seed, chosen, residual if feedback else None)
                lines.append("\t".join(["case", ",".join(stages) or "-", f"{seed:016x}", without,
                                        "feedback" if feedback else "none", str(len(encoded)), told(encoded),
                                        told(joined(decoded)), told(joined(left)) if feedback else "-"]))
    path.write_text("\n".join(lines) + "\n")


def example():
    values = [0.0, 0.5, -1.0, 0.25, 2.0, -0.125, 0.0, 0.75, -1.5, 0.0625, 0.0, 1.0]
    encoded, decoded, left = encode(["top_k:0.4", "int4"], 7, {"w": ([3, 4], values)}, {"w": [0.0] * 12})
    print(encoded.hex(" "))
    print(decoded["w"])
    print(left["w"])


if __name__ == "__main__":
    if "--example" in sys.argv[1:]:
        example()
    else:
        write_cases(Path(__file__).resolve().parent / "cases.txt")
