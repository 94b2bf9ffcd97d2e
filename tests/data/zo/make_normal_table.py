#!/usr/bin/env python3
"""Writes zo_optim/direction/normal_table.inc: make_normal_table.py > zo_optim/direction/normal_table.inc

The symmetric table T of 4096 whole numbers, in units of 2^-20. The sum of two independent entries has
mean 0, variance 1 and fourth moment 3: T = a q + b q^3 of the quantiles q of a normal in the middle of 4096 equally
likely slices, with a and b such that T has variance 1/2 and fourth moment 3/4. Python's standard library only.
"""
import math
from statistics import NormalDist

SLICES, UNIT = 4096, 2**20
quantiles = [NormalDist().inv_cdf(0.5 + (k + 0.5) / SLICES) for k in range(SLICES // 2)]


def excess(a, b):
    values = [a * q + b * q**3 for q in quantiles]
    second = 2 * sum(v**2 for v in values) / SLICES
    fourth = 2 * sum(v**4 for v in values) / SLICES
    return second - 0.5, fourth - 0.75


a, b, h = math.sqrt(0.5), 0.0, 1e-6
for _ in range(30):  # Newton's method with differences
    now = excess(a, b)
    by_a = [(u - v) / h for u, v in zip(excess(a + h, b), now)]
    by_b = [(u - v) / h for u, v in zip(excess(a, b + h), now)]
    determinant = by_a[0] * by_b[1] - by_b[0] * by_a[1]
    a, b = (
        a - (now[0] * by_b[1] - by_b[0] * now[1]) / determinant,
        b - (by_a[0] * now[1] - now[0] * by_a[1]) / determinant,
    )

upper = [round((a * q + b * q**3) * UNIT) for q in quantiles]
table = [-value for value in reversed(upper)] + upper
print("// Made by tests/data/zo/make_normal_table.py.")
for start in range(0, len(table), 12):
    print("".join(f"{value}, " for value in table[start : start + 12]).rstrip())
