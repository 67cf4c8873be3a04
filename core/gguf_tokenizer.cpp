// The tokenizer in a GGUF file's metadata, written as Hugging Face's tokenizer.json.
#include <algorithm>
#include <string_view>

#include "core/error.h"
#include "core/gguf_model.h"

namespace matvlm {
namespace {

constexpr const char* kSplitLlama3 =
    R"x((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)x";
constexpr const char* kSplitQwen2 =
    R"x((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)x";

// Kinds of entries in `tokenizer.ggml.token_type`.
constexpr int64_t kControlToken = 3;
constexpr int64_t kUserToken = 4;

std::string json_quoted(std::string_view text) { return Json::of(text).dump(); }

Json byte_level(bool use_regex) {
  Json step = Json::object();
  step.set("type", "ByteLevel").set("add_prefix_space", false).set("trim_offsets", true).set("use_regex", use_regex);
  return step;
}

Json sequence_of(const Json& first, const Json& second) {
  return Json::object().set("type", "Sequence").set("pretokenizers", Json::array().push(first).push(second));
}

Json split(const char* pattern) {
  Json step = Json::object();
  step.set("type", "Split").set("pattern", Json::object().set("Regex", pattern));
  return step.set("behavior", "Isolated").set("invert", false);
}

Json pre_tokenizer(const GgufFile& file) {
  const std::string pre = file.text("tokenizer.ggml.pre", "");
  if (pre == "gpt-2") return byte_level(true);
  if (pre == "smollm") {
    return sequence_of(Json::object().set("type", "Digits").set("individual_digits", true), byte_level(true));
  }
  if (pre == "llama-bpe") return sequence_of(split(kSplitLlama3), byte_level(false));
  if (pre == "qwen2") return sequence_of(split(kSplitQwen2), byte_level(false));
  fail(file.path(), ": key 'tokenizer.ggml.pre': found '", pre, "', expected gpt-2, smollm, llama-bpe or qwen2");
}

// Puts the first token in front of every text, where the file asks for it.
Json post_processor(const GgufFile& file, const std::vector<std::string>& tokens, const std::string& pre) {
  if (!file.boolean("tokenizer.ggml.add_bos_token", pre == "llama-bpe")) return byte_level(true);
  const int64_t id = file.integer("tokenizer.ggml.bos_token_id");
  check(id >= 0 && id < static_cast<int64_t>(tokens.size()), file.path(), ": key 'tokenizer.ggml.bos_token_id': found ",
        id, ", expected an id below ", tokens.size());
  const std::string& text = tokens[static_cast<size_t>(id)];
  const auto special = [&](int type) {
    return Json::object().set("SpecialToken", Json::object().set("id", text).set("type_id", type));
  };
  const auto sequence = [](const char* name, int type) {
    return Json::object().set("Sequence", Json::object().set("id", name).set("type_id", type));
  };
  Json processor = Json::object();
  processor.set("type", "TemplateProcessing");
  processor.set("single", Json::array().push(special(0)).push(sequence("A", 0)));
  processor.set("pair", Json::array().push(special(0)).push(sequence("A", 0)).push(special(1)).push(sequence("B", 1)));
  Json entry = Json::object();
  entry.set("id", text).set("ids", Json::array().push(Json::of(id)));
  entry.set("tokens", Json::array().push(Json::of(std::string_view(text))));
  return processor.set("special_tokens", Json::object().set(text, entry));
}

Json added_tokens(const GgufFile& file, const std::vector<std::string>& tokens) {
  Json list = Json::array();
  if (!file.has_value("tokenizer.ggml.token_type")) return list;
  const std::vector<int64_t>& types = file.integers("tokenizer.ggml.token_type");
  check(types.size() == tokens.size(), file.path(), ": key 'tokenizer.ggml.token_type': found ", types.size(),
        " entries, expected one for each of the ", tokens.size(), " tokens");
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] != kControlToken && types[i] != kUserToken) continue;
    Json token = Json::object();
    token.set("id", static_cast<int64_t>(i)).set("content", tokens[i]).set("single_word", false).set("lstrip", false);
    list.push(token.set("rstrip", false).set("normalized", false).set("special", types[i] == kControlToken));
  }
  return list;
}

// The model as text: an object of a hundred thousand keys is not built key by key.
std::string bpe_model(const GgufFile& file, const std::vector<std::string>& tokens, bool ignore_merges) {
  std::string text = R"({"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,)";
  text += cat(R"("end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":)",
              ignore_merges ? "true" : "false", R"(,"vocab":{)");
  for (size_t i = 0; i < tokens.size(); ++i) text += cat(i == 0 ? "" : ",", json_quoted(tokens[i]), ":", i);
  text += R"(},"merges":[)";
  const std::vector<std::string>& merges = file.texts("tokenizer.ggml.merges");
  for (size_t i = 0; i < merges.size(); ++i) {
    text += i == 0 ? "" : ",";
    text += json_quoted(merges[i]);
  }
  return text + "]}";
}

}  // namespace

std::string gguf_tokenizer_json(const GgufFile& file) {
  const std::string kind = file.text("tokenizer.ggml.model");
  check(kind == "gpt2", file.path(), ": key 'tokenizer.ggml.model': found '", kind,
        "', expected 'gpt2' (byte-level BPE)");
  const std::vector<std::string>& tokens = file.texts("tokenizer.ggml.tokens");
  const std::string pre = file.text("tokenizer.ggml.pre", "");
  Json normalizer;
  if (pre == "qwen2") normalizer = Json::object().set("type", "NFC");
  std::string text = R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":)";
  text += added_tokens(file, tokens).dump();
  text += R"(,"normalizer":)" + normalizer.dump() + R"(,"pre_tokenizer":)" + pre_tokenizer(file).dump();
  text += R"(,"post_processor":)" + post_processor(file, tokens, pre).dump();
  text += R"(,"decoder":)" + byte_level(true).dump();
  return text + R"(,"model":)" + bpe_model(file, tokens, pre == "llama-bpe") + "}";
}

}  // namespace matvlm
