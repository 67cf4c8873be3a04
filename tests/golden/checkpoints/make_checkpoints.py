"""Writes the folders beside this file: one tiny random TinyLLaVA (Phi + SigLIP) and one tiny Llama of transformers' own
classes, saved in every layout that checkpoints are published in, with the logits that those classes give.

python3 make_checkpoints.py [OUT]      needs torch, transformers, safetensors (made with 2.11, 5.17, 0.8)
"""
import collections
import json
import os
import shutil
import sys
import zipfile

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM, SiglipVisionConfig, SiglipVisionModel

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
SHARDS = 3


def randomised(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.2 * values if is_norm else 0.15 * values)
    return module.eval()


def vlm():
    text = PhiConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                     num_key_value_heads=1, vocab_size=40, max_position_embeddings=64, partial_rotary_factor=0.5,
                     resid_pdrop=0.0)
    vision = SiglipVisionConfig(hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2,
                                image_size=12, patch_size=4)
    language_model = randomised(PhiForCausalLM(text), 1)
    tower = randomised(SiglipVisionModel(vision), 2)
    connector = randomised(torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.GELU(), torch.nn.Linear(16, 16)), 3)
    return language_model, tower, connector


def state_of(language_model, tower, connector):
    state = collections.OrderedDict()
    for name, tensor in language_model.state_dict().items():
        state["language_model." + name] = tensor
    for name, tensor in tower.state_dict().items():
        state["vision_tower._vision_tower." + name] = tensor
    for name, tensor in connector.state_dict().items():
        state["connector._connector." + name] = tensor
    return state


def logits_of(language_model, tower, connector, ids, image):
    """Rows of logits; the image's tokens stand where ids hold -200. The first patch is left out (`patch`)."""
    with torch.no_grad():
        features = tower(image, output_hidden_states=True).hidden_states[-2][:, 1:]
        tokens = connector(features)[0]
        at = ids.tolist().index(-200)
        embed = language_model.get_input_embeddings()
        row = torch.cat([embed(ids[:at]), tokens, embed(ids[at + 1:])])
        return language_model(inputs_embeds=row[None]).logits[0]


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def config_of(language_model, tower):
    text = language_model.config.to_dict()
    vision = tower.config.to_dict()
    return {"model_type": "tinyllava", "architectures": ["TinyLlavaForConditionalGeneration"], "text_config": text,
            "vision_config": vision, "vision_feature_layer": -2, "vision_feature_select_strategy": "patch",
            "connector_type": "mlp2x_gelu", "image_aspect_ratio": "square", "tokenizer_model_max_length": 64}


def contiguous(state):
    return {name: tensor.contiguous() for name, tensor in state.items()}


def deflate(path):
    """The same archive with deflated entries, as a user gets who packs it anew."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path + ".new", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            stamped = zipfile.ZipInfo(entry.filename)  # of 1980, so that the bytes are the same every time
            stamped.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(stamped, old.read(entry))
    os.replace(path + ".new", path)


def save_sharded(state, folder, stem, extension, save):
    names = list(state)
    index = {"metadata": {"total_size": sum(t.numel() * t.element_size() for t in state.values())}, "weight_map": {}}
    for i in range(SHARDS):
        own = names[i::SHARDS]
        file = f"{stem}-{i + 1:05d}-of-{SHARDS:05d}.{extension}"
        save({name: state[name] for name in own}, os.path.join(folder, file))
        index["weight_map"].update({name: file for name in own})
    write_json(os.path.join(folder, f"{stem}.{extension}.index.json"), index)


def save_safetensors(state, path):
    save_file(contiguous(state), path, metadata={"format": "pt"})


def transposed_views(state):
    """Matrices as views of their transposed copies: other strides, same values."""
    return {name: t.t().contiguous().t() if t.dim() == 2 else t for name, t in state.items()}


def folder_of(name):
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder


def write_vlm():
    language_model, tower, connector = vlm()
    config = config_of(language_model, tower)
    state = state_of(language_model, tower, connector)
    generator = torch.Generator().manual_seed(4)
    ids = torch.tensor([3, 7, -200, 11, 0, 39, 5, 21], dtype=torch.int32)
    image = torch.rand((1, 3, 12, 12), generator=generator) * 2 - 1
    expected = {"ids": ids, "image": image}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        parts = vlm()
        for part in parts:
            part.to(dtype).float()  # the values that a reader of the narrow file has
        expected["logits." + str(dtype).split(".")[1]] = logits_of(*parts, ids.long(), image)
    save_file(expected, os.path.join(OUT, "expected.safetensors"))

    def layout(name):
        folder = folder_of(name)
        write_json(os.path.join(folder, "config.json"), config)
        return folder

    save_safetensors(state, os.path.join(layout("single"), "model.safetensors"))
    save_sharded(state, layout("sharded"), "model", "safetensors", save_safetensors)
    torch.save(state, os.path.join(layout("bin"), "pytorch_model.bin"))
    torch.save(transposed_views(state), os.path.join(layout("bin-strided"), "pytorch_model.bin"), pickle_protocol=4)
    folder = layout("bin-deflated")
    torch.save({"state_dict": {k: torch.nn.Parameter(v) for k, v in state.items()}},
               os.path.join(folder, "pytorch_model.bin"))
    deflate(os.path.join(folder, "pytorch_model.bin"))
    save_sharded(state, layout("bin-sharded"), "pytorch_model", "bin", torch.save)
    for name, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
        narrow = {k: v.to(dtype) for k, v in state.items()}
        save_safetensors(narrow, os.path.join(layout(name), "model.safetensors"))
        torch.save(narrow, os.path.join(layout("bin-" + name), "pytorch_model.bin"))
    write_parts(layout("parts"), language_model, tower, connector)


def write_parts(folder, language_model, tower, connector):
    """As TinyLLaVA's trainer saves: names without the part's prefix, each part in a way of its own here."""
    for part in ("language_model", "vision_tower", "connector"):
        os.makedirs(os.path.join(folder, part))
    save_sharded(language_model.state_dict(), os.path.join(folder, "language_model"), "pytorch_model", "bin", torch.save)
    save_safetensors(tower.state_dict(), os.path.join(folder, "vision_tower", "model.safetensors"))
    named = {"_connector." + k: v for k, v in connector.state_dict().items()}
    torch.save(named, os.path.join(folder, "connector", "pytorch_model.bin"))


def write_llama():
    config = LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=261, max_position_embeddings=64, rms_norm_eps=1e-5,
                         rope_theta=50000.0, tie_word_embeddings=True)
    model = randomised(LlamaForCausalLM(config), 5)
    folder = folder_of("llama")
    write_json(os.path.join(folder, "config.json"), config.to_dict())
    state = model.state_dict()
    del state["lm_head.weight"]
    save_safetensors(state, os.path.join(folder, "model.safetensors"))
    ids = torch.tensor([3, 7, 11, 0, 47, 5, 21], dtype=torch.int32)
    with torch.no_grad():
        logits = model(input_ids=ids[None].long()).logits[0]
    save_file({"ids": ids, "logits": logits}, os.path.join(folder, "expected.safetensors"))
    # PyTorch files hold a tied head a second time, on the embedding's storage.
    torch.save(model.state_dict(), os.path.join(folder_of("llama-bin"), "pytorch_model.bin"))
    save_sharded(contiguous(state), folder_of("llama-sharded"), "model", "safetensors",
                 lambda part, path: save_file(part, path, metadata={"format": "pt"}))
    for name in ("llama-bin", "llama-sharded"):
        write_json(os.path.join(OUT, name, "config.json"), config.to_dict())


write_vlm()
write_llama()
