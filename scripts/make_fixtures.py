#!/usr/bin/python3
"""Makes the reference files under tests/data/torch and tests/data/families.

  Needs    python3-torch (1.13 was used) and python3-numpy; installs nothing.
  Usage    scripts/make_fixtures.py [--out DIR] [--check]
  Laws     seeded: run again on the same machine, it writes the same bytes.
           --check makes everything in a temporary folder and compares it with the folder named, byte by byte.

Everything random is rounded to the type it is stored in before it is used, and everything computed is computed in
float64 from those stored values. So a reader in double has nothing to round, and a reader in float rounds no weight.
Each attention is computed a second time, row by row in numpy over the visible keys only, and compared here.
"""
import argparse
import filecmp
import json
import math
import pathlib
import sys
import tempfile
import zlib

try:
    import numpy as np
    import torch
except ImportError as missing:
    sys.exit(f"{missing}: this script needs python3-torch and python3-numpy (Debian's packages; pip's do as well)")

SECOND_CHECK = 1e-13  # largest difference between two float64 ways to the same attention, relative to the largest entry


# ---------------------------------------------------------------------------------------------------------------------
# safetensors: 8 bytes of header length, a JSON header padded with spaces, the tensors without holes
# ---------------------------------------------------------------------------------------------------------------------
SIZES = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2, "BOOL": 1, "U8": 1}
NUMPY = {"F64": "<f8", "I64": "<i8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?", "U8": "u1"}


def to_stored(values, dtype):
    """The bytes' array of values in dtype; bfloat16 is rounded to nearest even by hand, as numpy has no such type."""
    values = np.asarray(values)
    if dtype != "BF16":
        return np.ascontiguousarray(values.astype(NUMPY[dtype]))
    bits = np.ascontiguousarray(values.astype("<f4")).view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def from_stored(array, dtype):
    """What a reader finds in the stored array, in float64 (exact for every type here)."""
    if dtype == "BF16":
        return (array.astype("<u4") << 16).view("<f4").astype(np.float64)
    return array.astype(np.float64)


def write_safetensors(path, tensors, metadata):
    """tensors: name -> (dtype, stored array). Wide types first, then by name, so that every tensor is aligned."""
    names = sorted(tensors, key=lambda name: (-SIZES[tensors[name][0]], name))
    header = {"__metadata__": {key: str(value) for key, value in metadata.items()}}
    offset = 0
    for name in names:
        dtype, array = tensors[name]
        end = offset + array.size * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensors[n][1].tobytes() for n in names))


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def random_of(name):
    """A generator of its own for every case, so that adding a case changes no other."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def expect_close(name, a, b, limit=SECOND_CHECK):
    a, b = np.asarray(a), np.asarray(b)
    error = np.abs(a - b).max() / max(1.0, np.abs(a).max())
    if not error <= limit:
        sys.exit(f"{name}: two ways to the same attention differ by {error:.3g}, expected at most {limit:g}")


def attention_by_rows(q, k, v, scale, bias):
    """One head in numpy, a row at a time over its visible keys: bias (L, S) is -inf where a key is hidden."""
    out = np.zeros((q.shape[0], v.shape[1]))
    for i in range(q.shape[0]):
        seen = np.flatnonzero(bias[i] > -np.inf)
        scores = np.array([math.fsum(q[i] * k[j]) * scale + bias[i, j] for j in seen])
        weights = np.exp(scores - scores.max())
        out[i] = weights @ v[seen] / math.fsum(weights)
    return out


# ---------------------------------------------------------------------------------------------------------------------
# A. Layers, by torch's own modules
# ---------------------------------------------------------------------------------------------------------------------
TORCH_NOTES = {
    "torch": torch.__version__,
    "batch_first": "true",
    "dropout": "0",
}
BOOL_MASK = "bool: true hides the key; float: added to the scaled scores"
PADDING = "computed like any other row, over the kept keys; nothing is zeroed"


def hidden_by(rng, shape, share):
    """A boolean mask, true where hidden; key 0 stays visible to every row, so that no row is empty."""
    mask = rng.random(shape) < share
    mask[..., 0] = False
    return mask


def padding(lengths, keys):
    return np.array([[j >= length for j in range(keys)] for length in lengths])


def causal(n):
    return np.triu(np.ones((n, n), dtype=bool), 1)


class Case:
    """Collects what one file holds; every tensor put in is rounded to half precision and given back in float64."""

    def __init__(self, name):
        self.name, self.rng, self.tensors = name, random_of("torch/" + name), {}
        self.metadata = dict(TORCH_NOTES)

    def put(self, name, values, dtype="F16"):
        stored = to_stored(values, dtype)
        self.tensors[name] = (dtype, stored)
        return torch.from_numpy(stored.copy()) if dtype == "BOOL" else torch.from_numpy(from_stored(stored, dtype))

    def normal(self, name, *shape):
        return self.put(name, self.rng.standard_normal(shape))

    def fill(self, module, gain=1.0):
        """Sets every parameter: matrices to gain / sqrt(in), norm weights about 1, the rest small but not zero."""
        module.double().eval()
        with torch.no_grad():
            for name, parameter in sorted(module.named_parameters()):
                draw = self.rng.standard_normal(tuple(parameter.shape))
                if "norm" in name and name.endswith("weight"):
                    draw = 1 + 0.2 * draw
                elif parameter.dim() == 2:
                    draw = draw * gain / math.sqrt(parameter.shape[1])
                elif parameter.dim() == 1:
                    draw = 0.3 * draw
                parameter.copy_(self.put(name, draw))
        return module

    def masks(self, attn_mask, key_padding_mask, names=("attn_mask", "key_padding_mask")):
        """Puts the masks given (numpy: bool, or float to be added) and returns them for torch."""
        found = []
        for name, mask in zip(names, (attn_mask, key_padding_mask)):
            if mask is not None:
                mask = self.put(name, mask, "BOOL" if mask.dtype == bool else "F16")
                self.metadata["masks"] = BOOL_MASK
                if name.endswith("padding_mask"):
                    self.metadata["padding_rows"] = PADDING
            found.append(mask)
        return found

    def save(self, out, result):
        self.put("output", result.detach().numpy(), "F64")
        write_safetensors(out / "torch" / (self.name + ".safetensors"), self.tensors, self.metadata)


def additive(mask, batch, heads, rows, keys, key_padding):
    """(batch, heads, rows, keys): what is added to the scores, from torch's 2-D or 3-D mask and its key padding."""
    bias = np.zeros((batch, heads, rows, keys))
    if mask is not None:
        mask = mask.numpy()
        mask = np.where(mask, -np.inf, 0.0) if mask.dtype == bool else mask
        bias = bias + (mask if mask.ndim == 2 else mask.reshape(batch, heads, rows, keys))
    if key_padding is not None:
        bias = bias + np.where(key_padding.numpy(), -np.inf, 0.0)[:, None, None, :]
    return bias


def own_mha(module, query, key, value, mask, key_padding):
    """MultiheadAttention from its formula in numpy: the second way. Returns (output, largest |score|)."""
    p = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    width, heads = module.embed_dim, module.num_heads
    if "in_proj_weight" in p:
        wq, wk, wv = np.split(p["in_proj_weight"], 3)
    else:
        wq, wk, wv = p["q_proj_weight"], p["k_proj_weight"], p["v_proj_weight"]
    bq, bk, bv = np.split(p["in_proj_bias"], 3) if "in_proj_bias" in p else (0.0, 0.0, 0.0)
    q, k, v = query.numpy() @ wq.T + bq, key.numpy() @ wk.T + bk, value.numpy() @ wv.T + bv
    batch, rows, keys = q.shape[0], q.shape[1], k.shape[1]
    bias = additive(mask, batch, heads, rows, keys, key_padding)
    extra = []  # rows after the last key that every query sees
    if "bias_k" in p:
        extra.append((p["bias_k"][0, 0], p["bias_v"][0, 0]))
    if module.add_zero_attn:
        extra.append((np.zeros(width), np.zeros(width)))
    for extra_k, extra_v in extra:
        k = np.concatenate([k, np.broadcast_to(extra_k, (batch, 1, width))], axis=1)
        v = np.concatenate([v, np.broadcast_to(extra_v, (batch, 1, width))], axis=1)
        bias = np.concatenate([bias, np.zeros(bias.shape[:3] + (1,))], axis=3)
    size = width // heads
    out, largest = np.zeros_like(q), 0.0
    for b in range(batch):
        for h in range(heads):
            at = slice(h * size, (h + 1) * size)
            out[b, :, at] = attention_by_rows(q[b, :, at], k[b, :, at], v[b, :, at], size ** -0.5, bias[b, h])
            largest = max(largest, np.abs(q[b, :, at] @ k[b, :, at].T).max() * size ** -0.5)
    return out @ p["out_proj.weight"].T + p.get("out_proj.bias", 0.0), largest


def mha(out, name, tokens, embed, heads, batch=1, keys=None, kdim=None, vdim=None, same_kv=True, bias=True,
        add_bias_kv=False, add_zero_attn=False, mask=None, key_padding=None, gain=1.0):
    """One file of MultiheadAttention; keys None is self-attention, and then only query is stored."""
    case = Case(name)
    module = case.fill(torch.nn.MultiheadAttention(embed, heads, bias=bias, add_bias_kv=add_bias_kv, kdim=kdim,
                                                   vdim=vdim, add_zero_attn=add_zero_attn, batch_first=True), gain)
    query = case.normal("query", batch, tokens, embed)
    key = value = query
    if keys is not None:
        key = value = case.normal("key", batch, keys, kdim or embed)
        if not same_kv:
            value = case.normal("value", batch, keys, vdim or embed)
    attn_mask, padded = case.masks(mask(case.rng) if mask else None, key_padding)
    # With grad enabled and parameters that require it, torch leaves its fast path alone.
    result, _ = module(query, key, value, attn_mask=attn_mask, key_padding_mask=padded, need_weights=False)
    own, largest = own_mha(module, query, key, value, attn_mask, padded)
    expect_close(name, result.detach().numpy(), own)
    case.metadata.update({
        "module": "torch.nn.MultiheadAttention", "embed_dim": embed, "num_heads": heads, "kdim": kdim or embed,
        "vdim": vdim or embed, "bias": str(bias).lower(), "add_bias_kv": str(add_bias_kv).lower(),
        "add_zero_attn": str(add_zero_attn).lower(), "largest_score": f"{largest:.4g}",
        "attention": "self" if keys is None else "cross, value is key" if same_kv else "cross"})
    case.save(out, result)
    return largest


def own_layer(layer, x, mask, key_padding, memory=None, memory_mask=None, memory_padding=None):
    """An encoder layer, or with memory a decoder layer, from the formula; attention by own_mha."""
    norm = lambda n, y: torch.nn.functional.layer_norm(y, n.normalized_shape, n.weight, n.bias, n.eps).detach()
    mha_of = lambda m, q, kv, am, kp: torch.from_numpy(own_mha(m, q, kv, kv, am, kp)[0])
    parts = [(layer.norm1, lambda y: mha_of(layer.self_attn, y, y, mask, key_padding))]
    if memory is not None:
        parts.append((layer.norm2, lambda y: mha_of(layer.multihead_attn, y, memory, memory_mask, memory_padding)))
    last = layer.norm2 if memory is None else layer.norm3
    parts.append((last, lambda y: layer.linear2(layer.activation(layer.linear1(y))).detach()))
    for n, part in parts:
        x = x + part(norm(n, x)) if layer.norm_first else norm(n, x + part(x))
    return x


def layer_metadata(case, module, heads, feedforward, activation, eps, norm_first):
    case.metadata.update({
        "module": "torch.nn." + module, "nhead": heads, "dim_feedforward": feedforward, "activation": activation,
        "layer_norm_eps": repr(eps), "norm_first": str(norm_first).lower()})


def encoder(out, name, tokens, width, heads, feedforward, batch=1, activation="relu", eps=1e-5, norm_first=False,
            mask=None, key_padding=None, layers=0, final_norm=False):
    """layers 0: one TransformerEncoderLayer; otherwise a TransformerEncoder of so many, with or without final norm."""
    case = Case(name)
    module = torch.nn.TransformerEncoderLayer(width, heads, feedforward, 0.0, activation, eps, True, norm_first)
    if layers:
        final = torch.nn.LayerNorm(width, eps=eps) if final_norm else None
        module = torch.nn.TransformerEncoder(module, layers, final, enable_nested_tensor=False)
    case.fill(module)
    src = case.normal("src", batch, tokens, width)
    src_mask, padded = case.masks(mask(case.rng) if mask else None, key_padding, ("src_mask", "src_key_padding_mask"))
    result = module(src, src_mask, src_key_padding_mask=padded)
    own = src
    for layer in module.layers if layers else [module]:
        own = own_layer(layer, own, src_mask, padded)
    if final_norm:
        own = module.norm(own).detach()
    expect_close(name, result.detach().numpy(), own.numpy())
    layer_metadata(case, "TransformerEncoder" if layers else "TransformerEncoderLayer", heads, feedforward, activation,
                   eps, norm_first)
    case.metadata.update({"d_model": width, "num_layers": max(1, layers), "final_norm": str(final_norm).lower()})
    case.save(out, result)


def decoder(out, name, tokens, keys, width, heads, feedforward, batch=1, activation="relu", eps=1e-5, norm_first=False,
            mask=None, memory_mask=None, key_padding=None, memory_padding=None):
    case = Case(name)
    module = torch.nn.TransformerDecoderLayer(width, heads, feedforward, 0.0, activation, eps, True, norm_first)
    case.fill(module)
    tgt, memory = case.normal("tgt", batch, tokens, width), case.normal("memory", batch, keys, width)
    tgt_mask, padded = case.masks(mask(case.rng) if mask else None, key_padding, ("tgt_mask", "tgt_key_padding_mask"))
    mem_mask, mem_padded = case.masks(memory_mask(case.rng) if memory_mask else None, memory_padding,
                                      ("memory_mask", "memory_key_padding_mask"))
    result = module(tgt, memory, tgt_mask, mem_mask, padded, mem_padded)
    expect_close(name, result.detach().numpy(),
                 own_layer(module, tgt, tgt_mask, padded, memory, mem_mask, mem_padded).numpy())
    layer_metadata(case, "TransformerDecoderLayer", heads, feedforward, activation, eps, norm_first)
    case.metadata["d_model"] = width
    case.save(out, result)


def make_torch(out):
    lower = lambda n: lambda rng: causal(n)
    random_mask = lambda *shape: lambda rng: hidden_by(rng, shape, 0.5)
    finite = lambda *shape: lambda rng: 2 * rng.standard_normal(shape)
    with_inf = lambda *shape: lambda rng: np.where(hidden_by(rng, shape, 0.4), -np.inf, 2 * rng.standard_normal(shape))

    mha(out, "mha_self", 11, 12, 3)
    mha(out, "mha_one_token", 1, 12, 2)
    mha(out, "mha_self_no_bias", 9, 12, 4, bias=False)
    mha(out, "mha_self_two_heads_of_12", 9, 24, 2)
    mha(out, "mha_cross", 7, 12, 3, batch=2, keys=13)
    mha(out, "mha_cross_kdim_vdim", 5, 12, 2, keys=17, kdim=10, vdim=14, same_kv=False)
    mha(out, "mha_cross_kdim_vdim_no_bias", 8, 12, 4, keys=6, kdim=14, vdim=9, same_kv=False, bias=False)
    mha(out, "mha_bool_mask", 14, 12, 3, mask=random_mask(14, 14))
    mha(out, "mha_float_mask", 11, 12, 2, mask=finite(11, 11))
    mha(out, "mha_float_mask_with_infinity", 13, 12, 3, mask=with_inf(13, 13))
    mha(out, "mha_bool_mask_per_head", 9, 12, 3, batch=2, mask=random_mask(6, 9, 9))
    mha(out, "mha_float_mask_per_head", 7, 12, 4, batch=2, mask=with_inf(8, 7, 7))
    mha(out, "mha_cross_bool_mask", 6, 12, 3, keys=15, mask=random_mask(6, 15))
    mha(out, "mha_causal", 23, 16, 4, mask=lower(23))
    mha(out, "mha_key_padding", 10, 12, 3, batch=3, key_padding=padding([10, 1, 6], 10))
    mha(out, "mha_cross_key_padding_holes", 5, 12, 2, batch=2, keys=12,
        key_padding=hidden_by(random_of("holes"), (2, 12), 0.5))
    mha(out, "mha_causal_key_padding", 12, 12, 4, batch=2, mask=lower(12), key_padding=padding([12, 7], 12))
    mha(out, "mha_float_mask_key_padding", 9, 12, 2, batch=2, mask=with_inf(9, 9), key_padding=padding([5, 9], 9))
    mha(out, "mha_zero_attn", 9, 12, 3, add_zero_attn=True)
    mha(out, "mha_bias_kv", 8, 12, 2, add_bias_kv=True)
    mha(out, "mha_bias_kv_zero_attn_masks", 7, 12, 3, batch=2, add_bias_kv=True, add_zero_attn=True, mask=lower(7),
        key_padding=padding([7, 4], 7))
    largest = mha(out, "mha_large_scores", 19, 16, 4, gain=6.0)
    largest = min(largest, mha(out, "mha_large_scores_causal", 17, 12, 2, gain=6.0, mask=lower(17)))
    if largest < 100:
        sys.exit(f"the largest score of the cases with large scores is {largest:.3g}, expected at least 100")

    encoder(out, "encoder_post_relu", 11, 12, 3, 20)
    encoder(out, "encoder_pre_gelu", 9, 12, 4, 18, activation="gelu", norm_first=True)
    encoder(out, "encoder_post_gelu_causal_eps", 15, 12, 2, 17, activation="gelu", eps=1e-2, mask=lower(15))
    encoder(out, "encoder_pre_relu_padding", 10, 12, 3, 20, batch=2, norm_first=True, key_padding=padding([10, 6], 10))
    encoder(out, "encoder_post_gelu_mask_padding", 8, 12, 2, 16, batch=2, activation="gelu", mask=random_mask(8, 8),
            key_padding=padding([5, 8], 8))
    encoder(out, "encoder_stack_post_relu_padding", 9, 12, 2, 16, batch=2, layers=2, final_norm=True,
            key_padding=padding([9, 4], 9))
    encoder(out, "encoder_stack_pre_gelu_causal", 13, 12, 4, 18, activation="gelu", eps=1e-3, norm_first=True, layers=2,
            final_norm=True, mask=lower(13))
    decoder(out, "decoder_post_relu_causal", 9, 14, 12, 3, 16, mask=lower(9))
    decoder(out, "decoder_pre_gelu_memory_padding", 7, 11, 12, 2, 18, batch=2, activation="gelu", norm_first=True,
            mask=lower(7), memory_padding=padding([11, 5], 11))


# ---------------------------------------------------------------------------------------------------------------------
# B. Families: folders as Hugging Face lays them out, and what a forward pass of our own gives
# ---------------------------------------------------------------------------------------------------------------------
VOCAB, LARGER = 32, 64  # small throughout: all files together stay under 600 kB
TORCH_DTYPE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Weights:
    """Random weights by name: rounded to their type when added, and read back in float64."""

    def __init__(self, family, dtype):
        self.rng, self.dtype, self.tensors, self.values = random_of("families/" + family), dtype, {}, {}

    def add(self, name, values, dtype=None):
        dtype = dtype or self.dtype
        stored = to_stored(values, dtype)
        self.tensors[name] = (dtype, stored)
        self.values[name] = torch.from_numpy(from_stored(stored, dtype))

    def __getitem__(self, name):
        return self.values[name]

    def linear(self, name, into, out, bias=False, gain=1.0):
        """nn.Linear: weight (out, in)."""
        self.add(name + ".weight", self.rng.standard_normal((out, into)) * gain / math.sqrt(into))
        if bias:
            self.add(name + ".bias", 0.3 * self.rng.standard_normal(out))

    def conv1d(self, name, into, out, gain=1.0):
        """GPT-2's Conv1D: weight (in, out), always with bias."""
        self.add(name + ".weight", self.rng.standard_normal((into, out)) * gain / math.sqrt(into))
        self.add(name + ".bias", 0.3 * self.rng.standard_normal(out))

    def embedding(self, name, rows, width, size=1.0):
        self.add(name, size * self.rng.standard_normal((rows, width)))

    def scale(self, name, width, about=1.0):
        self.add(name, about + 0.2 * self.rng.standard_normal(width))

    def layer_norm(self, name, width, names=("weight", "bias")):
        self.scale(f"{name}.{names[0]}", width)
        self.scale(f"{name}.{names[1]}", width, 0.0)

    # what the layers do, in float64
    def apply(self, name, x):
        """x W^T, and the bias if there is one."""
        y = x @ self[name + ".weight"].T
        return y + self[name + ".bias"] if name + ".bias" in self.values else y

    def apply_conv1d(self, name, x):
        return x @ self[name + ".weight"] + self[name + ".bias"]

    def apply_layer_norm(self, name, x, eps, names=("weight", "bias")):
        centred = x - x.mean(-1, keepdim=True)
        normal = centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + eps)
        return normal * self[f"{name}.{names[0]}"] + self[f"{name}.{names[1]}"]

    def apply_rms(self, name, x, eps, plus=0.0):
        """The epsilon stands inside the root; Gemma multiplies by 1 + weight (plus 1)."""
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * (plus + self[name + ".weight"])


def silu(x):
    return x / (1 + torch.exp(-x))


def gelu_erf(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2.0)))


def gelu_tanh(x):
    """gelu_new and gelu_pytorch_tanh are this one; Bloom's writes sqrt(2/pi) as 0.79788456, the same float."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def inverse_frequencies(size, theta, scaling=None):
    """One frequency a pair of columns, (size / 2); scaled as config.json's rope_scaling says."""
    frequency = theta ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    kind = None if scaling is None else scaling.get("rope_type", scaling.get("type"))
    if kind in (None, "default"):
        return frequency
    if kind == "linear":
        return frequency / scaling["factor"]
    assert kind == "llama3"
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)  # over the trained length
    share = ((turns - low) / (high - low)).clamp(0, 1)  # 0: slow, divided by factor; 1: fast, kept
    if not (bool((share == 0).any()) and bool((share == 1).any()) and bool(((share > 0) & (share < 1)).any())):
        sys.exit("llama3 scaling: this configuration does not have all three zones")
    return share * frequency + (1 - share) * frequency / scaling["factor"]


def rotate(x, frequency):
    """x (N, heads, size): column c turns with column c + r/2 among its first r = 2 len(frequency) columns."""
    half = len(frequency)
    angle = torch.arange(x.shape[0], dtype=torch.float64)[:, None] * frequency
    cos, sin = torch.cos(angle)[:, None, :], torch.sin(angle)[:, None, :]
    a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


def seen_causally(tokens, window=None):
    """(N, N), true where query i sees key j: j <= i, and i - j < window."""
    back = torch.arange(tokens)[:, None] - torch.arange(tokens)[None, :]
    return (back >= 0) & (back < (window or tokens))


def attend(q, k, v, scale, seen, alibi=None, cap=None):
    """q (N, heads, size), k and v (N, key heads, size): query head h reads key head h // (heads / key heads)."""
    group = q.shape[1] // k.shape[1]
    heads = []
    for h in range(q.shape[1]):
        qh, kh, vh = q[:, h], k[:, h // group], v[:, h // group]
        scores = qh @ kh.T * scale
        if alibi is not None:
            scores = scores + alibi[h] * torch.arange(k.shape[0], dtype=torch.float64)
        if cap:
            scores = cap * torch.tanh(scores / cap)
        heads.append(torch.softmax(scores.masked_fill(~seen, -math.inf), dim=-1) @ vh)
        # The second way: from the scores' difference to the plain ones, row by row over the visible keys.
        bias = np.where(seen.numpy(), (scores - qh @ kh.T * scale).numpy(), -np.inf)
        expect_close("attend", heads[-1].numpy(), attention_by_rows(qh.numpy(), kh.numpy(), vh.numpy(), scale, bias))
    return torch.cat(heads, dim=-1)


def heads_of(x, heads):
    return x.reshape(x.shape[0], heads, -1)


def write_family(out, name, config, weights, expected, notes, shards=1):
    folder = out / "families" / name
    architecture = config.pop("architecture")
    config.update({"architectures": [architecture], "transformers_version": "4.46.3"})
    config.setdefault("torch_dtype", TORCH_DTYPE[weights.dtype])
    if "dtype" in config:  # as newer versions write it
        config.pop("torch_dtype")
        config["transformers_version"] = "4.57.1"
    write_json(folder / "config.json", config)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", weights.tensors, {"format": "pt"})
    else:
        names, where, total = list(weights.tensors), {}, 0
        for shard in range(shards):
            file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
            first, end = len(names) * shard // shards, len(names) * (shard + 1) // shards
            part = {n: weights.tensors[n] for n in names[first:end]}
            write_safetensors(folder / file, part, {"format": "pt"})
            where.update({n: file for n in part})
            total += sum(array.size * SIZES[dtype] for dtype, array in part.values())
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    stored = {}
    for key, value in expected.items():
        value = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        dtype = "I64" if value.dtype.kind == "i" else "F64"
        stored[key] = (dtype, to_stored(value, dtype))
        if not np.isfinite(value).all():
            sys.exit(f"{name}: {key} is not finite")
    write_safetensors(folder / "expected.safetensors", stored,
                      {"family": name, "notes": notes})


def gated_config(architecture, kind, vocab, width, inner, heads, key_heads, **more):
    """What every Llama-like config.json says."""
    config = {
        "architecture": architecture, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": width, "initializer_range": 0.02, "intermediate_size": inner,
        "max_position_embeddings": 128, "model_type": kind, "num_attention_heads": heads, "num_hidden_layers": 2,
        "num_key_value_heads": key_heads, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "use_cache": True, "vocab_size": vocab}
    config.update(more)
    return config


def gated_weights(name, dtype, c, size, qkv_bias=False, out_bias=False, mlp_bias=False, head_norms=False, norms=(),
                  about=1.0, embedding=1.0, gain=1.0):
    """The parameters of a Llama-like model; norms are the RMSNorms a layer has."""
    w, width = Weights(name, dtype), c["hidden_size"]
    w.embedding("model.embed_tokens.weight", c["vocab_size"], width, embedding)
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        for part, heads in (("q", c["num_attention_heads"]), ("k", c["num_key_value_heads"]),
                            ("v", c["num_key_value_heads"])):
            w.linear(p + f"self_attn.{part}_proj", width, heads * size, qkv_bias, 1.0 if part == "v" else gain)
        w.linear(p + "self_attn.o_proj", c["num_attention_heads"] * size, width, out_bias)
        if head_norms:
            w.scale(p + "self_attn.q_norm.weight", size, 1.5)
            w.scale(p + "self_attn.k_norm.weight", size, 1.5)
        for part, into, out in (("gate", width, c["intermediate_size"]), ("up", width, c["intermediate_size"]),
                                ("down", c["intermediate_size"], width)):
            w.linear(p + f"mlp.{part}_proj", into, out, mlp_bias)
        for norm in norms or ("input_layernorm", "post_attention_layernorm"):
            w.scale(p + norm + ".weight", width, about)
    w.scale("model.norm.weight", width, about)
    if not c["tie_word_embeddings"]:
        w.linear("lm_head", width, c["vocab_size"])
    return w


def gated_forward(w, c, ids, size, windows=(None, None), act=silu, plus=0.0, normalizer=1.0, scale=None, cap=None,
                  final_cap=None, head_norms=False, four_norms=False):
    """Llama, Mistral, Qwen and Gemma: one residual stream, attention and a gated MLP. Returns the logits."""
    eps, frequency = c["rms_norm_eps"], inverse_frequencies(size, c["rope_theta"], c.get("rope_scaling"))
    x = w["model.embed_tokens.weight"][ids] * normalizer
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = w.apply_rms(p + "input_layernorm", x, eps, plus)
        q = heads_of(w.apply(p + "self_attn.q_proj", h), c["num_attention_heads"])
        k = heads_of(w.apply(p + "self_attn.k_proj", h), c["num_key_value_heads"])
        v = heads_of(w.apply(p + "self_attn.v_proj", h), c["num_key_value_heads"])
        if head_norms:
            q, k = w.apply_rms(p + "self_attn.q_norm", q, eps), w.apply_rms(p + "self_attn.k_norm", k, eps)
        attended = attend(rotate(q, frequency), rotate(k, frequency), v, scale or size ** -0.5,
                          seen_causally(len(ids), windows[layer]), cap=cap)
        attended = w.apply(p + "self_attn.o_proj", attended)
        if four_norms:
            x = x + w.apply_rms(p + "post_attention_layernorm", attended, eps, plus)
            h = w.apply_rms(p + "pre_feedforward_layernorm", x, eps, plus)
        else:
            x = x + attended
            h = w.apply_rms(p + "post_attention_layernorm", x, eps, plus)
        h = w.apply(p + "mlp.down_proj", act(w.apply(p + "mlp.gate_proj", h)) * w.apply(p + "mlp.up_proj", h))
        x = x + (w.apply_rms(p + "post_feedforward_layernorm", h, eps, plus) if four_norms else h)
    x = w.apply_rms("model.norm", x, eps, plus)
    logits = x @ w["model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"].T
    return final_cap * torch.tanh(logits / final_cap) if final_cap else logits


def ids_of(name, vocab, tokens=24):
    return random_of("ids/" + name).integers(3, vocab, tokens).astype(np.int64)


def make_gated(out):
    vocab, width, inner = LARGER, 24, 24

    def family(name, dtype, c, size, notes, shards=1, weights=None, **forward):
        w = gated_weights(name, dtype, c, size, **(weights or {}))
        ids = ids_of(name, c["vocab_size"])
        logits = gated_forward(w, c, ids, size, **forward)
        write_family(out, name, c, w, {"ids": ids, "logits": logits}, notes, shards)

    c = gated_config("LlamaForCausalLM", "llama", vocab, width, inner, 4, 2, attention_bias=False, head_dim=6,
                     mlp_bias=False, pretraining_tp=1, rope_scaling=None)
    family("llama", "F32", c, 6, "rotate_half pairs column c with c + head_dim/2; query head h reads key head h // 2")
    vocab, inner = VOCAB, 16
    c = gated_config("LlamaForCausalLM", "llama", vocab, width, inner, 4, 4, attention_bias=False, pretraining_tp=1,
                     rope_scaling={"factor": 2.0, "type": "linear"}, tie_word_embeddings=True)
    family("llama_tied_linear", "F16", c, 6, "every angle is halved; no head_dim in config.json")
    c = gated_config("LlamaForCausalLM", "llama", vocab, width, inner, 4, 2, attention_bias=True, head_dim=12,
                     mlp_bias=True, pretraining_tp=1, tie_word_embeddings=True, rope_scaling={
                         "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 64, "rope_type": "llama3"})
    family("llama3_rope", "BF16", c, 12,
           "pair 0 (wavelength 6) is kept, pair 1 (29) is blended, pairs 2 to 5 (135 and more) are divided by 8",
           weights=dict(qkv_bias=True, out_bias=True, mlp_bias=True))
    c = gated_config("MistralForCausalLM", "mistral", vocab, width, inner, 4, 2, head_dim=6, sliding_window=7)
    family("mistral", "BF16", c, 6, "query i sees keys j with 0 <= i - j < 7, in every layer", shards=2, windows=(7, 7))
    c = gated_config("Qwen2ForCausalLM", "qwen2", vocab, width, inner, 4, 2, max_window_layers=2, rms_norm_eps=1e-6,
                     rope_theta=1000000.0, sliding_window=5, tie_word_embeddings=True, use_sliding_window=False)
    family("qwen2", "BF16", c, 6, "biases on q, k and v only; sliding_window is there but use_sliding_window is false",
           weights=dict(qkv_bias=True))
    c = gated_config("Qwen3ForCausalLM", "qwen3", vocab, width, inner, 4, 2, attention_bias=False, head_dim=8,
                     layer_types=["full_attention"] * 2, max_window_layers=2, rms_norm_eps=1e-6, rope_scaling=None,
                     rope_theta=1000000.0, sliding_window=None, tie_word_embeddings=True, use_sliding_window=False,
                     dtype="bfloat16")
    family("qwen3", "BF16", c, 8, "RMSNorm over each head's columns of q and k, before the rotation",
           weights=dict(head_norms=True), head_norms=True)
    tanh = dict(hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6,
                attention_bias=False, pad_token_id=0, tie_word_embeddings=True)
    c = gated_config("GemmaForCausalLM", "gemma", vocab, width, inner, 4, 1, head_dim=8, rope_scaling=None, **tanh)
    family("gemma", "BF16", c, 8, "rows of the embedding times sqrt(24), not rounded; RMSNorm times 1 + weight",
           weights=dict(about=0.0, embedding=0.5), act=gelu_tanh, plus=1.0, normalizer=math.sqrt(width))
    c = gated_config("Gemma2ForCausalLM", "gemma2", vocab, width, inner, 4, 2, head_dim=8, attn_logit_softcapping=50.0,
                     cache_implementation="hybrid", final_logit_softcapping=30.0, query_pre_attn_scalar=11,
                     sliding_window=5, **tanh)
    family("gemma2", "BF16", c, 8, "scores: 50 tanh(q k^T / sqrt(11) / 50), then the mask; layer 0 sees 5 keys, layer "
           "1 all before; logits: 30 tanh(. / 30); x += norm(attention(norm(x))), x += norm(mlp(norm(x)))",
           weights=dict(about=0.0, embedding=1.0, gain=2.5, norms=(
               "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
               "post_feedforward_layernorm")),
           act=gelu_tanh, plus=1.0, normalizer=math.sqrt(width), scale=11 ** -0.5, cap=50.0, final_cap=30.0,
           four_norms=True, windows=(5, None))


def make_gpt2(out):
    name, vocab, width, heads, places, inner, eps = "gpt2", VOCAB, 24, 4, 28, 32, 1e-5
    c = {"architecture": "GPT2LMHeadModel", "activation_function": "gelu_new", "attn_pdrop": 0.1, "bos_token_id": 1,
         "embd_pdrop": 0.1, "eos_token_id": 1, "initializer_range": 0.02, "layer_norm_epsilon": eps,
         "model_type": "gpt2", "n_ctx": places, "n_embd": width, "n_head": heads, "n_inner": inner, "n_layer": 2,
         "n_positions": places, "reorder_and_upcast_attn": False, "resid_pdrop": 0.1,
         "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "summary_activation": None,
         "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
         "summary_use_proj": True, "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
         "use_cache": True, "vocab_size": vocab}
    w = Weights(name, "F16")
    w.embedding("wte.weight", vocab, width)
    w.embedding("wpe.weight", places, width, 0.5)
    for layer in range(2):
        p = f"h.{layer}."
        w.layer_norm(p + "ln_1", width)
        w.add(p + "attn.bias", np.tril(np.ones((1, 1, places, places))))  # a buffer of old files, not a bias
        w.conv1d(p + "attn.c_attn", width, 3 * width)
        w.conv1d(p + "attn.c_proj", width, width)
        w.layer_norm(p + "ln_2", width)
        w.conv1d(p + "mlp.c_fc", width, inner)
        w.conv1d(p + "mlp.c_proj", inner, width)
    w.layer_norm("ln_f", width)
    ids = ids_of(name, vocab)
    x = w["wte.weight"][ids] + w["wpe.weight"][:len(ids)]
    for layer in range(2):
        p = f"h.{layer}."
        q, k, v = w.apply_conv1d(p + "attn.c_attn", w.apply_layer_norm(p + "ln_1", x, eps)).split(width, dim=-1)
        attended = attend(heads_of(q, heads), heads_of(k, heads), heads_of(v, heads), (width // heads) ** -0.5,
                          seen_causally(len(ids)))
        x = x + w.apply_conv1d(p + "attn.c_proj", attended)
        inside = gelu_tanh(w.apply_conv1d(p + "mlp.c_fc", w.apply_layer_norm(p + "ln_2", x, eps)))
        x = x + w.apply_conv1d(p + "mlp.c_proj", inside)
    logits = w.apply_layer_norm("ln_f", x, eps) @ w["wte.weight"].T
    write_family(out, name, c, w, {"ids": ids, "logits": logits},
                 "Conv1D weights are (in, out); h.*.attn.bias is a causal mask kept as a buffer, to be ignored")


def make_bloom(out):
    name, vocab, width, heads, eps = "bloom", VOCAB, 18, 6, 1e-5
    c = {"architecture": "BloomForCausalLM", "apply_residual_connection_post_layernorm": False,
         "attention_dropout": 0.0, "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "bos_token_id": 1,
         "eos_token_id": 2, "hidden_dropout": 0.0, "hidden_size": width, "initializer_range": 0.02,
         "layer_norm_epsilon": eps, "masked_softmax_fusion": True, "model_type": "bloom", "n_head": heads,
         "n_inner": None, "n_layer": 2, "offset_alibi": 100, "pad_token_id": 3, "pretraining_tp": 1,
         "skip_bias_add": True, "skip_bias_add_qkv": False, "slow_but_exact": False, "unk_token_id": 0,
         "use_cache": True, "vocab_size": vocab}
    w = Weights(name, "F16")
    w.embedding("word_embeddings.weight", vocab, width)
    w.layer_norm("word_embeddings_layernorm", width)
    for layer in range(2):
        p = f"h.{layer}."
        w.layer_norm(p + "input_layernorm", width)
        w.linear(p + "self_attention.query_key_value", width, 3 * width, True)
        w.linear(p + "self_attention.dense", width, width, True)
        w.layer_norm(p + "post_attention_layernorm", width)
        w.linear(p + "mlp.dense_h_to_4h", width, 4 * width, True)
        w.linear(p + "mlp.dense_4h_to_h", 4 * width, width, True)
    w.layer_norm("ln_f", width)
    # 4 heads: 2^-2, 2^-4, 2^-6, 2^-8; the two beyond: the odd powers of 8 heads' base, 2^-1 and 2^-3.
    slopes = [2.0 ** -2, 2.0 ** -4, 2.0 ** -6, 2.0 ** -8, 2.0 ** -1, 2.0 ** -3]
    ids = ids_of(name, vocab)
    x = w.apply_layer_norm("word_embeddings_layernorm", w["word_embeddings.weight"][ids], eps)
    for layer in range(2):
        p = f"h.{layer}."
        fused = w.apply(p + "self_attention.query_key_value", w.apply_layer_norm(p + "input_layernorm", x, eps))
        fused = fused.reshape(len(ids), heads, 3, width // heads)
        attended = attend(fused[:, :, 0], fused[:, :, 1], fused[:, :, 2], (width // heads) ** -0.5,
                          seen_causally(len(ids)), alibi=slopes)
        x = x + w.apply(p + "self_attention.dense", attended)
        inside = gelu_tanh(w.apply(p + "mlp.dense_h_to_4h", w.apply_layer_norm(p + "post_attention_layernorm", x, eps)))
        x = x + w.apply(p + "mlp.dense_4h_to_h", inside)
    logits = w.apply_layer_norm("ln_f", x, eps) @ w["word_embeddings.weight"].T
    write_family(out, name, c, w, {"ids": ids, "logits": logits},
                 "query_key_value's rows are (head, q|k|v, column); score + slope * j with slopes 1/4, 1/16, 1/64, "
                 "1/256, 1/2, 1/8; gelu by tanh with sqrt(2/pi) in full")


def make_neox(out):
    name, vocab, width, heads, inner, eps = "gpt_neox", VOCAB, 16, 2, 24, 1e-5
    c = {"architecture": "GPTNeoXForCausalLM", "attention_bias": True, "attention_dropout": 0.0, "bos_token_id": 0,
         "classifier_dropout": 0.1, "eos_token_id": 0, "hidden_act": "gelu", "hidden_dropout": 0.0,
         "hidden_size": width, "initializer_range": 0.02, "intermediate_size": inner, "layer_norm_eps": eps,
         "max_position_embeddings": 128, "model_type": "gpt_neox", "num_attention_heads": heads,
         "num_hidden_layers": 2, "rope_scaling": None, "rope_theta": 10000, "rotary_emb_base": 10000,
         "rotary_pct": 0.5, "tie_word_embeddings": False, "use_cache": True, "use_parallel_residual": True,
         "vocab_size": vocab}
    w = Weights(name, "F16")
    w.embedding("gpt_neox.embed_in.weight", vocab, width)
    for layer in range(2):
        p = f"gpt_neox.layers.{layer}."
        w.layer_norm(p + "input_layernorm", width)
        w.layer_norm(p + "post_attention_layernorm", width)
        w.linear(p + "attention.query_key_value", width, 3 * width, True)
        w.linear(p + "attention.dense", width, width, True)
        w.linear(p + "mlp.dense_h_to_4h", width, inner, True)
        w.linear(p + "mlp.dense_4h_to_h", inner, width, True)
    w.layer_norm("gpt_neox.final_layer_norm", width)
    w.linear("embed_out", width, vocab)
    size = width // heads
    frequency = inverse_frequencies(int(size * 0.5), 10000.0)
    ids = ids_of(name, vocab)
    x = w["gpt_neox.embed_in.weight"][ids]
    for layer in range(2):
        p = f"gpt_neox.layers.{layer}."
        fused = w.apply(p + "attention.query_key_value", w.apply_layer_norm(p + "input_layernorm", x, eps))
        fused = fused.reshape(len(ids), heads, 3, size)
        attended = attend(rotate(fused[:, :, 0], frequency), rotate(fused[:, :, 1], frequency), fused[:, :, 2],
                          size ** -0.5, seen_causally(len(ids)))
        inside = gelu_erf(w.apply(p + "mlp.dense_h_to_4h", w.apply_layer_norm(p + "post_attention_layernorm", x, eps)))
        x = x + w.apply(p + "attention.dense", attended) + w.apply(p + "mlp.dense_4h_to_h", inside)
    logits = w.apply("embed_out", w.apply_layer_norm("gpt_neox.final_layer_norm", x, eps))
    write_family(out, name, c, w, {"ids": ids, "logits": logits},
                 "the first 4 of a head's 8 columns turn, c with c + 2; x += attention(ln1(x)) + mlp(ln2(x)); "
                 "query_key_value's rows are (head, q|k|v, column)")


def encoder_results(x):
    return {"hidden": x, "mean": x.mean(0), "cls": x[0]}


def make_bert(out, name, dtype, width, prefix, norm_names, architecture, kind="bert"):
    vocab, heads, inner, places = LARGER, 4, 24, 32
    roberta = kind == "roberta"
    types, eps = (1, 1e-5) if roberta else (2, 1e-12)
    c = {"architecture": architecture, "attention_probs_dropout_prob": 0.1, "classifier_dropout": None,
         "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": width, "initializer_range": 0.02,
         "intermediate_size": inner, "layer_norm_eps": eps, "max_position_embeddings": places, "model_type": kind,
         "num_attention_heads": heads, "num_hidden_layers": 2, "pad_token_id": 1 if roberta else 0,
         "position_embedding_type": "absolute", "type_vocab_size": types, "use_cache": True, "vocab_size": vocab}
    if roberta:
        c.update({"bos_token_id": 0, "eos_token_id": 2})
    w = Weights(name, dtype)
    e = prefix + "embeddings."
    w.embedding(e + "word_embeddings.weight", vocab, width)
    w.embedding(e + "position_embeddings.weight", places, width, 0.5)
    w.embedding(e + "token_type_embeddings.weight", types, width, 0.5)
    w.layer_norm(e + "LayerNorm", width, norm_names)
    if not prefix:
        w.add(e + "position_ids", np.arange(places)[None, :], "I64")  # a buffer of old files
    for layer in range(2):
        p = f"{prefix}encoder.layer.{layer}."
        for part in ("query", "key", "value"):
            w.linear(p + "attention.self." + part, width, width, True)
        w.linear(p + "attention.output.dense", width, width, True)
        w.layer_norm(p + "attention.output.LayerNorm", width, norm_names)
        w.linear(p + "intermediate.dense", width, inner, True)
        w.linear(p + "output.dense", inner, width, True)
        w.layer_norm(p + "output.LayerNorm", width, norm_names)
    w.linear(prefix + "pooler.dense", width, width, True)
    if prefix and not roberta:  # the heads of a pretrained file, which an encoder leaves unread
        w.add("cls.predictions.bias", 0.3 * w.rng.standard_normal(vocab))
        w.linear("cls.predictions.transform.dense", width, width, True)
        w.layer_norm("cls.predictions.transform.LayerNorm", width, norm_names)
        w.linear("cls.seq_relationship", width, 2, True)
    tokens = 26
    ids = ids_of(name, vocab, tokens)
    kinds = (np.arange(tokens) >= 15).astype(np.int64) * (types - 1)
    first = c["pad_token_id"] + 1 if roberta else 0  # RoBERTa counts places from the padding's id + 1
    x = (w[e + "word_embeddings.weight"][ids] + w[e + "token_type_embeddings.weight"][kinds]
         + w[e + "position_embeddings.weight"][first:first + tokens])
    x = w.apply_layer_norm(e + "LayerNorm", x, eps, norm_names)
    for layer in range(2):
        p = f"{prefix}encoder.layer.{layer}."
        q, k, v = (heads_of(w.apply(p + "attention.self." + part, x), heads) for part in ("query", "key", "value"))
        attended = attend(q, k, v, (width // heads) ** -0.5, torch.ones(tokens, tokens, dtype=torch.bool))
        x = w.apply_layer_norm(p + "attention.output.LayerNorm",
                               x + w.apply(p + "attention.output.dense", attended), eps, norm_names)
        inside = w.apply(p + "output.dense", gelu_erf(w.apply(p + "intermediate.dense", x)))
        x = w.apply_layer_norm(p + "output.LayerNorm", x + inside, eps, norm_names)
    expected = {"ids": ids, "token_type_ids": kinds, **encoder_results(x)}
    expected["pooler"] = torch.tanh(w.apply(prefix + "pooler.dense", x[0]))
    write_family(out, name, c, w, expected,
                 "post-norm; gelu by erf; pooler = tanh(W cls + b)" + (
                     "; the position of token t is t + 2" if roberta else "")
                 + ("; LayerNorm's weight and bias are named gamma and beta" if norm_names[0] == "gamma" else ""))


def make_distilbert(out):
    name, vocab, width, heads, inner, places, eps = "distilbert", LARGER, 16, 4, 24, 32, 1e-12
    c = {"architecture": "DistilBertModel", "activation": "gelu", "attention_dropout": 0.1, "dim": width,
         "dropout": 0.1, "hidden_dim": inner, "initializer_range": 0.02, "max_position_embeddings": places,
         "model_type": "distilbert", "n_heads": heads, "n_layers": 2, "pad_token_id": 0, "qa_dropout": 0.1,
         "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": vocab}
    w = Weights(name, "F16")
    w.embedding("embeddings.word_embeddings.weight", vocab, width)
    w.embedding("embeddings.position_embeddings.weight", places, width, 0.5)
    w.layer_norm("embeddings.LayerNorm", width)
    for layer in range(2):
        p = f"transformer.layer.{layer}."
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            w.linear(p + "attention." + part, width, width, True)
        w.layer_norm(p + "sa_layer_norm", width)
        w.linear(p + "ffn.lin1", width, inner, True)
        w.linear(p + "ffn.lin2", inner, width, True)
        w.layer_norm(p + "output_layer_norm", width)
    ids = ids_of(name, vocab)
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:len(ids)]
    x = w.apply_layer_norm("embeddings.LayerNorm", x, eps)
    for layer in range(2):
        p = f"transformer.layer.{layer}."
        q, k, v = (heads_of(w.apply(p + "attention." + part, x), heads) for part in ("q_lin", "k_lin", "v_lin"))
        attended = attend(q, k, v, (width // heads) ** -0.5, torch.ones(len(ids), len(ids), dtype=torch.bool))
        x = w.apply_layer_norm(p + "sa_layer_norm", x + w.apply(p + "attention.out_lin", attended), eps)
        inside = w.apply(p + "ffn.lin2", gelu_erf(w.apply(p + "ffn.lin1", x)))
        x = w.apply_layer_norm(p + "output_layer_norm", x + inside, eps)
    write_family(out, name, c, w, {"ids": ids, **encoder_results(x)},
                 "post-norm; gelu by erf; no token types, no pooler; LayerNorm's epsilon 1e-12 is not in config.json")


def make_families(out):
    make_gated(out)
    make_gpt2(out)
    make_bloom(out)
    make_neox(out)
    make_bert(out, "bert", "F32", 24, "", ("weight", "bias"), "BertModel")
    make_bert(out, "bert_prefixed", "F16", 16, "bert.", ("gamma", "beta"), "BertForPreTraining")
    make_bert(out, "roberta", "F16", 16, "roberta.", ("weight", "bias"), "RobertaForMaskedLM", "roberta")
    make_distilbert(out)


def main():
    parser = argparse.ArgumentParser(description="Makes tests/data/torch and tests/data/families.")
    parser.add_argument("--out", default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "data",
                        type=pathlib.Path)
    parser.add_argument("--check", action="store_true", help="write nothing; compare with what is in --out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one order of summation
    with tempfile.TemporaryDirectory() as temporary:
        out = pathlib.Path(temporary) if arguments.check else arguments.out
        make_torch(out)
        make_families(out)
        if arguments.check:
            made = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
            wrong = [str(path) for path in made if not (arguments.out / path).is_file()
                     or not filecmp.cmp(out / path, arguments.out / path, shallow=False)]
            if wrong:
                sys.exit("not the same bytes: " + ", ".join(wrong))
            print(f"{len(made)} files, the same bytes as in {arguments.out}")


if __name__ == "__main__":
    main()
