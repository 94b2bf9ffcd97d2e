#!/usr/bin/env python3
"""Makes the committed reference cases of models: tiny checkpoints with seeded weights, and what they compute in float64.

    python3 tests/data/models/make_reference.py tests/data/models

Needs numpy. For each case a folder with config.json, model.safetensors (float32) and reference.safetensors:
  ids, mask        [2, length]; the second row is padded at its beginning
  targets          the ids shifted, -100 where there is no next token
  hidden           [layers + 1, 2, length, width], float64: the residual stream after the embeddings and after each layer
  logits, loss     float64
  lora_A:<path>, lora_B:<path>, lora_loss, grad_A:<path>, grad_B:<path>   with LoRA on every linear layer, scale 2
  curve            of `curve` cases: the losses of 50 steps of AdamW on the factors (all its settings are in curve.json)
"""
import json
import pathlib
import struct
import sys

import numpy as np

import decoders
from autodiff import Var, cross_entropy

LENGTH, VOCAB = 11, 37
LORA_SCALE, LORA_RANK = 2.0, 2


def write_safetensors(path, tensors):
    names = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64", np.dtype(np.int64): "I64"}
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name in sorted(tensors):
        data = np.ascontiguousarray(tensors[name])
        header[name] = {"dtype": names[data.dtype], "shape": list(data.shape), "data_offsets": [at, at + data.nbytes]}
        blobs.append(data.tobytes())
        at += data.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def llama_shapes(c, biases="", tied=True):
    """`biases`: the first letters of those linear layers that have one."""
    d, f = c["hidden_size"], c["intermediate_size"]
    head_dim = c.get("head_dim") or d // c["num_attention_heads"]
    q, kv = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    shapes, linears = {"model.embed_tokens.weight": (VOCAB, d), "model.norm.weight": (d,)}, []
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[p + norm + ".weight"] = (d,)
        for name, out, into in (("self_attn.q_proj", q, d), ("self_attn.k_proj", kv, d), ("self_attn.v_proj", kv, d),
                                ("self_attn.o_proj", d, q), ("mlp.gate_proj", f, d), ("mlp.up_proj", f, d),
                                ("mlp.down_proj", d, f)):
            shapes[p + name + ".weight"] = (out, into)
            linears.append((p + name, into, out))
            if name.split(".")[1][0] in biases:
                shapes[p + name + ".bias"] = (out,)
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, d)
    return shapes, linears


def gpt2_shapes(c):
    d, f = c["n_embd"], c.get("n_inner") or 4 * c["n_embd"]
    shapes = {"transformer.wte.weight": (VOCAB, d), "transformer.wpe.weight": (c["n_positions"], d)}
    linears = []
    norms = ["transformer.ln_f"]
    if not c.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (VOCAB, d)
    for i in range(c["n_layer"]):
        p = f"transformer.h.{i}."
        norms += [p + "ln_1", p + "ln_2"]
        for name, into, out in (("attn.c_attn", d, 3 * d), ("attn.c_proj", d, d), ("mlp.c_fc", d, f), ("mlp.c_proj", f, d)):
            shapes[p + name + ".weight"], shapes[p + name + ".bias"] = (into, out), (out,)
            linears.append((p + name, into, out))
    for norm in norms:
        shapes[norm + ".weight"] = shapes[norm + ".bias"] = (d,)
    return shapes, linears


def opt_shapes(c):
    d, e, f = c["hidden_size"], c["word_embed_proj_dim"], c["ffn_dim"]
    p = "model.decoder."
    shapes = {p + "embed_tokens.weight": (VOCAB, e), p + "embed_positions.weight": (c["max_position_embeddings"] + 2, d)}
    linears, norms = [], [p + "final_layer_norm"] if c["do_layer_norm_before"] else []
    if d != e:
        shapes[p + "project_in.weight"], shapes[p + "project_out.weight"] = (d, e), (e, d)
        linears += [(p + "project_in", e, d), (p + "project_out", d, e)]
    for i in range(c["num_hidden_layers"]):
        layer = f"{p}layers.{i}."
        norms += [layer + "self_attn_layer_norm", layer + "final_layer_norm"]
        for name, into, out in (("self_attn.q_proj", d, d), ("self_attn.k_proj", d, d), ("self_attn.v_proj", d, d),
                                ("self_attn.out_proj", d, d), ("fc1", d, f), ("fc2", f, d)):
            shapes[layer + name + ".weight"] = (out, into)
            if c.get("enable_bias", True):
                shapes[layer + name + ".bias"] = (out,)
            linears.append((layer + name, into, out))
    for norm in norms if c.get("layer_norm_elementwise_affine", True) else []:
        shapes[norm + ".weight"] = shapes[norm + ".bias"] = (d,)
    return shapes, linears


def neox_shapes(c):
    d, f = c["hidden_size"], c["intermediate_size"]
    p = "gpt_neox."
    shapes, linears = {p + "embed_in.weight": (VOCAB, d), "embed_out.weight": (VOCAB, d)}, []
    norms = [p + "final_layer_norm"]
    for i in range(c["num_hidden_layers"]):
        layer = f"{p}layers.{i}."
        norms += [layer + "input_layernorm", layer + "post_attention_layernorm"]
        for name, into, out in (("attention.query_key_value", d, 3 * d), ("attention.dense", d, d),
                                ("mlp.dense_h_to_4h", d, f), ("mlp.dense_4h_to_h", f, d)):
            shapes[layer + name + ".weight"] = (out, into)
            if c.get("attention_bias", True) or name.startswith("mlp"):
                shapes[layer + name + ".bias"] = (out,)
            linears.append((layer + name, into, out))
    for norm in norms:
        shapes[norm + ".weight"] = shapes[norm + ".bias"] = (d,)
    return shapes, linears


LLAMA = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True}
OPT = {"architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 16, "num_hidden_layers": 2,
       "num_attention_heads": 4, "ffn_dim": 20, "vocab_size": VOCAB, "max_position_embeddings": 16,
       "word_embed_proj_dim": 16, "do_layer_norm_before": True, "activation_function": "relu"}
NEOX = {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 20, "vocab_size": VOCAB, "max_position_embeddings": 16,
        "rotary_pct": 0.5, "rotary_emb_base": 10000, "layer_norm_eps": 1e-5, "hidden_act": "gelu",
        "use_parallel_residual": True}


def llama(kind, **changes):
    return {"architectures": [kind + "ForCausalLM"], "model_type": kind.lower(), **LLAMA, **changes}


def cases():
    wide = llama("Llama", head_dim=8, tie_word_embeddings=False, rope_theta=500.0,
                 rope_scaling={"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                               "original_max_position_embeddings": 8})
    yarn = llama("Llama", head_dim=8, rope_theta=100.0,
                 rope_scaling={"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8})
    qwen = llama("Qwen2", use_sliding_window=True, sliding_window=3, max_window_layers=1,
                 rope_scaling={"type": "linear", "factor": 2.0})
    gpt2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4,
            "n_positions": 16, "vocab_size": VOCAB, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}
    post = {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 8}
    sequential = {**NEOX, "use_parallel_residual": False, "rotary_pct": 0.25}
    plain = llama("Llama")
    yield "llama", decoders.llama, plain, llama_shapes(plain)
    yield "llama-llama3", decoders.llama, wide, llama_shapes(wide, tied=False)
    yield "llama-yarn", decoders.llama, yarn, llama_shapes(yarn)
    mistral = llama("Mistral", sliding_window=4)
    yield "mistral", decoders.llama, mistral, llama_shapes(mistral)
    yield "qwen2", decoders.llama, qwen, llama_shapes(qwen, biases="qkv")
    yield "gpt2", decoders.gpt2, gpt2, gpt2_shapes(gpt2)
    yield "opt", decoders.opt, OPT, opt_shapes(OPT)
    yield "opt-post", decoders.opt, post, opt_shapes(post)
    yield "gpt-neox", decoders.gpt_neox, NEOX, neox_shapes(NEOX)
    yield "gpt-neox-sequential", decoders.gpt_neox, sequential, neox_shapes(sequential)
    # A case's weights come from its place in this list: new ones at the end.
    biased = llama("Llama", attention_bias=True, mlp_bias=True)
    yield "llama-biases", decoders.llama, biased, llama_shapes(biased, biases="qkvogud")
    unbiased = {**NEOX, "attention_bias": False}
    yield "gpt-neox-unbiased", decoders.gpt_neox, unbiased, neox_shapes(unbiased)
    narrow = {**gpt2, "n_inner": 20, "tie_word_embeddings": False}
    yield "gpt2-narrow", decoders.gpt2, narrow, gpt2_shapes(narrow)
    dynamic = llama("Llama", head_dim=8, rope_theta=100.0, max_position_embeddings=8,
                    rope_scaling={"type": "dynamic", "factor": 2.0})
    yield "llama-dynamic", decoders.llama, dynamic, llama_shapes(dynamic)
    bare = {**OPT, "enable_bias": False, "layer_norm_elementwise_affine": False}
    yield "opt-bare", decoders.opt, bare, opt_shapes(bare)
    bare_post = {**bare, "do_layer_norm_before": False}
    yield "opt-bare-post", decoders.opt, bare_post, opt_shapes(bare_post)


def make_weights(random, shapes):
    """Norms around one, so that they count; the rest as wide as makes logits of some size."""
    weights = {}
    for name, shape in sorted(shapes.items()):
        values = random.normal(0, 0.3, shape)
        if len(shape) == 1 and name.endswith(".weight"):
            values = 1 + values / 2
        weights[name] = values.astype(np.float32)
    return weights


def make_factors(random, linears):
    factors = {}
    for path, into, out in linears:
        factors[path + ".lora_A"] = random.normal(0, 0.3, (LORA_RANK, into)).astype(np.float32)
        factors[path + ".lora_B"] = random.normal(0, 0.3, (out, LORA_RANK)).astype(np.float32)
    return factors


def as_variables(weights, factors=None):
    w = {name: Var(values.astype(np.float64)) for name, values in weights.items()}
    for name, values in (factors or {}).items():
        w[name] = Var(values)
    w["lora_scale"] = Var(LORA_SCALE)
    return w


def ignore(x):
    """Who does not want the residual stream."""


def make_case(folder, forward, config, shapes, linears, seed):
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    weights, factors = make_weights(random, shapes), make_factors(random, linears)
    ids = random.integers(0, VOCAB, (2, LENGTH))
    mask = np.ones_like(ids)
    mask[1, :3] = 0
    targets = np.full_like(ids, -100)
    targets[:, :-1] = ids[:, 1:]
    targets[mask == 0] = -100
    out = {"ids": ids, "mask": mask, "targets": targets}
    hidden = []
    logits = forward(config, as_variables(weights), ids, mask, lambda x: hidden.append(x.value))
    out["hidden"] = np.stack(hidden)
    out["logits"] = logits.value
    out["loss"] = cross_entropy(logits, targets).value
    w = as_variables(weights, factors)
    loss = cross_entropy(forward(config, w, ids, mask, ignore), targets)
    loss.backward()
    out["lora_loss"] = loss.value
    for name, values in factors.items():
        path, which = name.rsplit(".lora_", 1)
        out[f"lora_{which}:{path}"] = values
        out[f"grad_{which}:{path}"] = w[name].grad
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_safetensors(folder / "model.safetensors", weights)
    write_safetensors(folder / "reference.safetensors", out)


def make_curve(folder, forward, config, shapes, linears):
    """Fifty steps of AdamW with decoupled weight decay (Loshchilov and Hutter, 1711.05101) on LoRA factors."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(99)
    weights, factors = make_weights(random, shapes), make_factors(random, linears)
    for name in factors:
        if name.endswith("lora_B"):
            factors[name][:] = 0  # as an adapter begins
    settings = {"steps": 50, "learning_rate": 0.01, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1,
                "max_grad_norm": 1.0, "scale": LORA_SCALE}
    ids = random.integers(0, VOCAB, (settings["steps"], 3, LENGTH))
    ids[:, :, 1::2] = (ids[:, :, 0::2][:, :, :LENGTH // 2] * 5 + 3) % VOCAB  # something to learn
    values = {name: factor.astype(np.float64) for name, factor in factors.items()}
    first, second = ({name: np.zeros(v.shape) for name, v in values.items()} for _ in range(2))
    losses = []
    for step in range(1, settings["steps"] + 1):
        w = as_variables(weights, values)
        inputs, targets = ids[step - 1, :, :-1], ids[step - 1, :, 1:]
        loss = cross_entropy(forward(config, w, inputs, np.ones_like(inputs), ignore), targets)
        loss.backward()
        losses.append(float(loss.value))
        norm = np.sqrt(sum((w[name].grad**2).sum() for name in values))
        clip = min(1.0, settings["max_grad_norm"] / (norm + 1e-6))
        for name in values:
            g = w[name].grad * clip
            values[name] = values[name] * (1 - settings["learning_rate"] * settings["weight_decay"])
            first[name] = settings["beta1"] * first[name] + (1 - settings["beta1"]) * g
            second[name] = settings["beta2"] * second[name] + (1 - settings["beta2"]) * g * g
            m = first[name] / (1 - settings["beta1"]**step)
            v = second[name] / (1 - settings["beta2"]**step)
            values[name] = values[name] - settings["learning_rate"] * m / (np.sqrt(v) + settings["epsilon"])
    out = {"ids": ids, "losses": np.array(losses)}
    for name, factor in factors.items():
        path, which = name.rsplit(".lora_", 1)
        out[f"lora_{which}:{path}"] = factor
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "curve.json").write_text(json.dumps(settings, indent=1) + "\n")
    write_safetensors(folder / "model.safetensors", weights)
    write_safetensors(folder / "reference.safetensors", out)
    return losses


def check_gradients():
    """The differentiation itself against central differences, for one number of each kind of model."""
    for name, forward, config, (shapes, linears) in cases():
        random = np.random.default_rng(5)
        weights, factors = make_weights(random, shapes), make_factors(random, linears)
        ids = random.integers(0, VOCAB, (1, 6))
        values = {key: factor.astype(np.float64) for key, factor in factors.items()}

        def loss_of(vs):
            w = as_variables(weights, vs)
            loss = cross_entropy(forward(config, w, ids[:, :-1], np.ones((1, 5), int), ignore), ids[:, 1:])
            return loss, w

        loss, w = loss_of(values)
        loss.backward()
        key = linears[0][0] + ".lora_A"
        step = np.zeros_like(values[key])
        step[0, 0] = 1e-5
        up, _ = loss_of({**values, key: values[key] + step})
        down, _ = loss_of({**values, key: values[key] - step})
        slope = (up.value - down.value) / 2e-5
        assert abs(slope - w[key].grad[0, 0]) < 1e-8 + 1e-6 * abs(slope), (name, slope, w[key].grad[0, 0])


def main():
    root = pathlib.Path(sys.argv[1])
    check_gradients()
    for seed, (name, forward, config, (shapes, linears)) in enumerate(cases()):
        make_case(root / name, forward, config, shapes, linears, seed)
        if name == "llama":
            losses = make_curve(root / "curve", forward, config, shapes, linears)
            print(f"curve: {losses[0]:.4f} to {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
