"""Makes and reads models with the classes of the published MaTVLM code, on the CPU, for test_published.cpp.

python3 published.py CHECKOUT probe                             ends with 0 where everything that is needed is there
python3 published.py CHECKOUT teacher OUT JSON                  a random teacher as those classes save it
python3 published.py CHECKOUT student TEACHER OUT JSON LOGITS   a student as their trainer starts and saves it
python3 published.py CHECKOUT read TEACHER STUDENT LOGITS       a student's folder, loaded strictly

CHECKOUT is a clone of github.com/hustvl/MaTVLM. Python needs torch, transformers 4.43, einops, safetensors and triton, and
mamba_ssm on its path, whose Python sources are enough; with those of flash_attn too, `read` also runs the classes that
evaluate. JSON: sizes and switches, without `vision` those of a language model alone, a Llama. LOGITS gets `ids`, `image`,
`text_ids`, and logits `image.train`, `text.train`, `image.eval`, `text.eval`.

What only a GPU runs is replaced by mamba_ssm's own plain forms of the same functions: the chunk scan by
ssd_chunk_scan_combined_ref, the gated norm by rms_norm_ref; the convolution by torch's, rotary by a plain rotation. All else
is the published code.
"""
import functools
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
import types

import torch
import torch.nn.functional as F
from safetensors.torch import save_file


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Compiled extensions and trainers' packages that are imported but not called here, where they are not installed."""

    names = {"selective_scan_cuda", "causal_conv1d_cuda", "flash_attn_2_cuda", "causal_conv1d", "peft", "deepspeed"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = lambda name: self.attribute(spec.name, name)
        return module

    @staticmethod
    def attribute(module, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__module__": module})

    def exec_module(self, module):
        pass


def import_mamba_ssm():
    """Its __init__ wants every extension; the folder is all that is needed."""
    spec = importlib.machinery.PathFinder.find_spec("mamba_ssm")
    if spec is None:
        raise ImportError("no mamba_ssm on the path")
    package = types.ModuleType("mamba_ssm")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["mamba_ssm"] = package
    scan = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    norm = importlib.import_module("mamba_ssm.ops.triton.layernorm_gated")
    return scan, norm


def plain_conv(x, weight, bias=None, activation=None, seq_idx=None):
    """x: [batch, channels, length]; causal, one filter a channel."""
    assert seq_idx is None
    width = weight.shape[1]
    y = F.conv1d(F.pad(x, (width - 1, 0)), weight[:, None], bias, groups=weight.shape[0])
    return F.silu(y) if activation == "silu" else y


def replace_mixer_kernels():
    scan, norm = import_mamba_ssm()
    plain_norm = importlib.import_module("mamba_ssm.ops.triton.layer_norm")
    layer = importlib.import_module("mamba2.hybrid_mamba_layer")

    def chunk_scan(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, dt_softplus=False, seq_idx=None,
                   cu_seqlens=None, return_final_states=False, return_varlen_states=False):
        assert seq_idx is None and cu_seqlens is None and not return_final_states and not return_varlen_states
        length = x.shape[1]
        # Padded at the end, which a causal scan does not see before: the plain form wants whole chunks of x as well.
        pad = -length % chunk_size
        x, B, C = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (x, B, C))
        dt = F.pad(dt, (0, 0, 0, pad))
        return scan.ssd_chunk_scan_combined_ref(x, dt, A, B, C, chunk_size, D=D, z=z, dt_bias=dt_bias,
                                                dt_softplus=dt_softplus)[:, :length]

    layer.mamba_chunk_scan_combined = chunk_scan
    layer.causal_conv1d_fn = plain_conv
    layer.RMSNormGated.forward = lambda self, x, z=None: norm.rms_norm_ref(
        x, self.weight, self.bias, z=z, eps=self.eps, group_size=self.group_size,
        norm_before_gate=self.norm_before_gate)
    plain_norm.RMSNorm.forward = lambda self, x: plain_norm.rms_norm_ref(x, self.weight, self.bias, eps=self.eps)


def without_device(make):
    """A layer's class that the code asks for on the GPU, made on the CPU."""
    return functools.wraps(make)(lambda *args, **kwargs: make(*args, **{**kwargs, "device": "cpu"}))


def on_cpu(name):
    """A module of the published code whose layers are made on the CPU."""
    module = importlib.import_module(name)
    for layer in ("PhiMambaDecoderLayer", "PhiMHADecoderLayer", "MambaDecoderLayer", "MHADecoderLayer"):
        if hasattr(module, layer):
            setattr(module, layer, without_device(getattr(module, layer)))
    return module


class Published:
    """The classes that train: with pictures (TinyLLaVA) and, for a language model alone, without."""

    def __init__(self, checkout):
        sys.path.insert(0, checkout)
        sys.meta_path.append(Absent())
        replace_mixer_kernels()
        torch.nn.Module.cuda = lambda self, *args, **kwargs: self
        self.with_pictures = on_cpu("mamba2.hybrid_wrapper_tinyllava").TinyllavaMambaTransformerHybridModelWrapper
        self.text_only = on_cpu("mamba2.hybrid_wrapper").MambaTransformerHybridModelWrapper

    def make(self, checkpoint, teacher, config):
        from mamba2.hybrid_mamba_config import PhiMambaConfig

        wrapper = self.with_pictures if isinstance(config, PhiMambaConfig) else self.text_only
        return wrapper.init_distillation(checkpoint, teacher, config, attn_layers=config.attn_layers,
                                         dtype=torch.float32, attn_implementation="eager")


def rotate(x, cos, sin, interleaved=False, inplace=False, seqlen_offsets=0):
    """x: [batch, length, ..., width], its first 2 * cos.shape[-1] dimensions, half-split; cos and sin: [length, half]."""
    assert not interleaved and seqlen_offsets == 0
    half = cos.shape[-1]
    shape = [x.shape[1]] + [1] * (x.dim() - 3) + [half]
    cos, sin = cos[:x.shape[1]].view(shape), sin[:x.shape[1]].view(shape)
    a, b = x[..., :half], x[..., half:2 * half]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half:]], -1)


def rotate_keys(kv, cos, sin, interleaved=False, seqlen_offsets=0):
    """kv: [batch, length, 2, heads, width]; values stay as they are."""
    return torch.stack([rotate(kv[:, :, 0], cos, sin, interleaved), kv[:, :, 1]], 2)


class RepeatedHeads:
    """torch.nn.functional for mamba_ssm's attention, which repeats shared heads only where it decodes with a cache."""

    def __getattr__(self, name):
        return getattr(F, name)

    @staticmethod
    def scaled_dot_product_attention(q, k, v, **options):
        k, v = (torch.repeat_interleave(t, q.shape[1] // t.shape[1], 1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v, **options)


def import_evaluation():
    with_pictures = on_cpu("mamba2_inference.hybrid_wrapper_tinyllava").EvalMamba2TransformerHybridModelWrapper
    text_only = on_cpu("mamba2_inference.hybrid_wrapper").MambaTransformerHybridModelWrapper
    model = importlib.import_module("mamba2_inference.hybrid_model")
    for module in (model, importlib.import_module("flash_attn.layers.rotary")):
        module.apply_rotary_emb_func = rotate
        module.apply_rotary_emb_kv_ = rotate_keys
    model.F = F  # used there and not imported
    importlib.import_module("mamba_ssm.modules.mha").F = RepeatedHeads()
    return with_pictures, text_only


def spread(model, seed, parts=("",)):
    """Values of the order of one in every tensor, biases and norms as well, so that none can be left out unseen. parts:
    only tensors with one of these in their names."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        if not any(part in name for part in parts):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if "mamba" in name and name.endswith(("A_log", "dt_bias")):
            tensor.data += 0.3 * noise
        elif name.endswith((".D", "norm.weight")) or "layer_norm" in name and tensor.dim() == 1:
            tensor.data = 1 + 0.2 * noise if not name.endswith("bias") else 0.2 * noise
        elif tensor.dim() == 1:
            tensor.data = 0.2 * noise
        else:
            tensor.data = noise / (tensor.numel() / tensor.shape[0]) ** 0.5
    return model


def make_teacher(out, sizes):
    """The folders that the config names (the language model and the tower, on the hub as a rule), and the teacher."""
    from tinyllava.model.configuration_tinyllava import TinyLlavaConfig
    from tinyllava.model.modeling_tinyllava import TinyLlavaForConditionalGeneration
    from transformers import PhiConfig, SiglipImageProcessor, SiglipVisionConfig

    llm, tower = out + "-phi", out + "-siglip"
    PhiConfig(**sizes["text"]).save_pretrained(llm)
    SiglipVisionConfig(**sizes["vision"]).save_pretrained(tower)
    image = sizes["vision"]["image_size"]
    SiglipImageProcessor(size={"height": image, "width": image}).save_pretrained(tower)
    with open(sizes["tokenizer"]) as source, open(os.path.join(llm, "tokenizer.json"), "w") as copy:
        copy.write(source.read())
    with open(os.path.join(llm, "tokenizer_config.json"), "w") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast"}, file)
    config = TinyLlavaConfig(llm_model_name_or_path=llm, vision_model_name_or_path=tower, connector_type="mlp2x_gelu",
                             tokenizer_use_fast=True, vision_feature_select_strategy=sizes["select"])
    model = spread(TinyLlavaForConditionalGeneration(config).float(), 1)
    model.save_pretrained(out)
    model.tokenizer.save_pretrained(out)
    # The classes that evaluate take the head from here.
    model.language_model.save_pretrained(llm)


def make_language_model(out, sizes):
    from transformers import LlamaConfig, LlamaForCausalLM

    # Named in its config, by which the classes that evaluate find it.
    config = LlamaConfig(name_or_path=out, **sizes["text"])
    spread(LlamaForCausalLM(config).float(), 1).save_pretrained(out)


def start_student(published, teacher, sizes):
    """As train_hybrid.py does."""
    from mamba2.hybrid_mamba_config import MambaConfig, PhiMambaConfig

    text = sizes["text"]
    width = text["hidden_size"] // text["num_attention_heads"]
    inner = {"expand": 1, "ngroups": text["num_attention_heads"], "d_state": width, **sizes.get("ssm_cfg", {})}
    attention = [i for i in range(text["num_hidden_layers"]) if i not in sizes["ssm_layers"]]
    same = dict(d_inner=text["hidden_size"], d_xb=text["num_key_value_heads"] * width,
                intermediate_size=text["intermediate_size"], n_layer=text["num_hidden_layers"], attn_layers=attention,
                is_bias=sizes["is_bias"])
    if "vision" in sizes:
        config = PhiMambaConfig(text["hidden_size"], inner, 1e-5, hidden_act="gelu_new", resid_pdrop=0.1, **same)
    else:
        config = MambaConfig(text["hidden_size"], inner, text["rms_norm_eps"], hidden_act="silu", **same)
    return published.make(None, teacher, config)


def load_config(student):
    from mamba2.hybrid_mamba_config import MambaConfig, PhiMambaConfig

    with open(os.path.join(student, "mamba_config.json")) as file:
        config = json.load(file)
    return PhiMambaConfig(**config) if "layer_norm_eps" in config else MambaConfig(**config)


def load_student(published, teacher, student):
    """As prev_checkpoint_path and checkpoint_path of their trainer do: every tensor's name and shape must be its own."""
    from util import construct_language_layer_dict, construct_layer_dict, load_safetensors_to_dict

    config = load_config(student)
    model = published.make(student, teacher, config)
    again = published.make(None, teacher, config)
    tensors = load_safetensors_to_dict(student)
    if isinstance(again, published.with_pictures):
        layers, is_mamba = construct_language_layer_dict(tensors, config.n_layer)
        modules = again.model.language_model.model.layers
    else:
        layers, is_mamba = construct_layer_dict(tensors, config.n_layer)
        modules = again.model.model.layers
    assert [i for i in range(config.n_layer) if not is_mamba[i]] == config.attn_layers
    for layer in range(config.n_layer):
        if is_mamba[layer]:
            modules[layer].load_state_dict(layers[layer])
    return model


def load_evaluation(evaluation, student, pictures):
    """As load_pretrained_model does, in float32 and on the CPU."""
    from tinyllava.model.modeling_tinyllava import HybridTinyLlavaForConditionalGeneration

    with_pictures, text_only = evaluation
    options = dict(torch_dtype=torch.float32, attn_implementation="eager")
    if not pictures:
        return text_only.from_pretrained(student, **options)
    model = HybridTinyLlavaForConditionalGeneration.from_pretrained(student, torch_dtype=torch.float32)
    model.language_model = with_pictures.from_pretrained(student, **options)
    return model


class Inputs:
    """A row without a picture that is longer than a chunk of the scan, and one with a picture for models that see."""

    def __init__(self, folder):
        with open(os.path.join(folder, "config.json")) as file:
            config = json.load(file)
        generator = torch.Generator().manual_seed(3)
        vocabulary = config.get("text_config", config)["vocab_size"]
        ids = torch.randint(3, vocabulary, (300,), generator=generator)
        self.text_ids = ids[:280].clone()
        self.ids = ids[280:].clone()
        self.ids[4] = -200
        self.image = None
        if "vision_config" in config:
            size = config["vision_config"]["image_size"]
            self.image = torch.rand((1, 3, size, size), generator=generator) * 2 - 1

    def tensors(self):
        text = {"text_ids": self.text_ids.int()}
        return text if self.image is None else {**text, "ids": self.ids.int(), "image": self.image}


def logits_of_trainer(model, inputs):
    model = model.model.eval()
    with torch.no_grad():
        out = {"text.train": model(input_ids=inputs.text_ids[None], use_cache=False).logits[0]}
        if inputs.image is not None:
            out["image.train"] = model(input_ids=inputs.ids[None], images=inputs.image).logits[0]
    return out


def logits_of_evaluation(model, inputs):
    model = model.eval()
    language_model = model if inputs.image is None else model.language_model
    with torch.no_grad():
        out = {"text.eval": language_model(inputs.text_ids[None]).logits[0]}
        if inputs.image is not None:
            row = model.prepare_inputs_labels_for_multimodal(inputs.ids[None], None, None, None, None, inputs.image)[4]
            out["image.eval"] = language_model(None, inputs_embeds=row).logits[0]
    return out


def save(path, inputs, *logits):
    tensors = inputs.tensors()
    for part in logits:
        tensors.update({name: value.float().contiguous() for name, value in part.items()})
    save_file(tensors, path)


def main(checkout, command, *words):
    torch.set_num_threads(2)
    torch.manual_seed(0)
    published = Published(checkout)
    if command == "teacher":
        sizes = json.loads(words[1])
        (make_teacher if "vision" in sizes else make_language_model)(words[0], sizes)
    elif command == "student":
        teacher, out, sizes, logits = words
        model = start_student(published, teacher, json.loads(sizes))
        spread(model.model, 2, ("mamba.", "connector"))
        model.model.save_pretrained(out)
        model.save_config(out)
        inputs = Inputs(out)
        save(logits, inputs, logits_of_trainer(model, inputs))
    elif command == "read":
        teacher, student, logits = words
        inputs = Inputs(student)
        parts = [logits_of_trainer(load_student(published, teacher, student), inputs)]
        # The classes that evaluate make mixers without biases.
        if not load_config(student).is_bias and importlib.machinery.PathFinder.find_spec("flash_attn"):
            model = load_evaluation(import_evaluation(), student, inputs.image is not None)
            parts.append(logits_of_evaluation(model, inputs))
        save(logits, inputs, *parts)
    else:
        assert command == "probe", command


if __name__ == "__main__":
    main(*sys.argv[1:])
