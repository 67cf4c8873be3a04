// Names, order of rows and config of language models in GGUF files.
#include "core/gguf_model.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <numbers>
#include <utility>

#include "core/error.h"

namespace matvlm {
namespace {

constexpr const char* kRotaryFactors = "rope_freqs.weight";

struct NamePair {
  const char* gguf;
  const char* hugging_face;
};
constexpr NamePair kNames[] = {
    {"token_embd.", "model.embed_tokens."}, {"output_norm.", "model.norm."}, {"output.", "lm_head."}};
constexpr NamePair kLayerNames[] = {{"attn_norm.", "input_layernorm."}, {"ffn_norm.", "post_attention_layernorm."},
                                    {"attn_q.", "self_attn.q_proj."},   {"attn_k.", "self_attn.k_proj."},
                                    {"attn_v.", "self_attn.v_proj."},   {"attn_output.", "self_attn.o_proj."},
                                    {"ffn_gate.", "mlp.gate_proj."},    {"ffn_up.", "mlp.up_proj."},
                                    {"ffn_down.", "mlp.down_proj."}};

// The name, or "" when there is none.
template <size_t n>
std::string translated(const std::string& name, const NamePair (&pairs)[n]) {
  for (const NamePair& pair : pairs) {
    if (name.starts_with(pair.gguf)) return pair.hugging_face + name.substr(std::strlen(pair.gguf));
  }
  return "";
}

std::string hugging_face_name(const std::string& name) {
  const std::string block = "blk.";
  if (!name.starts_with(block)) return translated(name, kNames);
  const size_t dot = name.find('.', block.size());
  if (dot == std::string::npos) return "";
  const std::string layer = name.substr(block.size(), dot - block.size());
  const std::string rest = translated(name.substr(dot + 1), kLayerNames);
  return rest.empty() ? "" : cat("model.layers.", layer, ".", rest);
}

bool known_architecture(const std::string& name) { return name == "llama" || name == "qwen2"; }

class GgufModel : public TensorFile {
 public:
  explicit GgufModel(const std::string& path) : TensorFile(path), file_(path) {
    metadata_ = file_.metadata();
    const std::string architecture = file_.text("general.architecture", "");
    std::string unknown;
    for (const TensorInfo& info : file_.infos()) {
      View view{info.name, 0};
      TensorInfo own = info;
      if (known_architecture(architecture)) {
        if (info.name == kRotaryFactors) continue;  // it is part of gguf_config
        own.name = hugging_face_name(info.name);
        if (own.name.empty()) unknown += cat("; '", info.name, "'");
        if (architecture == "llama") view.heads = heads_of(info);
      }
      views_[own.name] = view;
      if (!own.name.empty()) add(std::move(own));
    }
    check(unknown.empty(), path, ": found tensors that a model of the architecture ", architecture, " does not have",
          unknown);
  }

 protected:
  std::optional<std::span<const std::byte>> mapped(const TensorInfo& info) const override {
    const View& view = views_.at(info.name);
    if (view.heads > 0) return std::nullopt;
    return file_.bytes(view.stored);
  }

  void gather(const TensorInfo& info, std::span<std::byte> out) const override {
    const View& view = views_.at(info.name);
    std::vector<std::byte> stored(out.size());
    file_.read_bytes(view.stored, stored);
    copy_rows(view, info.shape[0], stored.data(), out.data(), static_cast<int64_t>(out.size()) / info.shape[0]);
  }

  void dequantise(const TensorInfo& info, std::span<float> out) const override {
    const View& view = views_.at(info.name);
    if (view.heads == 0) return file_.read_floats(view.stored, out);
    std::vector<float> stored(out.size());
    file_.read_floats(view.stored, stored);
    copy_rows(view, info.shape[0], stored.data(), out.data(), info.numel / info.shape[0]);
  }

 private:
  struct View {
    std::string stored;
    int64_t heads = 0;  // whose rows are interleaved; 0: as they are
  };

  // Heads whose rows must be reordered, 0 for tensors other than q and k.
  int64_t heads_of(const TensorInfo& info) const {
    const bool q = info.name.find(".attn_q.") != std::string::npos;
    const bool k = info.name.find(".attn_k.") != std::string::npos;
    if (!q && !k) return 0;
    const int64_t query_heads = file_.integer("llama.attention.head_count");
    const int64_t heads = k ? file_.integer("llama.attention.head_count_kv", query_heads) : query_heads;
    check(heads > 0 && info.shape[0] > 0 && info.shape[0] % heads == 0 && info.shape[0] / heads % 2 == 0, path(),
          ": tensor '", info.name, "': found ", info.shape[0], " rows for ", heads,
          " heads, expected an even number for each");
    return heads;
  }

  // Rows of a head lie as (0, P/2, 1, P/2 + 1, ...) in the file.
  template <class T>
  static void copy_rows(const View& view, int64_t rows, const T* from, T* to, int64_t width) {
    const int64_t half = rows / view.heads / 2;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t head = row / (2 * half);
      const int64_t in_head = row % (2 * half);
      const int64_t place = head * 2 * half + in_head % half * 2 + in_head / half;
      std::copy(from + place * width, from + (place + 1) * width, to + row * width);
    }
  }

  GgufFile file_;
  std::map<std::string, View> views_;
};

// A float of the file as the decimal number that it was rounded from.
double short_decimal(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), static_cast<float>(value)).ptr;
  double out = value;
  std::from_chars(text, end, out);
  return out;
}

// What Llama 3 divides the frequency of dimension pair j by; the constants are those of all its models.
double llama3_factor(double frequency, double factor) {
  constexpr double kLow = 1.0;
  constexpr double kHigh = 4.0;
  constexpr double kContext = 8192.0;
  const double turns = kContext * frequency / (2.0 * std::numbers::pi);
  if (turns > kHigh) return 1.0;
  if (turns < kLow) return factor;
  const double smooth = (turns - kLow) / (kHigh - kLow);
  return 1.0 / ((1.0 - smooth) / factor + smooth);
}

// GGUF holds Llama 3's scaling as the finished divisors. They are told back to its parameters, and checked.
Json llama3_scaling(const GgufFile& file, double theta) {
  std::vector<float> factors(static_cast<size_t>(file.info(kRotaryFactors).numel));
  file.read_floats(kRotaryFactors, factors);
  const std::string what = cat(file.path(), ": tensor '", kRotaryFactors, "'");
  check(!factors.empty(), what, ": found no factors, expected one for each pair of dimensions");
  const double factor = *std::max_element(factors.begin(), factors.end());
  const auto pairs = static_cast<double>(factors.size());
  for (size_t j = 0; j < factors.size(); ++j) {
    const double expected = llama3_factor(std::pow(theta, -static_cast<double>(j) / pairs), factor);
    check(std::abs(static_cast<double>(factors[j]) - expected) <= 1e-3 * expected, what, ": found the factor ",
          factors[j], " at ", j, ", expected ", expected, ", as Llama 3 scales; other scalings are not supported");
  }
  Json scaling = Json::object();
  scaling.set("rope_type", "llama3").set("factor", short_decimal(factor)).set("low_freq_factor", 1.0);
  scaling.set("high_freq_factor", 4.0).set("original_max_position_embeddings", 8192);
  return scaling;
}

// rope_scaling, null for none.
Json rope_scaling(const GgufFile& file, const std::string& prefix, double theta) {
  if (file.has(kRotaryFactors)) return llama3_scaling(file, theta);
  const std::string type = file.text(prefix + "rope.scaling.type", "none");
  if (type == "none") return {};
  check(type == "linear", file.path(), ": key '", prefix, "rope.scaling.type': found '", type,
        "', expected 'none' or 'linear'");
  Json scaling = Json::object();
  return scaling.set("rope_type", "linear").set("factor", short_decimal(file.number(prefix + "rope.scaling.factor")));
}

}  // namespace

std::shared_ptr<const TensorFile> open_gguf_model(const std::string& path) {
  return std::make_shared<const GgufModel>(path);
}

Json gguf_config(const GgufFile& file) {
  const std::string architecture = file.text("general.architecture");
  check(known_architecture(architecture), file.path(), ": key 'general.architecture': found '", architecture,
        "', expected 'llama' or 'qwen2'");
  const std::string prefix = architecture + ".";
  const int64_t hidden = file.integer(prefix + "embedding_length");
  const int64_t heads = file.integer(prefix + "attention.head_count");
  check(heads > 0, file.path(), ": key '", prefix, "attention.head_count': found ", heads, ", expected at least 1");
  const double theta = short_decimal(file.number(prefix + "rope.freq_base", 10000.0));
  const TensorInfo& embedding = file.info("token_embd.weight");
  check(embedding.shape.size() == 2, file.path(), ": tensor 'token_embd.weight': found ", embedding.shape.size(),
        " dimensions, expected 2");
  const bool bias = file.has("blk.0.attn_q.bias");
  Json json = Json::object();
  json.set("model_type", architecture).set("hidden_size", hidden);
  json.set("intermediate_size", file.integer(prefix + "feed_forward_length"))
      .set("num_hidden_layers", file.integer(prefix + "block_count"))
      .set("num_attention_heads", heads)
      .set("num_key_value_heads", file.integer(prefix + "attention.head_count_kv", heads))
      .set("head_dim", file.integer(prefix + "attention.key_length", hidden / heads))
      .set("max_position_embeddings", file.integer(prefix + "context_length", 2048))
      .set("vocab_size", embedding.shape[0])
      .set("rms_norm_eps", short_decimal(file.number(prefix + "attention.layer_norm_rms_epsilon")))
      .set("rope_theta", theta)
      .set("rope_scaling", rope_scaling(file, prefix, theta))
      .set("hidden_act", "silu")
      .set("attention_bias", bias)
      .set("mlp_bias", file.has("blk.0.ffn_up.bias"))
      .set("tie_word_embeddings", !file.has("output.weight"));
  for (const char* key : {"bos", "eos"}) {
    const std::string id = cat("tokenizer.ggml.", key, "_token_id");
    if (file.has_value(id)) json.set(cat(key, "_token_id"), file.integer(id));
  }
  return json;
}

std::string gguf_chat_template(const GgufFile& file) { return file.text("tokenizer.chat_template", ""); }

std::string gguf_file_of(const std::string& path) {
  namespace fs = std::filesystem;
  if (fs::is_directory(path)) {
    std::vector<std::string> found;
    for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
      if (entry.path().extension() == ".gguf") found.push_back(entry.path().string());
    }
    std::sort(found.begin(), found.end());
    check(found.size() <= 1, path, ": found ", found.size(), " GGUF files (", found.empty() ? "" : found.front(),
          ", ...), expected one; name the file");
    return found.empty() ? "" : found.front();
  }
  std::ifstream file(path, std::ios::binary);
  char start[4] = {};
  file.read(start, sizeof(start));
  return file.gcount() == 4 && std::memcmp(start, "GGUF", 4) == 0 ? path : "";
}

}  // namespace matvlm
