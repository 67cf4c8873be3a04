"""Reads exported folders with the packages of Hugging Face and writes what it finds for the C++ test to compare.

python3 read_export.py MODEL STUDENT OUT     needs torch, transformers, safetensors

OUT holds every tensor of both folders as float32 (`FOLDER:NAME`), and `ids`, `image` and the `logits` that transformers'
Phi and SigLIP classes give with MODEL's weights, loaded strictly.
"""
import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import PhiConfig, PhiForCausalLM, SiglipVisionConfig, SiglipVisionModel


def tensors_of(folder):
    index = os.path.join(folder, "model.safetensors.index.json")
    if not os.path.exists(index):
        return load_file(os.path.join(folder, "model.safetensors"))
    with open(index) as file:
        shards = sorted(set(json.load(file)["weight_map"].values()))
    out = {}
    for shard in shards:
        out.update(load_file(os.path.join(folder, shard)))
    return out


def part(tensors, prefix):
    return {name[len(prefix):]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_tower(config, tensors):
    """Block by block names are the same in all versions of transformers but for `vision_model.` in front."""
    tower = SiglipVisionModel(SiglipVisionConfig(**config))
    own = set(tower.state_dict())
    state = part(tensors, "vision_tower._vision_tower.")
    if not any(name.startswith("vision_model.") for name in own):
        state = {name.removeprefix("vision_model."): tensor for name, tensor in state.items()}
    result = tower.load_state_dict(state, strict=False)
    unused = ("post_layernorm", "head.", "vision_model.post_layernorm", "vision_model.head.")
    missing = [name for name in result.missing_keys if not name.startswith(unused)]
    assert not missing and not result.unexpected_keys, (missing, result.unexpected_keys)
    return tower.eval()


def logits_of(folder, tensors, ids, image):
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    language_model = PhiForCausalLM(PhiConfig(**config["text_config"])).eval()
    language_model.load_state_dict(part(tensors, "language_model."), strict=True)
    tower = load_tower(config["vision_config"], tensors)
    weights = part(tensors, "connector._connector.")
    with torch.no_grad():
        hidden = tower(image, output_hidden_states=True).hidden_states[config["vision_feature_layer"]]
        if config["vision_feature_select_strategy"] == "patch":
            hidden = hidden[:, 1:]
        tokens = torch.nn.functional.linear(hidden[0], weights["0.weight"], weights["0.bias"])
        tokens = torch.nn.functional.gelu(tokens)
        tokens = torch.nn.functional.linear(tokens, weights["2.weight"], weights["2.bias"])
        at = ids.tolist().index(-200)
        embed = language_model.get_input_embeddings()
        row = torch.cat([embed(ids[:at].long()), tokens, embed(ids[at + 1:].long())])
        return language_model(inputs_embeds=row[None]).logits[0]


model, student, out = sys.argv[1:4]
result = {}
for name_of_folder in (model, student):
    for name, tensor in tensors_of(name_of_folder).items():
        result[f"{name_of_folder}:{name}"] = tensor.float().contiguous()
size = json.load(open(os.path.join(model, "config.json")))["vision_config"]["image_size"]
result["ids"] = torch.tensor([300, 12, -200, 7, 256, 90, 31], dtype=torch.int32)
result["image"] = torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(1)) * 2 - 1
result["logits"] = logits_of(model, tensors_of(model), result["ids"], result["image"]).contiguous()
save_file(result, out)
