"""A second Glow, in float64, which was written from docs/format.md alone, by someone who had not seen the code.

`tests.glow.test_conventions` compares it with `glow.Glow`, so that the document stays complete. It shares no code with
`glow`: keep it so, and change it only with the document.
"""

from __future__ import annotations

import json
import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

DEFAULTS = {
    "image_shape": [1, 32, 32],
    "levels": 3,
    "depth": 32,
    "width": 512,
    "permutation": "1x1",
    "coupling": "affine",
    "scale": "sigmoid",
    "dequantization": "uniform",
    "input": "linear",
    "num_classes": None,
    "bits": 8,
    "seed": 0,
}
A = 0.001
G = 0x9E3779B97F4A7C15
M64 = 2**64 - 1


# ---- noise ----
def mix(w):
    with np.errstate(over="ignore"):
        w = np.asarray(w, np.uint64) + np.uint64(G)
        w = (w ^ (w >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        w = (w ^ (w >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return w ^ (w >> np.uint64(31))


def noise(indices, shape, seed):
    """v, float64 (N, C, H, W)."""
    channels, height, width = shape
    n = np.array([int(seed) & M64], np.uint64)
    i = np.array([int(j) & M64 for j in indices], np.uint64)
    with np.errstate(over="ignore"):
        p = np.arange(channels * height * width, dtype=np.uint64) * np.uint64(G)
        word = mix(mix(mix(n) + i)[:, None] + p[None, :])
    v = (word >> np.uint64(40)).astype(np.float64) / 2.0**24
    return torch.from_numpy(v.reshape(len(i), *shape))


def pad(images, height, width):
    h, w = images.shape[-2:]
    top, left = (height - h) // 2, (width - w) // 2
    return F.pad(images, (left, width - w - left, top, height - h - top))


def total(x):
    return x.flatten(1).sum(1)


def log_normal(z, mean, log_sd):
    return total(-((z - mean) ** 2) / (2 * torch.exp(2 * log_sd)) - log_sd - math.log(2 * math.pi) / 2)


# ---- spline ----
def spline_knots(params):
    """params (N, 23, c, H, W) -> widths, heights (8), left/lower edges (8), slopes (9), on dim 1."""
    widths = 8 * (0.02 + 0.84 * torch.softmax(params[:, 0:8], 1))
    heights = 8 * (0.02 + 0.84 * torch.softmax(params[:, 8:16], 1))
    x0 = torch.cumsum(widths, 1) - widths - 4
    y0 = torch.cumsum(heights, 1) - heights - 4
    inner = torch.exp(3 * torch.tanh(params[:, 16:23] / 3))
    one = torch.ones_like(inner[:, :1])
    slopes = torch.cat([one, inner, one], 1)
    return widths, heights, x0, y0, slopes


def pick(params, value, inverse):
    widths, heights, x0, y0, slopes = spline_knots(params)
    edges = y0 if inverse else x0
    which = ((value[:, None] >= edges).sum(1, keepdim=True) - 1).clamp(0, 7)

    def g(t):
        return torch.gather(t, 1, which)[:, 0]

    return g(x0), g(y0), g(widths), g(heights), g(slopes[:, :-1]), g(slopes[:, 1:])


def spline(x, params):
    inside = x.abs() < 4
    xi = torch.where(inside, x, torch.zeros_like(x))
    x0, y0, w, h, d0, d1 = pick(params, xi, False)
    q, s = (xi - x0) / w, h / w
    n = s + (d1 + d0 - 2 * s) * q * (1 - q)
    y = y0 + h * (s * q**2 + d0 * q * (1 - q)) / n
    d = s**2 * (d1 * q**2 + 2 * s * q * (1 - q) + d0 * (1 - q) ** 2) / n**2
    return torch.where(inside, y, x), torch.where(inside, torch.log(d), torch.zeros_like(x))


def spline_inverse(z, params):
    inside = z.abs() < 4
    zi = torch.where(inside, z, torch.zeros_like(z))
    x0, y0, w, h, d0, d1 = pick(params, zi, True)
    s, v = h / w, zi - y0
    a = h * (s - d0) + v * (d1 + d0 - 2 * s)
    b = h * d0 - v * (d1 + d0 - 2 * s)
    c = -s * v
    q = 2 * c / (-b - torch.sqrt(b * b - 4 * a * c))
    return torch.where(inside, x0 + w * q, z)


class Reference:
    def __init__(self, config, tensors):
        self.config = {**DEFAULTS, **config}
        self.t = {k: (v.double() if v.is_floating_point() else v) for k, v in tensors.items()}
        c = self.config
        self.shape, self.L, self.K, self.bits = tuple(c["image_shape"]), c["levels"], c["depth"], c["bits"]
        self.D = math.prod(self.shape)
        self.classes = c["num_classes"]

    # ---- networks ----
    def scaled_conv(self, x, name):
        out = F.conv2d(x, self.t[name + "conv.weight"], self.t[name + "conv.bias"], padding=1)
        return out * torch.exp(3 * self.t[name + "logs"])[None, :, None, None]

    def network(self, b, name):
        return self.board_network(b, name) if name.startswith("checkerboard.") else self.network_of_image(b, name)

    def network_of_image(self, b, name):
        h = self.conv(b, name + "conv1.")
        if self.config.get("network") == "attention":
            h = h + self.t[name + "positions"]
            tokens = self.block(h.flatten(2).transpose(1, 2), name + "block.")
            return self.scaled_conv(tokens.transpose(1, 2).reshape(h.shape), name + "conv2.")
        if self.config.get("network") == "residual":
            h = h + self.conv(F.relu(self.conv(F.relu(h), name + "conv2.")), name + "conv3.")
            return self.scaled_conv(F.relu(h), name + "conv4.")
        return self.scaled_conv(F.relu(self.conv(F.relu(h), name + "conv2.")), name + "conv3.")

    def block(self, x, name):
        """Pre-norm attention and MLP, with the softmax written out; x (B, N, W)."""
        heads = self.config.get("heads", 4)
        queries, keys, values = (
            part.unflatten(2, (heads, -1)).transpose(1, 2)
            for part in self.linear(self.norm(x, name + "norm1."), name + "self_attn.in_proj_").chunk(3, 2)
        )
        scores = torch.einsum("bhnd,bhmd->bhnm", queries, keys) / queries.shape[-1] ** 0.5
        weights = torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True)
        mixed = torch.einsum("bhnm,bhmd->bnhd", weights, values).flatten(2)
        x = x + self.linear(mixed, name + "self_attn.out_proj.")
        hidden = self.linear(self.norm(x, name + "norm2."), name + "linear1.")
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2  # GELU
        return x + self.linear(hidden, name + "linear2.")

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.t[name + "weight"] + self.t[name + "bias"]

    def linear(self, x, name):
        return x @ self.t[name + "weight"].T + self.t[name + "bias"]

    def conv(self, x, name):
        weight = self.t[name + "weight"]
        return F.conv2d(x, weight, self.t[name + "bias"], padding=weight.shape[-1] // 2)

    # ---- image to first level ----
    def dequantize(self, images, v):
        k = images.double()
        step = torch.floor(k / 2 ** (8 - self.bits))
        if self.config["dequantization"] == "uniform":
            u, log_det = v, torch.zeros(len(k), dtype=torch.float64)
        else:
            m = (step + 0.5) / 2**self.bits - 0.5
            e = F.pixel_unshuffle(torch.special.ndtri(v.clamp(2.0**-25, 1 - 2.0**-24)), 2)
            t, s = self.network(F.pixel_unshuffle(m, 2), "noise.network.").chunk(2, 1)
            r = 2 * torch.tanh(s / 2)
            y = e * torch.exp(r) + t
            u = torch.special.ndtr(F.pixel_shuffle(y, 2)).clamp(max=1 - 2.0**-24)
            log_det = total(r + (e**2 - y**2) / 2)
        return (step + u) / 2**self.bits - 0.5, log_det

    def enter(self, x):
        if self.config["input"] == "linear":
            return x, torch.zeros(len(x), dtype=torch.float64)
        p = A + (1 - 2 * A) * (x + 0.5)
        return torch.log(p) - torch.log(1 - p), total(math.log(1 - 2 * A) - torch.log(p) - torch.log(1 - p))

    def leave(self, z):
        return z if self.config["input"] == "linear" else (torch.sigmoid(z) - A) / (1 - 2 * A) - 0.5

    # ---- steps ----
    def normalizes(self):
        return self.config.get("actnorm", "on") == "on"

    def matrix(self, name):
        low, up = self.t[name + "lower"], self.t[name + "upper"]
        s = self.t[name + "sign_s"] * torch.exp(self.t[name + "log_s"])
        lower = torch.tril(low, -1) + torch.eye(len(low), dtype=torch.float64)
        return self.t[name + "permutation"] @ lower @ (torch.triu(up, 1) + torch.diag(s))

    def affine(self, b, name):
        out = self.network(b, name)
        if self.config["coupling"] == "additive":
            return out, torch.zeros_like(out)
        t, s = out.chunk(2, 1)
        scale = self.config["scale"]
        if scale == "sigmoid":
            r = F.logsigmoid(s + 2)
        elif scale == "bounded":
            r = 2 * torch.tanh(s / 2)
        else:
            r = torch.log(math.exp(-2) + (1 - math.exp(-2)) * torch.sigmoid(s + 2))
        return t, r

    def spline_parameters(self, b, name):
        out = self.network(b, name)
        return out.reshape(len(out), 23, out.shape[1] // 23, *out.shape[2:])

    # ---- checkerboard ----
    def colours(self, x):
        """(N, C, H, W) -> (N, C, H, W / 2) of colour 0 and of colour 1."""
        row, column = torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij")
        odd = ((row + column) % 2).bool()
        half = (*x.shape[:3], x.shape[3] // 2)
        return x[..., ~odd].reshape(half), x[..., odd].reshape(half)

    def board(self, even, odd):
        """The opposite of colours."""
        x = torch.zeros(*even.shape[:3], 2 * even.shape[3], dtype=even.dtype)
        for row in range(x.shape[2]):
            x[:, :, row, row % 2 :: 2] = even[:, :, row]
            x[:, :, row, 1 - row % 2 :: 2] = odd[:, :, row]
        return x

    def board_network(self, b, name):
        seen = int(name.split(".")[2]) % 2
        known = torch.cat([b, torch.ones_like(b[:, :1])], 1)
        pair = [torch.zeros_like(known), known] if seen else [known, torch.zeros_like(known)]
        out = self.colours(self.network_of_image(self.board(*pair), name))
        return out[1 - seen]

    def checkerboard(self, z, inverse=False):
        n = self.config.get("checkerboard", 0)
        log_det = torch.zeros(len(z), dtype=torch.float64)
        if not n:
            return z, log_det
        x = torch.cat(self.colours(z)[:: -1 if inverse and n % 2 else 1], 1)
        for i in reversed(range(n)) if inverse else range(n):
            name = f"checkerboard.steps.{i}."
            if inverse:
                x = self.step_inverse(x, name, "order")
            else:
                x, d = self.step(x, name, "order")
                log_det = log_det + d
        first, second = x.chunk(2, 1)
        if n % 2 and not inverse:
            first, second = second, first
        return self.board(first, second), log_det

    def step(self, x, name, permutation=None):
        hw = x.shape[2] * x.shape[3]
        log_det = torch.zeros(len(x), dtype=torch.float64)
        if self.normalizes():
            bias, ls = self.t[name + "actnorm.bias"], self.t[name + "actnorm.log_scale"]
            x = (x + bias[None, :, None, None]) * torch.exp(ls)[None, :, None, None]
            log_det = log_det + hw * ls.sum()
        if (permutation or self.config["permutation"]) == "1x1":
            x = torch.einsum("ij,njhw->nihw", self.matrix(name + "permutation."), x)
            log_det = log_det + hw * self.t[name + "permutation.log_s"].sum()
        else:
            x = x[:, self.t[name + "permutation.order"]]
        a, b = x.chunk(2, 1)
        if self.config["coupling"] == "spline":
            a, logs = spline(a, self.spline_parameters(b, name + "coupling.network."))
        else:
            t, logs = self.affine(b, name + "coupling.network.")
            a = (a + t) * torch.exp(logs)
        return torch.cat([a, b], 1), log_det + total(logs)

    def step_inverse(self, z, name, permutation=None):
        a, b = z.chunk(2, 1)
        if self.config["coupling"] == "spline":
            a = spline_inverse(a, self.spline_parameters(b, name + "coupling.network."))
        else:
            t, r = self.affine(b, name + "coupling.network.")
            a = a * torch.exp(-r) - t
        z = torch.cat([a, b], 1)
        if (permutation or self.config["permutation"]) == "1x1":
            z = torch.einsum("ij,njhw->nihw", torch.linalg.inv(self.matrix(name + "permutation.")), z)
        else:
            x = torch.empty_like(z)
            x[:, self.t[name + "permutation.order"]] = z
            z = x
        if not self.normalizes():
            return z
        bias, ls = self.t[name + "actnorm.bias"], self.t[name + "actnorm.log_scale"]
        return z * torch.exp(-ls)[None, :, None, None] - bias[None, :, None, None]

    # ---- flow ----
    def split_prior(self, g, level):
        return self.scaled_conv(g, f"levels.{level}.split.conv.").chunk(2, 1)

    def top_prior(self, label=None):
        mean, log_sd = self.t["top.mean"], self.t["top.log_sd"]
        if label is None:
            mean, log_sd = mean[None], log_sd[None]
        else:
            row = self.t["top.classes.weight"][label]
            dm, ds = row.chunk(2, -1)
            mean, log_sd = mean + dm, log_sd + ds
        return mean[:, :, None, None], log_sd[:, :, None, None]

    def forward(self, x):
        """x -> latents, log det of the input and all levels, and log N of the latents but the top one."""
        z, log_det = self.enter(x)
        z, d = self.checkerboard(z)
        log_det = log_det + d
        latents, log_n = [], torch.zeros(len(x), dtype=torch.float64)
        for level in range(self.L):
            z = F.pixel_unshuffle(z, 2)
            for k in range(self.K):
                z, d = self.step(z, f"levels.{level}.steps.{k}.")
                log_det = log_det + d
            if level < self.L - 1:
                z, latent = z.chunk(2, 1)
                log_n = log_n + log_normal(latent, *self.split_prior(z, level))
                latents.append(latent)
        return [*latents, z], log_det, log_n

    def log_likelihood(self, images, indices, seed=0, labels=None):
        images = torch.as_tensor(images)
        x, log_det = self.dequantize(images, noise(indices, self.shape, seed))
        latents, d, log_n = self.forward(x)
        top = latents[-1]
        if self.classes is None:
            log_top = log_normal(top, *self.top_prior())
        elif labels is not None:
            log_top = log_normal(top, *self.top_prior(torch.as_tensor(labels)))
        else:
            each = [log_normal(top, *self.top_prior(torch.full((len(top),), y))) for y in range(self.classes)]
            log_top = torch.logsumexp(torch.stack(each), 0) - math.log(self.classes)
        return log_det + d + log_n + log_top - self.D * self.bits * math.log(2)

    def bits_per_dim(self, *args, **kw):
        return -self.log_likelihood(*args, **kw) / (self.D * math.log(2))

    def _down(self, top, latent_of):
        z = top
        for level in reversed(range(self.L)):
            if level < self.L - 1:
                z = torch.cat([z, latent_of(level, z)], 1)
            for k in reversed(range(self.K)):
                z = self.step_inverse(z, f"levels.{level}.steps.{k}.")
            z = F.pixel_shuffle(z, 2)
        return self.leave(self.checkerboard(z, inverse=True)[0])

    def inverse(self, latents):
        latents = [torch.as_tensor(z).double() for z in latents]
        return self._down(latents[-1], lambda level, _: latents[level])

    def quantize(self, x):
        k = torch.floor((x + 0.5) * 2**self.bits)
        k = torch.where(torch.isnan(k), torch.zeros_like(k), k).clamp(0, 2**self.bits - 1)
        return (k * 2 ** (8 - self.bits)).to(torch.uint8)

    def sample(self, n, temperature=1.0, generator=None, labels=None, raw=False):
        channels, height, width = self.shape
        if self.classes is None:
            mean, log_sd = self.top_prior()
        else:
            if labels is None:
                labels = torch.randint(self.classes, (n,), generator=generator)
            mean, log_sd = self.top_prior(torch.as_tensor(labels))

        def draw(factor, level):
            shape = (n, factor * channels, height // 2**level, width // 2**level)
            return torch.randn(shape, generator=generator, dtype=torch.float32).double()

        top = mean + temperature * torch.exp(log_sd) * draw(2 ** (self.L + 1), self.L)

        def latent_of(level, g):
            m, s = self.split_prior(g, level)
            return m + temperature * torch.exp(s) * draw(2 ** (level + 1), level + 1)

        x = self._down(top, latent_of)
        return x if raw else self.quantize(x)


def load(folder):
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    return Reference(config, load_file(os.path.join(folder, "model.safetensors")))
