"""The worked example of docs/formats.md: a safetensors file of two tensors and its tensor tree, with hashlib alone.

    python3 make_tree.py            prints the tree in hex, and the root
"""
import hashlib
import json
import struct


def one(name, dtype, shape, data):
    """The canonical safetensors file of one tensor."""
    shape_text = ",".join(str(n) for n in shape)
    header = (
        '{"__metadata__":{"format":"pt"},%s:{"dtype":"%s","shape":[%s],"data_offsets":[0,%d]}}'
        % (json.dumps(name), dtype, shape_text, len(data))
    ).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def whole(tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(t[3] for t in tensors), 8 + len(text)


def tree(tensors):
    file, start = whole(tensors)
    out = b"HDTT\x01" + hashlib.sha256(file).digest() + struct.pack("<QI", len(file), len(tensors))
    leaves = []
    for name, dtype, shape, data in tensors:
        leaf = hashlib.sha256(one(name, dtype, shape, data)).digest()
        leaves.append(leaf)
        out += struct.pack("<H", len(name)) + name.encode()
        out += struct.pack("<B", len(dtype)) + dtype.encode()
        out += struct.pack("<B", len(shape)) + b"".join(struct.pack("<q", n) for n in shape)
        out += struct.pack("<Q", start) + leaf
        start += len(data)
    level = leaves
    while len(level) > 1:
        up = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2])]
        level = up + ([level[-1]] if len(level) % 2 else [])
    top = b"\x02" + hashlib.sha256(file).digest() + struct.pack("<QQ", len(file), len(leaves)) + b"".join(level)
    root = hashlib.sha256(top).digest()
    return file, out + root, leaves, root


EXAMPLE = [
    ("a", "F32", [2], struct.pack("<2f", 1, -2)),
    ("b.weight", "I8", [1, 3], bytes([1, 2, 255])),
    ("c", "F32", [], struct.pack("<f", 0.5)),
]

if __name__ == "__main__":
    file, encoded, leaves, root = tree(EXAMPLE)
    print("file", len(file), hashlib.sha256(file).hexdigest())
    for (name, *_), leaf in zip(EXAMPLE, leaves):
        print("leaf", name, leaf.hex())
    print("root", root.hex())
    print("tree", len(encoded), hashlib.sha256(encoded).hexdigest())
    for i in range(0, len(encoded), 32):
        print("   ", encoded[i : i + 32].hex(" "))
