"""Decoders in float64 by the formulas of their papers, on autodiff.py. Weights: a dictionary of Var by the names of the
Hub. Each function returns logits [batch, length, vocab], and calls `stream` with the residual stream after the embeddings
and after each layer."""
import numpy as np

from autodiff import concatenate, gelu, gelu_tanh, relu, silu, softmax


def linear(w, path, x, transposed=False):
    weight = w[path + ".weight"]
    y = x @ (weight if transposed else weight.T)
    if path + ".lora_A" in w:  # y + scale * (x A^T) B^T
        y = y + (x @ w[path + ".lora_A"].T) @ w[path + ".lora_B"].T * w["lora_scale"].value
    return y + w[path + ".bias"] if path + ".bias" in w else y


def rms_norm(w, path, x, eps):
    return x * ((x * x).mean() + eps).power(-0.5) * w[path + ".weight"]


def layer_norm(w, path, x, eps):
    centred = x - x.mean()
    normal = centred * ((centred * centred).mean() + eps).power(-0.5)
    return normal * w[path + ".weight"] + w[path + ".bias"] if path + ".weight" in w else normal


def frequencies(config, dims, length):
    """Angles a position, and the factor of cosine and sine."""
    rope = config.get("rope_scaling") or {}
    theta = config.get("rope_theta", config.get("rotary_emb_base", 10000.0))
    plain = theta**(-np.arange(0, dims, 2) / dims)
    kind, factor = rope.get("type", rope.get("rope_type")), rope.get("factor", 1.0)
    trained = rope.get("original_max_position_embeddings", config["max_position_embeddings"])
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        wavelength = 2 * np.pi / plain
        smooth = (trained / wavelength - low) / (high - low)
        mixed = (1 - smooth) * plain / factor + smooth * plain
        out = np.where(wavelength > trained / low, plain / factor, np.where(wavelength < trained / high, plain, mixed))
        return out, 1.0
    if kind == "yarn":
        def dimension(rotations):
            return dims * np.log(trained / (rotations * 2 * np.pi)) / (2 * np.log(theta))

        low = max(np.floor(dimension(rope.get("beta_fast", 32))), 0)
        high = min(np.ceil(dimension(rope.get("beta_slow", 1))), dims - 1)
        ramp = np.clip((np.arange(dims // 2) - low) / max(high - low, 0.001), 0, 1)
        return plain / factor * ramp + plain * (1 - ramp), 0.1 * np.log(factor) + 1
    if kind == "dynamic":
        # Beyond the trained length theta grows, so that the slowest pair turns as far as in training.
        if length > trained:
            theta *= (factor * length / trained - (factor - 1))**(dims / (dims - 2))
        return theta**(-np.arange(0, dims, 2) / dims), 1.0
    return plain, 1.0


def rotate(x, config, dims):
    """x [batch, heads, length, head_dim]: the first `dims` of each head, as halves."""
    angle, magnitude = frequencies(config, dims, x.shape[2])
    angle = np.arange(x.shape[2])[:, None] * angle[None, :]
    cos, sin = np.cos(angle) * magnitude, np.sin(angle) * magnitude
    half = dims // 2
    a, b, rest = x[..., :half], x[..., half:dims], x[..., dims:]
    return concatenate([a * cos - b * sin, b * cos + a * sin, rest])


def split(x, heads):
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


def attend(q, k, v, mask, window=None):
    """Causal; mask [batch, length], 0 where there is padding. A row that sees nothing sees itself."""
    group = q.shape[1] // k.shape[1]
    of_query = np.arange(q.shape[1]) // group
    k, v = k[:, of_query], v[:, of_query]
    length = q.shape[2]
    i, j = np.arange(length)[:, None], np.arange(length)[None, :]
    seen = (j <= i) & ((window is None) | (i - j < (window or 1)))
    seen = seen[None] & (mask[:, None, :] != 0)
    seen |= (~seen.any(-1, keepdims=True)) & (i == j)[None]
    scores = q @ k.transpose(0, 1, 3, 2) * (q.shape[3]**-0.5) + np.where(seen, 0, -1e300)[:, None]
    out = (softmax(scores) @ v).transpose(0, 2, 1, 3)
    return out.reshape(out.shape[0], out.shape[1], -1)


def llama(config, w, ids, mask, stream):
    """LlamaForCausalLM; MistralForCausalLM with sliding_window, Qwen2ForCausalLM with biases."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    eps = config["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][ids]
    stream(x)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        h = rms_norm(w, layer + "input_layernorm", x, eps)
        q = rotate(split(linear(w, layer + "self_attn.q_proj", h), heads), config, head_dim)
        k = rotate(split(linear(w, layer + "self_attn.k_proj", h), kv_heads), config, head_dim)
        v = split(linear(w, layer + "self_attn.v_proj", h), kv_heads)
        window = config.get("sliding_window")
        if "use_sliding_window" in config:
            window = window if config["use_sliding_window"] and i >= config["max_window_layers"] else None
        x = x + linear(w, layer + "self_attn.o_proj", attend(q, k, v, mask, window))
        h = rms_norm(w, layer + "post_attention_layernorm", x, eps)
        gated = silu(linear(w, layer + "mlp.gate_proj", h)) * linear(w, layer + "mlp.up_proj", h)
        x = x + linear(w, layer + "mlp.down_proj", gated)
        stream(x)
    x = rms_norm(w, "model.norm", x, eps)
    return linear(w, "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head", x)


def gpt2(config, w, ids, mask, stream):
    eps, width = config["layer_norm_epsilon"], config["n_embd"]
    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][np.arange(ids.shape[1])]
    stream(x)
    for i in range(config["n_layer"]):
        layer = f"transformer.h.{i}."
        qkv = linear(w, layer + "attn.c_attn", layer_norm(w, layer + "ln_1", x, eps), transposed=True)
        q, k, v = (split(qkv[..., n * width:(n + 1) * width], config["n_head"]) for n in range(3))
        x = x + linear(w, layer + "attn.c_proj", attend(q, k, v, mask), transposed=True)
        h = gelu_tanh(linear(w, layer + "mlp.c_fc", layer_norm(w, layer + "ln_2", x, eps), transposed=True))
        x = x + linear(w, layer + "mlp.c_proj", h, transposed=True)
        stream(x)
    output = "transformer.wte" if config.get("tie_word_embeddings", True) else "lm_head"
    return linear(w, output, layer_norm(w, "transformer.ln_f", x, eps))


def opt(config, w, ids, mask, stream):
    body, heads, before = "model.decoder.", config["num_attention_heads"], config["do_layer_norm_before"]
    positions = np.cumsum(mask, 1) * mask - 1 + 2
    x = w[body + "embed_tokens.weight"][ids]
    projected = config["word_embed_proj_dim"] != config["hidden_size"]
    if projected:
        x = linear(w, body + "project_in", x)
    x = x + w[body + "embed_positions.weight"][positions]
    stream(x)
    for i in range(config["num_hidden_layers"]):
        layer = f"{body}layers.{i}."
        h = layer_norm(w, layer + "self_attn_layer_norm", x, 1e-5) if before else x
        q, k, v = (split(linear(w, layer + f"self_attn.{n}_proj", h), heads) for n in "qkv")
        x = x + linear(w, layer + "self_attn.out_proj", attend(q, k, v, mask))
        if not before:
            x = layer_norm(w, layer + "self_attn_layer_norm", x, 1e-5)
        h = layer_norm(w, layer + "final_layer_norm", x, 1e-5) if before else x
        x = x + linear(w, layer + "fc2", relu(linear(w, layer + "fc1", h)))
        if not before:
            x = layer_norm(w, layer + "final_layer_norm", x, 1e-5)
        stream(x)
    if before:
        x = layer_norm(w, body + "final_layer_norm", x, 1e-5)
    if projected:
        x = linear(w, body + "project_out", x)
    return linear(w, body + "embed_tokens", x)


def gpt_neox(config, w, ids, mask, stream):
    body, heads, eps = "gpt_neox.", config["num_attention_heads"], config["layer_norm_eps"]
    head_dim = config["hidden_size"] // heads
    x = w[body + "embed_in.weight"][ids]
    stream(x)
    for i in range(config["num_hidden_layers"]):
        layer = f"{body}layers.{i}."

        def attention(h):
            qkv = linear(w, layer + "attention.query_key_value", h)
            qkv = qkv.reshape(h.shape[0], h.shape[1], heads, 3 * head_dim).transpose(0, 2, 1, 3)
            q, k, v = (qkv[..., n * head_dim:(n + 1) * head_dim] for n in range(3))
            dims = int(head_dim * config["rotary_pct"])
            mixed = attend(rotate(q, config, dims), rotate(k, config, dims), v, mask)
            return linear(w, layer + "attention.dense", mixed)

        def mlp(h):
            return linear(w, layer + "mlp.dense_4h_to_h", gelu(linear(w, layer + "mlp.dense_h_to_4h", h)))

        first = layer_norm(w, layer + "input_layernorm", x, eps)
        if config["use_parallel_residual"]:
            x = x + attention(first) + mlp(layer_norm(w, layer + "post_attention_layernorm", x, eps))
        else:
            x = x + attention(first)
            x = x + mlp(layer_norm(w, layer + "post_attention_layernorm", x, eps))
        stream(x)
    return linear(w, "embed_out", layer_norm(w, body + "final_layer_norm", x, eps))
