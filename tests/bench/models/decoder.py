"""The decoder of the bench group `models` in Python: what one would write with torch.nn.

Usage: decoder.py FOLDER THREADS wall|processor. Reads FOLDER/decoder.safetensors (weights under Hugging Face's names, ids, targets),
prints "torch VERSION", then answers each line "forward" or "step" with "<seconds> <loss>".
"""
import json
import math
import struct
import sys
import time

try:
    import torch
except ImportError:
    print("none", flush=True)
    sys.exit(1)

from torch import nn
from torch.nn import functional as F

HIDDEN, HEADS, INNER, LAYERS, VOCAB, EPS, THETA = 768, 12, 2048, 6, 32000, 1e-5, 10000.0
HEAD = HIDDEN // HEADS


def read_safetensors(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            values = torch.frombuffer(data, dtype=torch.float32, count=(end - begin) // 4, offset=begin)
            tensors[name] = values.reshape(entry["shape"]).clone()
    return tensors


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS))


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))

    def forward(self, x, cos, sin, mask):
        batch, length, _ = x.shape
        q, k, v = (p(x).view(batch, length, HEADS, HEAD).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(HEAD) + mask
        mixed = torch.matmul(torch.softmax(scores, -1), v)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, HIDDEN))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(HIDDEN, INNER, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(), RMSNorm()
        self.self_attn, self.mlp = Attention(), Mlp()

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    def __init__(self, length):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = RMSNorm()
        frequency = THETA ** (-torch.arange(0, HEAD, 2, dtype=torch.float64) / HEAD)
        angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        self.register_buffer("mask", torch.full((length, length), -math.inf).triu(1), persistent=False)

    def forward(self, ids):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin, self.mask)
        return self.norm(x)


class Decoder(nn.Module):
    def __init__(self, length):
        super().__init__()
        self.model = Model(length)

    def forward(self, ids, targets):
        logits = F.linear(self.model(ids), self.model.embed_tokens.weight)
        return F.cross_entropy(logits.view(-1, VOCAB), targets.view(-1))


def main():
    folder, threads = sys.argv[1], int(sys.argv[2])
    now = time.process_time if sys.argv[3] == "processor" else time.perf_counter
    torch.set_num_threads(threads)
    tensors = read_safetensors(folder + "/decoder.safetensors")
    ids, targets = (tensors.pop(name).long() for name in ("ids", "targets"))
    decoder = Decoder(ids.shape[1])
    decoder.load_state_dict(tensors)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-4, weight_decay=0.01)
    print("torch", torch.__version__, flush=True)
    for line in sys.stdin:
        started = now()
        if line.strip() == "forward":
            decoder.eval()
            with torch.no_grad():
                loss = decoder(ids, targets).item()
        else:
            decoder.train()
            result = decoder(ids, targets)
            optimizer.zero_grad(set_to_none=True)
            result.backward()
            optimizer.step()
            loss = result.item()
        print(now() - started, loss, flush=True)


main()
