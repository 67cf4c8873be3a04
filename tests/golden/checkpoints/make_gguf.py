"""Writes gguf/ beside this file from llama/ (see make_checkpoints.py): the model as GGUF in plain and quantised types
with a small tokenizer, the values that the `gguf` package reads back from it, and single blocks of every quantised type.

python3 make_gguf.py [OUT]             needs gguf, numpy, safetensors (made with gguf 0.19)
"""
import json
import os
import sys

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, TokenType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file, save_file

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
QUANTISED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"]
LAYER_NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
               "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
               "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
# The types that the matrices of the quantised file have in turn.
TURN = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"]


def gguf_name(name):
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{LAYER_NAMES[part]}.{kind}"


def interleaved(rows, heads):
    """Rows of q or k for rotary embedding of neighbours, from rows for rotary embedding of halves."""
    width = rows.shape[0] // heads
    order = [h * width + s * (width // 2) + j for h in range(heads) for j in range(width // 2) for s in range(2)]
    return rows[order]


def restored(rows, heads):
    width = rows.shape[0] // heads
    out = np.empty_like(rows)
    for h in range(heads):
        for j in range(width // 2):
            for s in range(2):
                out[h * width + s * (width // 2) + j] = rows[h * width + 2 * j + s]
    return out


def byte_alphabet():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable}
    table.update({b: chr(256 + i) for i, b in enumerate(others)})
    return [table[b] for b in range(256)]


def write_model(config, weights, path, types, values, pre):
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(writer, pre)
    turn = 0
    for name in sorted(weights):
        value = weights[name]
        heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}.get(
            name.split("self_attn.")[1][0] if "self_attn." in name else "", 0)
        stored = interleaved(value, heads) if heads else value
        kind = "F32"
        if value.ndim == 2:
            kind = types[turn % len(types)]
            turn += 1
        data = quantize(stored, Type[kind])
        writer.add_tensor(gguf_name(name), data, raw_dtype=Type[kind])
        back = dequantize(data, Type[kind]).reshape(value.shape).astype(np.float32)
        values[name] = restored(back, heads) if heads else back
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer, pre):
    tokens = ["<|begin|>", "<|end|>"] + byte_alphabet() + ["th", "the", "\u0120the"]
    types = [TokenType.CONTROL, TokenType.USER_DEFINED] + [TokenType.NORMAL] * (len(tokens) - 2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["t h", "th e", "\u0120 the"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def write_blocks(path):
    """Three blocks of each type: random bits, with scales that are ordinary numbers."""
    random = np.random.default_rng(6)
    tensors = {}
    for name in QUANTISED:
        block, size = GGML_QUANT_SIZES[Type[name]]
        data = random.integers(0, 256, (3, size), dtype=np.uint8)
        scales = {"Q6_K": [208]}.get(name, [0, 2] if name in ("Q4_1", "Q5_1", "Q4_K") else [0])
        for at in scales:
            half = random.uniform(-0.1, 0.1, 3).astype(np.float16)
            data[:, at:at + 2] = half.view(np.uint8).reshape(3, 2)
        tensors[name + ".blocks"] = data
        tensors[name + ".values"] = dequantize(data, Type[name]).astype(np.float32).reshape(3, block)
    save_file(tensors, path)


def main():
    folder = os.path.join(OUT, "gguf")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(OUT, "llama", "config.json")) as file:
        config = json.load(file)
    weights = load_file(os.path.join(OUT, "llama", "model.safetensors"))
    write_model(config, weights, os.path.join(folder, "plain.gguf"), ["F32"], {}, "smollm")
    values = {}
    write_model(config, weights, os.path.join(folder, "quantised.gguf"), TURN, values, "gpt-2")
    save_file(values, os.path.join(folder, "quantised.safetensors"))
    write_blocks(os.path.join(folder, "blocks.safetensors"))


main()
