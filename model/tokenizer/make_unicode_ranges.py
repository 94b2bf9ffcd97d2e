#!/usr/bin/env python3
"""Writes unicode_ranges.inc: the ranges of general categories L* and N*, from UnicodeData.txt (package unicode-data).

Usage: make_unicode_ranges.py [/usr/share/unicode/UnicodeData.txt] > unicode_ranges.inc
"""
import sys


def categories(path):
    """code point -> general category, from a UnicodeData.txt (ranges are given by First/Last pairs)."""
    result = {}
    first = None
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            code, name, category = line.split(";")[:3]
            code = int(code, 16)
            if name.endswith(", First>"):
                first = code
            elif name.endswith(", Last>"):
                result.update((c, category) for c in range(first, code + 1))
            else:
                result[code] = category
    return result


def ranges(result, letter):
    out = []
    for code in sorted(c for c, category in result.items() if category[0] == letter):
        if out and out[-1][1] == code - 1:
            out[-1][1] = code
        else:
            out.append([code, code])
    return out


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "/usr/share/unicode/UnicodeData.txt"
    result = categories(path)
    print("// Made by make_unicode_ranges.py from UnicodeData.txt. First and last code point of each range.")
    for name, letter in (("kLetterRanges", "L"), ("kNumberRanges", "N")):
        found = ranges(result, letter)
        print(f"inline constexpr CodePointRange {name}[] = {{")
        for i in range(0, len(found), 6):
            print("    " + " ".join(f"{{0x{a:X}, 0x{b:X}}}," for a, b in found[i:i + 6]))
        print("};")


if __name__ == "__main__":
    main()
