#!/usr/bin/env python3
"""Writes the two models of one node that attention.js runs: make_models.py FOLDER

full.onnx is ONNX Runtime's MultiHeadAttention, causal.onnx its GroupQueryAttention; 8 heads of 64, batch 1, float32.
Needs the onnx package (Debian: python3-onnx).
"""
import pathlib
import sys

import onnx
from onnx import TensorProto, helper

HEADS = 8
HEAD_DIM = 64


def rows(name):
    """All heads of a token in one row: (1, N, heads * head_dim)."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "N", HEADS * HEAD_DIM])


def cache(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, HEADS, "N", HEAD_DIM])


def write(path, node, inputs, outputs):
    graph = helper.make_graph([node], path.stem, inputs, outputs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [rows("query"), rows("key"), rows("value")]
    full = helper.make_node(
        "MultiHeadAttention", ["query", "key", "value"], ["output"], domain="com.microsoft", num_heads=HEADS
    )
    write(folder / "full.onnx", full, inputs, [rows("output")])
    # The operator is made for decoding: it takes the lengths of a key/value cache and gives the cache back.
    lengths = [
        helper.make_tensor_value_info("last_key", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total_keys", TensorProto.INT32, [1]),
    ]
    causal = helper.make_node(
        "GroupQueryAttention",
        ["query", "key", "value", "", "", "last_key", "total_keys"],
        ["output", "present_key", "present_value"],
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=HEADS,
    )
    write(
        folder / "causal.onnx", causal, inputs + lengths, [rows("output"), cache("present_key"), cache("present_value")]
    )


if __name__ == "__main__":
    main()
