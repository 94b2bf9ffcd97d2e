#!/usr/bin/env python3
"""Opens adapter folders as PEFT's documentation says, sharing no code with Heddle: standard library alone.

    python3 tests/data/read_adapter.py ADAPTER BASE       one folder, on the base model in the folder BASE
    python3 tests/data/read_adapter.py --cases FOLDER     every case below FOLDER of a kind that PEFT has

Of adapter_config.json it takes peft_type, task_type, target_modules (a list of names or endings of names, an expression of
the whole path, "all-linear"), exclude_modules and feedforward_modules (likewise), layers_to_transform, r, rank_pattern, modules_to_save, num_virtual_tokens and the
sizes of prompts. From these and the base's own tensors it says which keys of which shapes adapter_model.safetensors must
have, and compares: one key more or less, or another shape, ends it with status 1. The scaling of LoRA and the norm of
what it adds to each module are printed, so that two adapters can be told apart.
"""
import json
import math
import os
import re
import struct
import sys

TASK_TYPES = {None, "CAUSAL_LM", "FEATURE_EXTRACTION", "QUESTION_ANS", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS"}
PEFT_KINDS = {"LORA", "IA3", "PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING"}


def read_tensors(path):
    with open(path, "rb") as f:
        size, = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(size)), f.read()
    header.pop("__metadata__", None)
    return {n: (e["dtype"], e["shape"], data[e["data_offsets"][0]:e["data_offsets"][1]]) for n, e in header.items()}


def base_shapes(folder):
    index = os.path.join(folder, "model.safetensors.index.json")
    files = set(json.load(open(index))["weight_map"].values()) if os.path.exists(index) else {"model.safetensors"}
    shapes = {}
    for name in files:
        for key, (_, shape, _) in read_tensors(os.path.join(folder, name)).items():
            shapes[key] = shape
    return shapes


def is_named(path, names):
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == n or path.endswith("." + n) for n in names)


def layer_of(path):
    found = re.search(r"\.(?:layers|layer|h|blocks|block)\.(\d+)\.", "." + path + ".")
    return int(found.group(1)) if found else None


def targets(config, modules, heads):
    wanted, excluded = config.get("target_modules"), config.get("exclude_modules") or []
    layers = config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    out = []
    for path in sorted(modules):
        if is_named(path, excluded) or is_named(path, config.get("modules_to_save") or []):
            continue
        fits = path not in heads if wanted == "all-linear" else is_named(path, wanted)
        if fits and (not layers or layer_of(path) in layers):
            out.append(path)
    return out


def pattern_value(patterns, path, default):
    for key, value in (patterns or {}).items():
        if re.match(r"(.*\.)?(%s)$" % key, path):
            return value
    return default


def floats(tensor):
    dtype, _, raw = tensor
    if dtype != "F32":
        raise SystemExit("a factor is %s, not F32" % dtype)
    return struct.unpack("<%df" % (len(raw) // 4), raw)


def product_norm(a, b, scaling):
    """Frobenius norm of scaling B A by the traces of small matrices: |BA|^2 = tr(B^T B A A^T)."""
    (r, width), height = a[1], b[1][0]
    av, bv = floats(a), floats(b)
    total = 0.0
    for i in range(r):
        for j in range(r):
            aa = math.fsum(av[i * width + k] * av[j * width + k] for k in range(width))
            bb = math.fsum(bv[k * r + i] * bv[k * r + j] for k in range(height))
            total += aa * bb
    return scaling * math.sqrt(max(total, 0.0))


def read(folder, base):
    config = json.load(open(os.path.join(folder, "adapter_config.json")))
    tensors = read_tensors(os.path.join(folder, "adapter_model.safetensors"))
    tensors = {k: t for k, t in tensors.items() if not k.startswith("heddle.")}
    shapes, kind = base_shapes(base), config["peft_type"]
    model = json.load(open(os.path.join(base, "config.json")))
    if kind not in PEFT_KINDS:
        raise SystemExit("%s: PEFT has no %s" % (folder, kind))
    if config["task_type"] not in TASK_TYPES:
        raise SystemExit("%s: PEFT has no task_type %s" % (folder, config["task_type"]))
    transposed = model.get("model_type") == "gpt2" or "GPT2" in (model.get("architectures") or [""])[0]
    modules = {}
    for name, shape in shapes.items():
        if name.endswith(".weight") and len(shape) == 2 and not re.search("embed|wte|wpe", name):
            path = name[:-len(".weight")]
            conv1d = transposed and re.search(r"(c_attn|c_proj|c_fc)$", path)
            modules[path] = (shape[1], shape[0]) if conv1d else (shape[0], shape[1])
    saved = config.get("modules_to_save") or []
    prompts = kind not in ("LORA", "IA3")
    prefix = "base_model." if prompts else "base_model.model."
    expected, notes = {}, []
    heads = [p for p in modules if re.search(r"(^|\.)(lm_head|classifier|score)(\.|$)", p)]
    if prompts:
        width = config["token_dim"] * (2 * config["num_layers"] if kind == "PREFIX_TUNING" else 1)
        expected["prompt_embeddings"] = [config["num_virtual_tokens"], width]
    else:
        for path in targets(config, modules, heads):
            out_size, in_size = modules[path]
            key = prefix + path
            if kind == "IA3":
                forward = is_named(path, config.get("feedforward_modules") or [])
                expected[key + ".ia3_l"] = [1, in_size] if forward else [out_size, 1]
                continue
            rank = pattern_value(config.get("rank_pattern"), path, config["r"])
            alpha = pattern_value(config.get("alpha_pattern"), path, config["lora_alpha"])
            expected[key + ".lora_A.weight"] = [rank, in_size]
            expected[key + ".lora_B.weight"] = [out_size, rank]
            if config.get("use_dora"):
                expected[key + ".lora_magnitude_vector"] = [out_size]
            notes.append((path, key, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)))
    for name, shape in shapes.items():
        if saved and is_named(name.rsplit(".", 1)[0], saved):
            expected[prefix + name] = shape
    actual = {k: t[1] for k, t in tensors.items()}
    for key in sorted(set(expected) | set(actual)):
        if expected.get(key) != actual.get(key):
            raise SystemExit("%s: %s is %s, and PEFT's rules say %s" % (folder, key, actual.get(key), expected.get(key)))
    if not expected:
        raise SystemExit("%s: nothing is trained" % folder)
    for path, key, scaling in notes:
        print("%s  scaling %g  norm %.6g" % (path, scaling, product_norm(tensors[key + ".lora_A.weight"], tensors[key + ".lora_B.weight"], scaling)))
    print("%s: %d tensors as PEFT has them" % (folder, len(expected)))


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--cases":
        count = 0
        for name in sorted(os.listdir(arguments[1])):
            folder = os.path.join(arguments[1], name)
            if json.load(open(os.path.join(folder, "adapter_config.json")))["peft_type"] in PEFT_KINDS:
                base = json.load(open(os.path.join(folder, "case.json")))
                read(folder, os.path.join(arguments[1], "..", base["base"] if isinstance(base, dict) else base))
                count += 1
        if count < 10:
            raise SystemExit("only %d cases were found" % count)
    elif len(arguments) == 2:
        read(*arguments)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
