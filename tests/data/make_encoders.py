#!/usr/bin/env python3
"""Makes tests/data/encoders/: tiny encoders and vision models with seeded weights, and what they compute.

    python3 tests/data/make_encoders.py tests/data/encoders          (needs python3-numpy; the same bytes in every run)

Everything here is float64 numpy, written from the papers' definitions and sharing no code with Heddle: BERT (Devlin et
al., 1810.04805), RoBERTa (Liu et al., 1907.11692), DistilBERT (Sanh et al., 1910.01108), ViT (Dosovitskiy et al.,
2010.11929), DeiT (Touvron et al., 2012.12877); names of parameters as Hugging Face writes them. Weights are drawn in
float64 and rounded to the float32 that is stored, so the outputs are those of the stored weights.

A folder has config.json, model.safetensors (F32) and reference.safetensors:
  ids, types, mask  I64 [batch, length], or pixels F64 [batch, channels, height, width]
  hidden            F64 [layers + 1, batch, length, hidden]: the residual stream
  last              F64: after the final norm
  pooled            F64 [batch, hidden]: of BertModel
  logits            F64
  targets           I64 or F64: labels, or words with -100 where nothing is asked
  loss              F64 []
"""
import json
import math
import os
import struct
import sys
import zlib

import numpy as np

HIDDEN, LAYERS, HEADS, INNER, VOCAB, POSITIONS = 12, 2, 3, 20, 37, 16
erf = np.vectorize(math.erf)

ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
}


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


class Weights:
    """Draws each parameter from its name, so that adding one changes no other."""

    def __init__(self, model):
        self.model, self.stored = model, {}

    def __call__(self, name, *shape):
        if name not in self.stored:
            random = np.random.RandomState(zlib.crc32((self.model + ":" + name).encode()))
            values = random.standard_normal(shape)
            if "norm" in name.lower() and name.endswith(".weight"):
                values = 1 + 0.2 * values
            elif name.endswith(".bias"):
                values = 0.2 * values
            elif len(shape) == 2 and "embedding" not in name:
                values = values * 1.2 / math.sqrt(shape[1])
            else:
                values = 0.7 * values
            self.stored[name] = values.astype(np.float32)
        return self.stored[name].astype(np.float64)


def linear(w, path, x, out, bias=True):
    y = x @ w(path + ".weight", out, x.shape[-1]).T
    return y + w(path + ".bias", out) if bias else y


def layer_norm(w, path, x, eps):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * w(path + ".weight", x.shape[-1]) + w(path + ".bias", x.shape[-1])


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(w, names, x, mask, heads, head_dim, bias):
    """Every token sees every token that the mask has."""
    batch, length, _ = x.shape
    q, k, v = (linear(w, n, x, heads * head_dim, bias).reshape(batch, length, heads, head_dim) for n in names[:3])
    scores = np.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(head_dim)
    if mask is not None:
        scores = np.where(mask[:, None, None, :] != 0, scores, -np.inf)
    mixed = np.einsum("bhij,bjhd->bihd", softmax(scores), v).reshape(batch, length, heads * head_dim)
    return linear(w, names[3], mixed, x.shape[-1])


def cross_entropy(logits, targets):
    rows, targets = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    chosen = targets != -100
    rows = rows[chosen] - rows[chosen].max(-1, keepdims=True)
    log_p = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    return -log_p[np.arange(len(rows)), targets[chosen]].mean()


def post_norm_layers(w, x, mask, path, attention_names, first_norm, up, down, second_norm, eps):
    """Residual, then norm, as in the first transformer."""
    trace = [x]
    for i in range(LAYERS):
        p = path % i
        x = layer_norm(w, p + first_norm, x + attention(w, [p + n for n in attention_names], x, mask, HEADS, HIDDEN // HEADS, True), eps)
        inner = ACTIVATIONS["gelu"](linear(w, p + up, x, INNER))
        x = layer_norm(w, p + second_norm, x + linear(w, p + down, inner, HIDDEN), eps)
        trace.append(x)
    return trace


def token_inputs(pad):
    random = np.random.RandomState(7)
    lengths, length = [9, 5, 7], 9
    ids = random.randint(5, VOCAB, (3, length))
    mask = np.array([[1] * n + [0] * (length - n) for n in lengths], dtype=np.int64)
    ids = np.where(mask != 0, ids, pad)
    types = np.array([[0] * (n // 2) + [1] * (length - n // 2) for n in lengths]) * mask
    return ids.astype(np.int64), types.astype(np.int64), mask


def bert_body(w, prefix, ids, types, mask, eps):
    """Both BERT's and, with one token type and other positions, RoBERTa's."""
    e = prefix + "embeddings."
    roberta = prefix == "roberta."
    pad = 1
    positions = np.arange(ids.shape[1])[None, :].repeat(len(ids), 0)
    if roberta:  # counted from pad + 1, over what is not padding
        real = ids != pad
        positions = np.cumsum(real, 1) * real + pad
    x = w(e + "word_embeddings.weight", VOCAB, HIDDEN)[ids] + w(e + "position_embeddings.weight", POSITIONS, HIDDEN)[positions]
    x = x + w(e + "token_type_embeddings.weight", 1 if roberta else 2, HIDDEN)[types]
    x = layer_norm(w, e + "LayerNorm", x, eps)
    names = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    return post_norm_layers(w, x, mask, prefix + "encoder.layer.%d.", names, "attention.output.LayerNorm", "intermediate.dense",
                            "output.dense", "output.LayerNorm", eps)


BERT = dict(hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=INNER, vocab_size=VOCAB,
            max_position_embeddings=POSITIONS, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12, pad_token_id=0,
            model_type="bert", position_embedding_type="absolute")


def text_model(folder, architecture, config, body, pad, head):
    w = Weights(folder)
    ids, types, mask = token_inputs(pad)
    types = types * (config.get("type_vocab_size", 1) - 1)  # 0 where there is one type
    trace = body(w, ids, types, mask)
    outputs = head(w, trace[-1])
    save(folder, architecture, config, w, dict(ids=ids, types=types, mask=mask, hidden=np.stack(trace), last=trace[-1], **outputs))


def classes(w, logits, targets):
    return dict(logits=logits, targets=np.array(targets, dtype=np.int64), loss=np.array(cross_entropy(logits, np.array(targets))))


def bert_model(w, last):
    return dict(pooled=np.tanh(linear(w, "pooler.dense", last[:, 0], HIDDEN)))


def bert_masked(w, last):
    x = ACTIVATIONS["gelu"](linear(w, "cls.predictions.transform.dense", last, HIDDEN))
    x = layer_norm(w, "cls.predictions.transform.LayerNorm", x, 1e-12)
    logits = x @ w("bert.embeddings.word_embeddings.weight", VOCAB, HIDDEN).T + w("cls.predictions.bias", VOCAB)
    targets = np.full(last.shape[:2], -100, dtype=np.int64)
    targets[0, 2], targets[0, 5], targets[1, 1], targets[2, 6] = 8, 20, 36, 5
    return dict(logits=logits, targets=targets, loss=np.array(cross_entropy(logits, targets)))


def bert_classes(w, last):
    pooled = np.tanh(linear(w, "bert.pooler.dense", last[:, 0], HIDDEN))
    return classes(w, linear(w, "classifier", pooled, 3), [2, 0, 1])


def bert_grade(w, last):
    pooled = np.tanh(linear(w, "bert.pooler.dense", last[:, 0], HIDDEN))
    logits = linear(w, "classifier", pooled, 1)
    targets = np.array([0.5, -1.25, 2.0])
    return dict(logits=logits, targets=targets, loss=np.array(((logits[:, 0] - targets) ** 2).mean()))


def roberta_classes(w, last):
    x = np.tanh(linear(w, "classifier.dense", last[:, 0], HIDDEN))
    return classes(w, linear(w, "classifier.out_proj", x, 3), [1, 1, 0])


def distilbert_body(w, ids, types, mask):
    e = "distilbert.embeddings."
    x = w(e + "word_embeddings.weight", VOCAB, HIDDEN)[ids]
    x = x + w(e + "position_embeddings.weight", POSITIONS, HIDDEN)[np.arange(ids.shape[1])][None]
    x = layer_norm(w, e + "LayerNorm", x, 1e-12)
    names = ["attention." + n for n in ("q_lin", "k_lin", "v_lin", "out_lin")]
    return post_norm_layers(w, x, mask, "distilbert.transformer.layer.%d.", names, "sa_layer_norm", "ffn.lin1", "ffn.lin2",
                            "output_layer_norm", 1e-12)


def distilbert_classes(w, last):
    x = np.maximum(linear(w, "pre_classifier", last[:, 0], HIDDEN), 0)
    return classes(w, linear(w, "classifier", x, 2), [1, 0, 1])


def vision_model(folder, architecture, prefix, head_dim, act, qkv_bias, channels, size, patch, distilled, head):
    w = Weights(folder)
    eps = 1e-12
    random = np.random.RandomState(11)
    pixels = random.standard_normal((3, channels, size, size))
    side = size // patch
    kernel = w(prefix + "embeddings.patch_embeddings.projection.weight", HIDDEN, channels, patch, patch)
    blocks = pixels.reshape(3, channels, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5).reshape(3, side * side, -1)
    x = blocks @ kernel.reshape(HIDDEN, -1).T + w(prefix + "embeddings.patch_embeddings.projection.bias", HIDDEN)
    special = [w(prefix + "embeddings.cls_token", 1, 1, HIDDEN)]
    if distilled:
        special.append(w(prefix + "embeddings.distillation_token", 1, 1, HIDDEN))
    x = np.concatenate([t.repeat(3, 0) for t in special] + [x], 1)
    x = x + w(prefix + "embeddings.position_embeddings", 1, x.shape[1], HIDDEN)
    trace = [x]
    for i in range(LAYERS):
        p = prefix + "encoder.layer.%d." % i
        names = [p + "attention.attention." + n for n in ("query", "key", "value")] + [p + "attention.output.dense"]
        x = x + attention(w, names, layer_norm(w, p + "layernorm_before", x, eps), None, HEADS, head_dim, qkv_bias)
        inner = ACTIVATIONS[act](linear(w, p + "intermediate.dense", layer_norm(w, p + "layernorm_after", x, eps), INNER))
        x = x + linear(w, p + "output.dense", inner, HIDDEN)
        trace.append(x)
    last = layer_norm(w, prefix + "layernorm", x, eps)
    config = dict(hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=INNER, hidden_act=act,
                  layer_norm_eps=eps, image_size=size, patch_size=patch, num_channels=channels, qkv_bias=qkv_bias,
                  model_type=prefix[:-1], id2label={str(i): "thing-%d" % i for i in range(4)})
    if head_dim * HEADS != HIDDEN:
        config["head_dim"] = head_dim
    save(folder, architecture, config, w, dict(pixels=pixels, hidden=np.stack(trace), last=last, **classes(w, head(w, last), [3, 0, 1])))


def save(folder, architecture, config, w, outputs):
    path = os.path.join(sys.argv[1], folder)
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "config.json"), "w") as f:
        f.write(json.dumps(dict(config, architectures=[architecture]), indent=1, sort_keys=True) + "\n")
    write_safetensors(os.path.join(path, "model.safetensors"), w.stored)
    write_safetensors(os.path.join(path, "reference.safetensors"), outputs)


def main():
    bert = lambda prefix: lambda w, ids, types, mask: bert_body(w, prefix, ids, types, mask, 1e-12)
    text_model("bert", "BertModel", BERT, bert(""), 0, bert_model)
    text_model("bert-masked", "BertForMaskedLM", BERT, bert("bert."), 0, bert_masked)
    three = dict(BERT, id2label={"0": "no", "1": "perhaps", "2": "yes"})
    text_model("bert-classes", "BertForSequenceClassification", three, bert("bert."), 0, bert_classes)
    text_model("bert-grade", "BertForSequenceClassification", dict(BERT, num_labels=1, problem_type="regression"), bert("bert."), 0,
               bert_grade)
    roberta = dict(BERT, model_type="roberta", type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5, num_labels=3)
    text_model("roberta-classes", "RobertaForSequenceClassification", roberta,
               lambda w, ids, types, mask: bert_body(w, "roberta.", ids, types, mask, 1e-5), 1, roberta_classes)
    distilbert = dict(dim=HIDDEN, n_layers=LAYERS, n_heads=HEADS, hidden_dim=INNER, vocab_size=VOCAB, activation="gelu",
                      max_position_embeddings=POSITIONS, pad_token_id=0, model_type="distilbert", sinusoidal_pos_embds=False,
                      num_labels=2)
    text_model("distilbert-classes", "DistilBertForSequenceClassification", distilbert, distilbert_body, 0, distilbert_classes)
    first = lambda w, last: linear(w, "classifier", last[:, 0], 4)
    vision_model("vit", "ViTForImageClassification", "vit.", HIDDEN // HEADS, "gelu", True, 3, 8, 4, False, first)
    vision_model("vit-wide", "ViTForImageClassification", "vit.", 6, "relu", False, 1, 6, 2, False, first)
    vision_model("deit", "DeiTForImageClassification", "deit.", HIDDEN // HEADS, "gelu", True, 3, 8, 4, True, first)
    both = lambda w, last: (linear(w, "cls_classifier", last[:, 0], 4) + linear(w, "distillation_classifier", last[:, 1], 4)) / 2
    vision_model("deit-teacher", "DeiTForImageClassificationWithTeacher", "deit.", HIDDEN // HEADS, "gelu", True, 3, 8, 4, True, both)


main()
