#!/usr/bin/env python3
"""Makes resized.json: what Pillow's Image.resize gives for small images that a formula makes.

    python3 tests/data/images/make_resized.py > tests/data/images/resized.json

Needs Pillow (Debian's python3-pil). A case: height, width and channels of the image (whose pixels Pattern in
tests/unit/model/data/image_preprocessing_test.cc makes too), the size that it gets, Pillow's number of the filter
(2 bilinear, 3 bicubic), and the bytes in hexadecimal."""
import json

from PIL import Image

SIZES = [(5, 7, 5, 7), (5, 7, 10, 14), (9, 6, 4, 4), (1, 1, 3, 2), (2, 2, 5, 3), (17, 13, 8, 13), (17, 13, 17, 6),
         (28, 28, 16, 16), (40, 3, 7, 9), (6, 50, 5, 2), (3, 64, 3, 1)]


def pattern(height, width, channels):
    state, pixels = height * 1000 + width * 10 + channels, bytearray()
    for _ in range(height * width * channels):
        state = (state * 1664525 + 1013904223) % 2**32
        pixels.append(255 if (state >> 24) % 3 == 0 else (state >> 16) % 256)
    return bytes(pixels)


def main():
    lines = []
    for height, width, to_height, to_width in SIZES:
        for channels in (1, 3):
            image = Image.frombytes("RGB" if channels == 3 else "L", (width, height), pattern(height, width, channels))
            for number in (2, 3):
                pixels = image.resize((to_width, to_height), resample=number).tobytes().hex()
                lines.append(json.dumps({"height": height, "width": width, "channels": channels, "to_height": to_height,
                                         "to_width": to_width, "filter": number, "pixels": pixels}))
    print("[\n" + ",\n".join(lines) + "\n]")


if __name__ == "__main__":
    main()
