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
    "layouts": "weights (out, in) as nn.Linear: y = x W^T + b; query, key, value, output (batch, tokens, width)",
}
BOOL_MASK = "true hides: a true entry of attn_mask or key_padding_mask removes that key"
PADDING = "query rows at padded places are computed like any other row, over the kept keys; nothing is zeroed"


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
    """Collects what one file holds; every tensor put in is rounded to float32 first and given back in float64."""

    def __init__(self, name):
        self.name, self.rng, self.tensors = name, random_of("torch/" + name), {}
        self.metadata = dict(TORCH_NOTES)

    def put(self, name, values, dtype="F32"):
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
                mask = self.put(name, mask, "BOOL" if mask.dtype == bool else "F32")
                self.metadata["masks"] = BOOL_MASK + "; a float mask is added to the scaled scores"
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
        "layer_norm_eps": repr(eps), "norm_first": str(norm_first).lower(),
        "formula": "norm_first: x += part(norm(x)); otherwise x = norm(x + part(x)); gelu is 0.5 x (1 + erf(x/sqrt 2))"})


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
    mha(out, "mha_self_two_heads_of_12", 13, 24, 2)
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
    mha(out, "mha_cross_key_padding_holes", 5, 12, 2, batch=2, keys=12, key_padding=hidden_by(random_of("holes"), (2, 12), 0.5))
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
        if arguments.check:
            made = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
            wrong = [str(path) for path in made if not (arguments.out / path).is_file()
                     or not filecmp.cmp(out / path, arguments.out / path, shallow=False)]
            if wrong:
                sys.exit("not the same bytes: " + ", ".join(wrong))
            print(f"{len(made)} files, the same bytes as in {arguments.out}")


if __name__ == "__main__":
    main()
