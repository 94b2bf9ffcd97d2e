"""Reverse-mode differentiation of numpy arrays in float64: the few operations that small transformers need.

Every operation notes how its inputs' gradients follow from its output's; backward() walks them from the loss. Written
for make_reference.py, from the chain rule; it shares nothing with the code that it checks.
"""
import numpy as np
from math import erf as scalar_erf

vector_erf = np.vectorize(scalar_erf)


class Var:
    def __init__(self, value, parents=()):
        self.value = np.asarray(value, dtype=np.float64)
        self.parents = parents  # (variable, function from this gradient to that one's)
        self.grad = None

    @property
    def shape(self):
        return self.value.shape

    def __add__(self, other):
        other = as_var(other)
        return Var(self.value + other.value,
                   ((self, lambda g: unbroadcast(g, self.shape)), (other, lambda g: unbroadcast(g, other.shape))))

    def __sub__(self, other):
        return self + as_var(other) * -1.0

    def __mul__(self, other):
        other = as_var(other)
        return Var(self.value * other.value, ((self, lambda g: unbroadcast(g * other.value, self.shape)),
                                              (other, lambda g: unbroadcast(g * self.value, other.shape))))

    __radd__ = __add__
    __rmul__ = __mul__

    def __matmul__(self, other):
        def to_left(g):
            return unbroadcast(g @ np.swapaxes(other.value, -1, -2), self.shape)

        def to_right(g):
            return unbroadcast(np.swapaxes(self.value, -1, -2) @ g, other.shape)

        return Var(self.value @ other.value, ((self, to_left), (other, to_right)))

    def __getitem__(self, index):
        def back(g):
            whole = np.zeros(self.shape)
            np.add.at(whole, index, g)
            return whole

        return Var(self.value[index], ((self, back),))

    def reshape(self, *shape):
        return Var(self.value.reshape(*shape), ((self, lambda g: g.reshape(self.shape)),))

    def transpose(self, *axes):
        back = np.argsort(axes)
        return Var(self.value.transpose(*axes), ((self, lambda g: g.transpose(*back)),))

    @property
    def T(self):
        return self.transpose(1, 0)

    def mean(self):  # over the last axis, which stays
        n = self.shape[-1]
        return Var(self.value.mean(-1, keepdims=True), ((self, lambda g: np.broadcast_to(g / n, self.shape)),))

    def power(self, exponent):
        return Var(self.value**exponent, ((self, lambda g: g * exponent * self.value**(exponent - 1)),))

    def map(self, function, derivative):
        return Var(function(self.value), ((self, lambda g: g * derivative(self.value)),))

    def backward(self):
        order, seen = [], set()

        def visit(node):
            stack = [(node, False)]
            while stack:
                at, done = stack.pop()
                if done:
                    order.append(at)
                elif id(at) not in seen:
                    seen.add(id(at))
                    stack.append((at, True))
                    stack.extend((parent, False) for parent, _ in at.parents)

        visit(self)
        self.grad = np.ones(self.shape)
        for node in reversed(order):
            if node.grad is None:
                continue
            for parent, to_parent in node.parents:
                g = to_parent(node.grad)
                parent.grad = g if parent.grad is None else parent.grad + g


def as_var(x):
    return x if isinstance(x, Var) else Var(x)


def unbroadcast(gradient, shape):
    while gradient.ndim > len(shape):
        gradient = gradient.sum(0)
    for axis, size in enumerate(shape):
        if size == 1 and gradient.shape[axis] != 1:
            gradient = gradient.sum(axis, keepdims=True)
    return gradient


def concatenate(parts):  # along the last axis
    edges = np.cumsum([0] + [part.shape[-1] for part in parts])
    pieces = tuple((part, lambda g, a=a, b=b: g[..., a:b]) for part, a, b in zip(parts, edges[:-1], edges[1:]))
    return Var(np.concatenate([part.value for part in parts], -1), pieces)


def softmax(x):
    shifted = np.exp(x.value - x.value.max(-1, keepdims=True))
    p = shifted / shifted.sum(-1, keepdims=True)
    return Var(p, ((x, lambda g: p * (g - (g * p).sum(-1, keepdims=True))),))


def cross_entropy(logits, targets):
    """Mean over the rows whose target is not -100, in nats."""
    rows = logits.reshape(-1, logits.shape[-1])
    targets = np.asarray(targets).reshape(-1)
    counted = np.nonzero(targets != -100)[0]
    z = rows.value[counted]
    z = z - z.max(-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    picked = np.arange(len(counted)), targets[counted]

    def back(g):
        d = np.exp(log_p)
        d[picked] -= 1
        whole = np.zeros(rows.shape)
        whole[counted] = d * g / len(counted)
        return whole

    return Var(-log_p[picked].mean(), ((rows, back),))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x.map(lambda v: v * sigmoid(v), lambda v: sigmoid(v) * (1 + v * (1 - sigmoid(v))))


def relu(x):
    return x.map(lambda v: np.maximum(v, 0), lambda v: (v > 0).astype(np.float64))


def tanh(x):
    return x.map(np.tanh, lambda v: 1 - np.tanh(v)**2)


def gelu(x):
    def phi(v):
        return 0.5 * (1 + vector_erf(v / np.sqrt(2)))

    return x.map(lambda v: v * phi(v), lambda v: phi(v) + v * np.exp(-v * v / 2) / np.sqrt(2 * np.pi))


def gelu_tanh(x):
    inner = (x + x.power(3) * 0.044715) * np.sqrt(2 / np.pi)
    return x * 0.5 * (tanh(inner) + 1.0)
