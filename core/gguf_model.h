// A GGUF file of the llama or qwen2 architecture as a Hugging Face checkpoint: tensors under Hugging Face's names and
// in its order of rows, and what config.json and tokenizer.json would say, from the metadata.
#pragma once

#include <memory>
#include <string>

#include "core/gguf.h"
#include "core/json.h"
#include "core/tensor_file.h"

namespace matvlm {

// Tensors of the file. Of the architectures llama and qwen2 under names as `model.layers.0.self_attn.q_proj.weight`;
// the rows of llama's q and k, which GGUF stores for rotary embedding of neighbouring dimensions, are put back into the
// order for rotary embedding of halves. Error for a tensor of these architectures that has no such name. Other
// architectures: as in the file.
std::shared_ptr<const TensorFile> open_gguf_model(const std::string& path);

// config.json of the model: model_type, sizes, rms_norm_eps, rope_theta, rope_scaling, tie_word_embeddings, biases.
// Error for other architectures and for scalings of the rotary embedding that are not known.
Json gguf_config(const GgufFile& file);

// tokenizer.json of the model as text: byte-level BPE with vocabulary, merges, added tokens and the pre-tokenisation
// that `tokenizer.ggml.pre` names (gpt-2, smollm, llama-bpe, qwen2). Error for other kinds of tokenizers.
std::string gguf_tokenizer_json(const GgufFile& file);

// The chat template (a Jinja text), empty when the file has none.
std::string gguf_chat_template(const GgufFile& file);

// The GGUF file that `path` means: itself, or the only *.gguf of a folder; empty for other models.
// Error for a folder with several.
std::string gguf_file_of(const std::string& path);

}  // namespace matvlm
