#!/usr/bin/env python3
"""Makes tests/data/tuning/: adapters of every kind on the tiny models of tests/data, and what these then compute.

    python3 tests/data/make_tuning.py tests/data/tuning          (needs python3-numpy; the same bytes in every run)

Everything is float64 numpy from the papers' formulas, sharing no code with Heddle: LoRA (2106.09685), rsLoRA
(2312.03732), DoRA (2402.09353), (IA)^3 (2205.05638), bottleneck adapters (1902.00751), BitFit (2106.10199), prompt tuning
(2104.08691), prefix tuning in every layer (2101.00190, 2110.07602). Keys, shapes and adapter_config.json are those that
PEFT documents, written down by hand. The last of the kinds have no file in PEFT: docs/formats.md has their layout.

A folder has
  case.json                  which base model: a folder below tests/data
  adapter_config.json        as json.dumps(fields, indent=2, sort_keys=True) writes it, with a newline
  adapter_model.safetensors  F32
  expected.safetensors       ids, mask, types, segments I64 or pixels F64; logits F64
"""
import json
import math
import os
import struct
import sys
import zlib

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
erf = np.vectorize(math.erf)
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def read_safetensors(path):
    types = {"F32": np.float32, "F64": np.float64, "I64": np.int64}
    with open(path, "rb") as f:
        size, = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(size)), f.read()
    out = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            out[name] = np.frombuffer(data[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    return out


def write_safetensors(path, tensors):
    names = {np.dtype("float32"): "F32", np.dtype("float64"): "F64", np.dtype("int64"): "I64"}
    header, at, data = {}, 0, b""
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        raw = array.tobytes()
        header[name] = {"dtype": names[array.dtype], "shape": list(np.shape(tensors[name])), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        data += raw
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def drawn(case, key, shape, centre=0.0, size=0.3):
    random = np.random.RandomState(zlib.crc32((case + ":" + key).encode()))
    return (centre + size * random.standard_normal(shape)).astype(np.float32)


class Model:
    """A base model with what an adapter adds to it; the forward passes are those of the papers, step by step."""

    def __init__(self, base, transposed=False):
        folder = os.path.join(HERE, base)
        self.config = json.load(open(os.path.join(folder, "config.json")))
        self.w = {k: v.astype(np.float64) for k, v in read_safetensors(os.path.join(folder, "model.safetensors")).items()}
        self.transposed = transposed
        self.factors, self.deltas, self.scale_in, self.scale_out = {}, {}, {}, {}  # by module path
        self.networks = {}  # (layer, place) -> (down, down_bias, up, up_bias, activation, scaling)
        self.prompt = self.prefix = None

    def matrix(self, path):  # [out, in]
        weight = self.w[path + ".weight"]
        return weight.T if self.transposed and path + ".weight" in self.w and "h." in path else weight

    def linear(self, path, x):
        x = x * self.scale_in.get(path, 1.0)
        base = self.matrix(path) + self.deltas.get(path, 0.0)
        weight = base
        if path in self.factors:
            a, b, scaling, magnitude = self.factors[path]
            weight = base + scaling * b @ a
            if magnitude is not None:
                weight = weight * (magnitude / np.sqrt((weight**2).sum(1)))[:, None]
        y = x @ weight.T
        if path + ".bias" in self.w:
            y = y + self.w[path + ".bias"]
        return y * self.scale_out.get(path, 1.0)

    def network(self, layer, place, x):
        if (layer, place) not in self.networks:
            return 0.0
        down, down_bias, up, up_bias, activation, scaling = self.networks[layer, place]
        return scaling * (ACTIVATIONS[activation](x @ down.T + down_bias) @ up.T + up_bias)

    def layer_norm(self, path, x, eps):
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean)**2).mean(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + eps) * self.w[path + ".weight"] + self.w[path + ".bias"]

    def prefix_of(self, layer, heads, head_dim, batch):
        """[batch, heads, tokens, head_dim], keys and values, as PEFT views past_key_values."""
        tokens = self.prefix.shape[0]
        view = self.prefix.reshape(tokens, -1, heads, head_dim)  # [tokens, 2 * layers, heads, head_dim]
        pair = view[:, 2 * layer:2 * layer + 2].transpose(1, 2, 0, 3)  # [2, heads, tokens, head_dim]
        return [np.broadcast_to(one, (batch,) + one.shape) for one in pair]

    def attend(self, layer, q, k, v, seen):
        """q [batch, heads, queries, d]; k, v with fewer heads are shared; seen [batch, queries, keys] of bool."""
        groups = q.shape[1] // k.shape[1]
        k, v = np.repeat(k, groups, 1), np.repeat(v, groups, 1)
        scores = np.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1])
        scores = np.where(seen[:, None], scores, -np.inf)
        mixed = np.einsum("bhij,bhjd->bihd", softmax(scores), v)
        return mixed.reshape(mixed.shape[0], mixed.shape[1], -1)

    def seen(self, length, mask, segments, causal, prefix, prompt):
        """Who sees whom, with the prefix's keys and the prompt's tokens before the input's."""
        batch = mask.shape[0]
        queries, keys = prompt + length, prefix + prompt + length
        out = np.zeros((batch, queries, keys), bool)
        for b in range(batch):
            for i in range(queries):
                for j in range(keys):
                    at = j - prefix
                    real = at < prompt or mask[b, at - prompt] != 0
                    before = not causal or at <= i
                    same = at < prompt or i < prompt or segments is None or segments[b, at - prompt] == segments[b, i - prompt]
                    out[b, i, j] = real and before and same
                if not out[b, i].any():
                    out[b, i, prefix + i] = True
        return out


def split_heads(x, heads):
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


def llama(m, ids, mask, segments=None):
    c = m.config
    heads, kv_heads, hidden = c["num_attention_heads"], c["num_key_value_heads"], c["hidden_size"]
    head_dim, eps = hidden // heads, c["rms_norm_eps"]
    batch, length = ids.shape
    prompt = 0 if m.prompt is None else len(m.prompt)
    prefix = 0 if m.prefix is None else len(m.prefix)
    x = m.w["model.embed_tokens.weight"][ids]
    if prompt:
        x = np.concatenate([np.broadcast_to(m.prompt, (batch,) + m.prompt.shape), x], 1)
    positions = np.zeros((batch, prompt + length), int)
    for b in range(batch):
        for i in range(prompt):
            positions[b, i] = prefix + i
        start = 0
        for t in range(length):
            if segments is not None and t > 0 and segments[b, t] != segments[b, t - 1]:
                start = t
            positions[b, prompt + t] = prefix + prompt + t - start
    seen = m.seen(length, mask, segments, True, prefix, prompt)
    angle = positions[:, None, :, None] * (c["rope_theta"]**(-np.arange(0, head_dim, 2) / head_dim))
    cos, sin = np.cos(angle), np.sin(angle)

    def turned(t):
        a, b = t[..., :head_dim // 2], t[..., head_dim // 2:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def norm(path, t):
        return t / np.sqrt((t**2).mean(-1, keepdims=True) + eps) * m.w[path + ".weight"]

    for layer in range(c["num_hidden_layers"]):
        p = "model.layers.%d." % layer
        h = norm(p + "input_layernorm", x)
        both = m.network(layer, "key_value", h) + np.zeros((1, 1, 2 * kv_heads * head_dim))
        q = turned(split_heads(m.linear(p + "self_attn.q_proj", h), heads))
        k = turned(split_heads(m.linear(p + "self_attn.k_proj", h) + both[..., :kv_heads * head_dim], kv_heads))
        v = split_heads(m.linear(p + "self_attn.v_proj", h) + both[..., kv_heads * head_dim:], kv_heads)
        if prefix:
            pk, pv = m.prefix_of(layer, kv_heads, head_dim, batch)
            k, v = np.concatenate([pk, k], 2), np.concatenate([pv, v], 2)
        y = m.linear(p + "self_attn.o_proj", m.attend(layer, q, k, v, seen))
        x = x + y + m.network(layer, "attention", y)
        h = norm(p + "post_attention_layernorm", x)
        y = m.linear(p + "mlp.down_proj", ACTIVATIONS["silu"](m.linear(p + "mlp.gate_proj", h)) * m.linear(p + "mlp.up_proj", h))
        x = x + y + m.network(layer, "mlp", y)
    x = norm("model.norm", x)[:, prompt:]
    return x @ m.w["model.embed_tokens.weight"].T


def gpt2(m, ids, mask):
    c = m.config
    heads, eps = c["n_head"], c["layer_norm_epsilon"]
    batch, length = ids.shape
    prompt = 0 if m.prompt is None else len(m.prompt)
    prefix = 0 if m.prefix is None else len(m.prefix)
    w = {k[len("transformer."):] if k.startswith("transformer.") else k: v for k, v in m.w.items()}
    bare = all(not k.startswith("transformer.") for k in m.w)
    root = "" if bare else "transformer."
    x = w["wte.weight"][ids]
    if prompt:
        x = np.concatenate([np.broadcast_to(m.prompt, (batch,) + m.prompt.shape), x], 1)
    x = x + w["wpe.weight"][prefix + np.arange(prompt + length)]
    seen = m.seen(length, mask, None, True, prefix, prompt)
    for layer in range(c["n_layer"]):
        p = root + "h.%d." % layer
        h = m.layer_norm(p + "ln_1", x, eps)
        q, k, v = (split_heads(t, heads) for t in np.split(m.linear(p + "attn.c_attn", h), 3, -1))
        if prefix:
            pk, pv = m.prefix_of(layer, heads, x.shape[-1] // heads, batch)
            k, v = np.concatenate([pk, k], 2), np.concatenate([pv, v], 2)
        y = m.linear(p + "attn.c_proj", m.attend(layer, q, k, v, seen))
        x = x + y + m.network(layer, "attention", y)
        h = m.layer_norm(p + "ln_2", x, eps)
        y = m.linear(p + "mlp.c_proj", ACTIVATIONS["gelu_new"](m.linear(p + "mlp.c_fc", h)))
        x = x + y + m.network(layer, "mlp", y)
    x = m.layer_norm(root + "ln_f", x, eps)[:, prompt:]
    return x @ w["wte.weight"].T


def bert_classes(m, ids, mask, types):
    c = m.config
    heads, eps = c["num_attention_heads"], c["layer_norm_eps"]
    batch, length = ids.shape
    prompt = 0 if m.prompt is None else len(m.prompt)
    prefix = 0 if m.prefix is None else len(m.prefix)
    e = "bert.embeddings."
    x = m.w[e + "word_embeddings.weight"][ids]
    if prompt:
        x = np.concatenate([np.broadcast_to(m.prompt, (batch,) + m.prompt.shape), x], 1)
        types = np.concatenate([np.zeros((batch, prompt), int), types], 1)
    x = x + m.w[e + "position_embeddings.weight"][prefix + np.arange(prompt + length)]
    x = m.layer_norm(e + "LayerNorm", x + m.w[e + "token_type_embeddings.weight"][types], eps)
    seen = m.seen(length, mask, None, False, prefix, prompt)
    for layer in range(c["num_hidden_layers"]):
        p = "bert.encoder.layer.%d." % layer
        both = m.network(layer, "key_value", x) + np.zeros((1, 1, 2 * c["hidden_size"]))
        q = split_heads(m.linear(p + "attention.self.query", x), heads)
        k = split_heads(m.linear(p + "attention.self.key", x) + both[..., :c["hidden_size"]], heads)
        v = split_heads(m.linear(p + "attention.self.value", x) + both[..., c["hidden_size"]:], heads)
        if prefix:
            pk, pv = m.prefix_of(layer, heads, c["hidden_size"] // heads, batch)
            k, v = np.concatenate([pk, k], 2), np.concatenate([pv, v], 2)
        y = m.linear(p + "attention.output.dense", m.attend(layer, q, k, v, seen))
        x = m.layer_norm(p + "attention.output.LayerNorm", x + y + m.network(layer, "attention", y), eps)
        y = m.linear(p + "output.dense", ACTIVATIONS[c["hidden_act"]](m.linear(p + "intermediate.dense", x)))
        x = m.layer_norm(p + "output.LayerNorm", x + y + m.network(layer, "mlp", y), eps)
    return m.linear("classifier", np.tanh(m.linear("bert.pooler.dense", x[:, 0])))


def vit(m, pixels):
    c = m.config
    heads, eps, size = c["num_attention_heads"], c["layer_norm_eps"], c["patch_size"]
    batch, channels, side, _ = pixels.shape
    prompt = 0 if m.prompt is None else len(m.prompt)
    kernel, rows = m.w["vit.embeddings.patch_embeddings.projection.weight"], []
    for i in range(0, side, size):
        for j in range(0, side, size):
            rows.append(np.einsum("bchw,ochw->bo", pixels[:, :, i:i + size, j:j + size], kernel))
    x = np.stack(rows, 1) + m.w["vit.embeddings.patch_embeddings.projection.bias"]
    x = np.concatenate([np.broadcast_to(m.w["vit.embeddings.cls_token"], (batch, 1, x.shape[-1])), x], 1)
    x = x + m.w["vit.embeddings.position_embeddings"]
    if prompt:
        x = np.concatenate([x[:, :1], np.broadcast_to(m.prompt, (batch,) + m.prompt.shape), x[:, 1:]], 1)
    prefix = 0 if m.prefix is None else len(m.prefix)
    seen = np.ones((batch, x.shape[1], prefix + x.shape[1]), bool)
    for layer in range(c["num_hidden_layers"]):
        p = "vit.encoder.layer.%d." % layer
        h = m.layer_norm(p + "layernorm_before", x, eps)
        both = m.network(layer, "key_value", h) + np.zeros((1, 1, 2 * c["hidden_size"]))
        q = split_heads(m.linear(p + "attention.attention.query", h), heads)
        k = split_heads(m.linear(p + "attention.attention.key", h) + both[..., :c["hidden_size"]], heads)
        v = split_heads(m.linear(p + "attention.attention.value", h) + both[..., c["hidden_size"]:], heads)
        if prefix:
            pk, pv = m.prefix_of(layer, heads, c["hidden_size"] // heads, batch)
            k, v = np.concatenate([pk, k], 2), np.concatenate([pv, v], 2)
        y = m.linear(p + "attention.output.dense", m.attend(layer, q, k, v, seen))
        x = x + y + m.network(layer, "attention", y)
        h = m.layer_norm(p + "layernorm_after", x, eps)
        y = m.linear(p + "output.dense", ACTIVATIONS[c["hidden_act"]](m.linear(p + "intermediate.dense", h)))
        x = x + y + m.network(layer, "mlp", y)
    return m.linear("classifier", m.layer_norm("vit.layernorm", x, eps)[:, 0])


# What PEFT writes down for each of its kinds, with the values that are not a case's own.
COMMON = {"auto_mapping": None, "base_model_name_or_path": None, "inference_mode": True, "revision": None}
LORA = dict(COMMON, peft_type="LORA", alpha_pattern={}, bias="none", exclude_modules=None, fan_in_fan_out=False,
            init_lora_weights=True, layers_pattern=None, layers_to_transform=None, lora_alpha=8, lora_dropout=0,
            modules_to_save=None, r=4, rank_pattern={}, use_dora=False, use_rslora=False)
IA3 = dict(COMMON, peft_type="IA3", exclude_modules=None, fan_in_fan_out=False, init_ia3_weights=True, modules_to_save=None)
VIRTUAL = dict(COMMON, num_transformer_submodules=1)
PROMPT = dict(VIRTUAL, peft_type="PROMPT_TUNING", prompt_tuning_init="RANDOM", prompt_tuning_init_text=None,
              tokenizer_kwargs=None, tokenizer_name_or_path=None)
PREFIX = dict(VIRTUAL, peft_type="PREFIX_TUNING", prefix_projection=False)
P_TUNING = dict(VIRTUAL, peft_type="P_TUNING", encoder_dropout=0.0, encoder_num_layers=2,
                encoder_reparameterization_type="MLP")
# Heddle's own.
BOTTLENECK = dict(COMMON, peft_type="BOTTLENECK", adapter_scaling=1, bottleneck_size=5, layers_to_transform=None,
                  modules_to_save=None, non_linearity="relu", placement="houlsby")
BITFIT = dict(COMMON, peft_type="BITFIT", exclude_modules=None, layers_to_transform=None, modules_to_save=None, target_modules=[])
FULL = dict(COMMON, peft_type="FULL", layers_to_transform=None, modules_to_save=None)

LLAMA_LINEARS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


class Case:
    def __init__(self, name, base, config, **fields):
        self.name, self.base = name, base
        self.config = dict(config, **fields)
        self.tensors = {}
        self.model = Model(base, transposed=base.endswith("gpt2"))

    def draw(self, key, shape, centre=0.0, size=0.3):
        self.tensors[key] = drawn(self.name, key, shape, centre, size)
        return self.tensors[key].astype(np.float64)

    def lora(self, paths, rank_of=None, alpha_of=None, root="base_model.model."):
        for path in paths:
            rank = rank_of(path) if rank_of else self.config["r"]
            alpha = alpha_of(path) if alpha_of else self.config["lora_alpha"]
            out, width = self.model.matrix(path).shape
            a = self.draw(root + path + ".lora_A.weight", (rank, width))
            b = self.draw(root + path + ".lora_B.weight", (out, rank))
            magnitude = None
            if self.config["use_dora"]:
                magnitude = np.abs(self.draw(root + path + ".lora_magnitude_vector", (out,), 1.5))
                self.tensors[root + path + ".lora_magnitude_vector"] = magnitude.astype(np.float32)
                magnitude = self.tensors[root + path + ".lora_magnitude_vector"].astype(np.float64)
            scaling = alpha / (math.sqrt(rank) if self.config["use_rslora"] else rank)
            self.model.factors[path] = (a, b, scaling, magnitude)

    def delta(self, path, rank):
        out, width = self.model.matrix(path).shape
        a = self.draw("heddle.base_delta." + path + ".lora_A.weight", (rank, width))
        b = self.draw("heddle.base_delta." + path + ".lora_B.weight", (out, rank))
        self.model.deltas[path] = b @ a

    def ia3(self, paths, feedforward):
        for path in paths:
            out, width = self.model.matrix(path).shape
            if feedforward(path):
                self.model.scale_in[path] = self.draw("base_model.model." + path + ".ia3_l", (1, width), 1.0)[0]
            else:
                self.model.scale_out[path] = self.draw("base_model.model." + path + ".ia3_l", (out, 1), 1.0)[:, 0]

    def network(self, layer, place, layer_path, out):
        width, hidden = self.config["bottleneck_size"], self.model.config.get("hidden_size", self.model.config.get("n_embd"))
        start = "base_model.model." + layer_path + "adapter_" + place
        self.model.networks[layer, place] = (
            self.draw(start + ".down.weight", (width, hidden)), self.draw(start + ".down.bias", (width,)),
            self.draw(start + ".up.weight", (out, width)), self.draw(start + ".up.bias", (out,)),
            self.config["non_linearity"], self.config["adapter_scaling"])

    def whole(self, names, root="base_model.model."):
        for name in names:
            stored = self.model.w[name]
            key = root + name
            self.tensors[key] = (stored + 0.2 * drawn(self.name, key, stored.shape, 0.0, 1.0)).astype(np.float32)
            self.model.w[name] = self.tensors[key].astype(np.float64)

    def virtual(self, width, prefix=False):
        rows = self.draw("prompt_embeddings", (self.config["num_virtual_tokens"], width), size=0.7)
        if prefix:
            self.model.prefix = rows
        else:
            self.model.prompt = rows

    def write(self, folder, inputs, logits):
        to = os.path.join(folder, self.name)
        os.makedirs(to, exist_ok=True)
        with open(os.path.join(to, "case.json"), "w") as f:
            f.write(json.dumps({"base": self.base}) + "\n")
        with open(os.path.join(to, "adapter_config.json"), "w") as f:
            f.write(json.dumps(self.config, indent=2, sort_keys=True) + "\n")
        write_safetensors(os.path.join(to, "adapter_model.safetensors"), self.tensors)
        write_safetensors(os.path.join(to, "expected.safetensors"), dict(inputs, logits=logits))


def words(name, batch, length, vocab, padded):
    random = np.random.RandomState(zlib.crc32(("ids:" + name).encode()))
    ids = random.randint(1, vocab, (batch, length)).astype(np.int64)
    mask = np.ones((batch, length), np.int64)
    if padded:
        mask[-1, length - 2:] = 0
        ids[-1, length - 2:] = 0
    return ids, mask


def finish(case, folder, padded=True, segments=None):
    base = case.base.split("/")[-1]
    if base == "llama":
        ids, mask = words(case.name, 2, 7, 37, padded)
        inputs = {"ids": ids, "mask": mask}
        if segments is not None:
            inputs["segments"] = segments
        case.write(folder, inputs, llama(case.model, ids, mask, segments))
    elif base == "gpt2":
        ids, mask = words(case.name, 2, 7, 37, False)
        case.write(folder, {"ids": ids, "mask": mask}, gpt2(case.model, ids, mask))
    elif base == "bert-classes":
        ids, mask = words(case.name, 3, 6, 37, padded)
        types = np.zeros_like(ids)
        types[:, 4:] = 1
        case.write(folder, {"ids": ids, "mask": mask, "types": types}, bert_classes(case.model, ids, mask, types))
    else:
        random = np.random.RandomState(zlib.crc32(("pixels:" + case.name).encode()))
        pixels = random.standard_normal((2, 3, 8, 8))
        case.write(folder, {"pixels": pixels}, vit(case.model, pixels))


def llama_paths(names):
    return ["model.layers.%d.%s" % (i, n) for i in range(2) for n in names]


def bert_paths(names):
    return ["bert.encoder.layer.%d.%s" % (i, n) for i in range(2) for n in names]


def check_bases(folder):
    """The forward passes, without an adapter, give the logits that other scripts of this folder computed."""
    for base, run in (("models/llama", llama), ("models/gpt2", gpt2)):
        reference = read_safetensors(os.path.join(HERE, base, "reference.safetensors"))
        logits = run(Model(base, base.endswith("gpt2")), reference["ids"], reference["mask"])
        chosen = reference["mask"] != 0
        assert np.abs(logits - reference["logits"])[chosen].max() < 1e-9, base
    reference = read_safetensors(os.path.join(HERE, "encoders/bert-classes/reference.safetensors"))
    logits = bert_classes(Model("encoders/bert-classes"), reference["ids"], reference["mask"], reference["types"])
    assert np.abs(logits - reference["logits"]).max() < 1e-9
    reference = read_safetensors(os.path.join(HERE, "encoders/vit/reference.safetensors"))
    assert np.abs(vit(Model("encoders/vit"), reference["pixels"]) - reference["logits"]).max() < 1e-9


def main(folder):
    check_bases(folder)
    # LoRA and its kin.
    case = Case("lora", "models/llama", LORA, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    case.lora(llama_paths(["self_attn.q_proj", "self_attn.v_proj"]))
    finish(case, folder)
    case = Case("lora-patterns", "models/llama", LORA, target_modules="all-linear", task_type="CAUSAL_LM", use_rslora=True,
                rank_pattern={"down_proj": 2, "layers.1.self_attn.[qk]_proj": 3}, alpha_pattern={"mlp.up_proj": 5.5, "q_proj": 16})
    case.lora(llama_paths(LLAMA_LINEARS),
              lambda p: 2 if p.endswith("down_proj") else 3 if ".1." in p and p.endswith(("q_proj", "k_proj")) else 4,
              lambda p: 5.5 if p.endswith("mlp.up_proj") else 16 if p.endswith("q_proj") else 8)
    finish(case, folder)
    case = Case("dora", "models/llama", LORA, target_modules=["gate_proj", "q_proj"], task_type="CAUSAL_LM", use_dora=True)
    case.lora(llama_paths(["self_attn.q_proj", "mlp.gate_proj"]))
    finish(case, folder)
    case = Case("dora-gpt2", "models/gpt2", LORA, target_modules=["c_attn", "c_fc"], task_type="CAUSAL_LM", use_dora=True, fan_in_fan_out=True)
    case.lora(["transformer.h.%d.%s" % (i, n) for i in range(2) for n in ("attn.c_attn", "mlp.c_fc")])
    finish(case, folder)
    case = Case("lora-layer", "models/llama", LORA, target_modules=["o_proj"], task_type="CAUSAL_LM", layers_to_transform=[1])
    case.lora(["model.layers.1.self_attn.o_proj"])
    finish(case, folder)
    case = Case("lora-on-folded-base", "models/llama", LORA, target_modules=["q_proj"], task_type="CAUSAL_LM", use_dora=True)
    case.lora(llama_paths(["self_attn.q_proj"]))
    case.delta("model.layers.0.self_attn.q_proj", 6)
    case.delta("model.layers.1.mlp.down_proj", 1)
    finish(case, folder)
    case = Case("lora-classes", "encoders/bert-classes", LORA, target_modules=["query", "value"], task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    case.lora(bert_paths(["attention.self.query", "attention.self.value"]))
    case.whole(["classifier.weight", "classifier.bias"])
    finish(case, folder)
    # (IA)^3.
    case = Case("ia3", "models/llama", IA3, target_modules=["down_proj", "k_proj", "v_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    case.ia3(llama_paths(["self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"]), lambda p: p.endswith("down_proj"))
    finish(case, folder)
    case = Case("ia3-gpt2", "models/gpt2", IA3, target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    case.ia3(["transformer.h.%d.%s" % (i, n) for i in range(2) for n in ("attn.c_attn", "mlp.c_proj")], lambda p: p.endswith("mlp.c_proj"))
    finish(case, folder)
    # Virtual tokens.
    case = Case("prompt", "models/llama", PROMPT, num_virtual_tokens=3, token_dim=16, num_attention_heads=4, num_layers=2, task_type="CAUSAL_LM")
    case.virtual(16)
    finish(case, folder)
    case = Case("p-tuning", "models/gpt2", P_TUNING, num_virtual_tokens=4, token_dim=16, num_attention_heads=4, num_layers=2, encoder_hidden_size=16, task_type="CAUSAL_LM")
    case.virtual(16)
    finish(case, folder)
    case = Case("prompt-packed", "models/llama", PROMPT, num_virtual_tokens=2, token_dim=16, num_attention_heads=4, num_layers=2, task_type="CAUSAL_LM")
    case.virtual(16)
    finish(case, folder, False, np.array([[1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 2, 3, 3]], np.int64))
    case = Case("prompt-classes", "encoders/bert-classes", PROMPT, num_virtual_tokens=3, token_dim=12, num_attention_heads=3, num_layers=2, task_type="SEQ_CLS",
                modules_to_save=["classifier", "score"])
    case.virtual(12)
    case.whole(["classifier.weight", "classifier.bias"], "base_model.")
    finish(case, folder)
    case = Case("prompt-vit", "encoders/vit", PROMPT, num_virtual_tokens=3, token_dim=12, num_attention_heads=3, num_layers=2, task_type=None)
    case.virtual(12)
    finish(case, folder)
    case = Case("prefix", "models/llama", PREFIX, num_virtual_tokens=4, token_dim=8, num_attention_heads=2, num_layers=2, encoder_hidden_size=8, task_type="CAUSAL_LM")
    case.virtual(2 * 2 * 8, True)
    finish(case, folder)
    case = Case("prefix-packed", "models/llama", PREFIX, num_virtual_tokens=2, token_dim=8, num_attention_heads=2, num_layers=2, encoder_hidden_size=8, task_type="CAUSAL_LM")
    case.virtual(2 * 2 * 8, True)
    finish(case, folder, False, np.array([[1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 2, 3, 3]], np.int64))
    case = Case("prefix-classes", "encoders/bert-classes", PREFIX, num_virtual_tokens=4, token_dim=12, num_attention_heads=3, num_layers=2, encoder_hidden_size=12, task_type="SEQ_CLS")
    case.virtual(2 * 2 * 12, True)
    finish(case, folder)
    case = Case("prefix-vit", "encoders/vit", PREFIX, num_virtual_tokens=5, token_dim=12, num_attention_heads=3, num_layers=2, encoder_hidden_size=12, task_type=None)
    case.virtual(2 * 2 * 12, True)
    finish(case, folder)
    # Networks beside the layers.
    case = Case("houlsby", "encoders/bert-classes", BOTTLENECK, non_linearity="gelu", task_type="SEQ_CLS")
    for layer in range(2):
        for place in ("attention", "mlp"):
            case.network(layer, place, "bert.encoder.layer.%d." % layer, 12)
    finish(case, folder)
    case = Case("pfeiffer", "models/llama", BOTTLENECK, placement="pfeiffer", layers_to_transform=[1], adapter_scaling=0.5, task_type="CAUSAL_LM")
    case.network(1, "mlp", "model.layers.1.", 16)
    finish(case, folder)
    case = Case("key-value", "encoders/vit", BOTTLENECK, placement="key_value", non_linearity="tanh", adapter_scaling=0.8, task_type=None)
    for layer in range(2):
        case.network(layer, "key_value", "vit.encoder.layer.%d." % layer, 24)
    finish(case, folder)
    # The base's own parameters.
    case = Case("bitfit", "encoders/bert-classes", BITFIT, task_type="SEQ_CLS")
    case.whole([n for n in case.model.w if n.endswith(".bias")])
    finish(case, folder)
    case = Case("layers", "models/llama", FULL, layers_to_transform=[0], task_type="CAUSAL_LM")
    case.whole([n for n in case.model.w if n.startswith("model.layers.0.")])
    finish(case, folder)
    case = Case("full", "encoders/bert-classes", FULL, task_type="SEQ_CLS")
    case.whole(list(case.model.w))
    finish(case, folder)


if __name__ == "__main__":
    main(sys.argv[1])
