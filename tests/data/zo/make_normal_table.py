#!/usr/bin/env python3
"""Writes zo_optim/direction/normal_table.inc: make_normal_table.py > zo_optim/direction/normal_table.inc

32 positive whole numbers T in units of 2^-13. The sum of four independent entries, each with a sign of its own, has mean
0, variance 1 and fourth moment 3: T = a q + b q^3 of the quantiles q of a normal in the middle of 64 equally likely
slices, with a and b such that +-T has variance 1/4 and fourth moment 3/16. Python's standard library only.
"""
import math
from statistics import NormalDist

SLICES, UNIT = 64, 2**13
quantiles = [NormalDist().inv_cdf(0.5 + (k + 0.5) / SLICES) for k in range(SLICES // 2)]


def excess(a, b):
    values = [a * q + b * q**3 for q in quantiles]
    second = 2 * sum(v**2 for v in values) / SLICES
    fourth = 2 * sum(v**4 for v in values) / SLICES
    return second - 1 / 4, fourth - 3 / 16


a, b, h = 0.5, 0.0, 1e-6
for _ in range(40):  # Newton's method with differences
    now = excess(a, b)
    by_a = [(u - v) / h for u, v in zip(excess(a + h, b), now)]
    by_b = [(u - v) / h for u, v in zip(excess(a, b + h), now)]
    determinant = by_a[0] * by_b[1] - by_b[0] * by_a[1]
    a, b = (
        a - (now[0] * by_b[1] - by_b[0] * now[1]) / determinant,
        b - (by_a[0] * now[1] - now[0] * by_a[1]) / determinant,
    )

table = [round((a * q + b * q**3) * UNIT) for q in quantiles]
print("// Made by tests/data/zo/make_normal_table.py.")
for start in range(0, len(table), 16):
    print("".join(f"{value}, " for value in table[start : start + 16]).rstrip())
