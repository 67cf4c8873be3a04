// Reading of tokenizer.json. Whatever would change ids and is not implemented is an error, never ignored.
#include <algorithm>

#include "core/error.h"
#include "core/gguf_model.h"
#include "data/byte_alphabet.h"
#include "data/sha256.h"
#include "data/tokenizer.h"

namespace matvlm {
namespace {

constexpr int64_t kMaxId = (int64_t{1} << 24) - 1;  // far above any vocabulary; keeps the table by id small

Json member(const Json& json, std::string_view key) { return json.has(key) ? json.at(key) : Json(); }

// Steps of a component that is null, one step, or a Sequence of steps stored under `list`.
std::vector<Json> steps_of(const Json& component, std::string_view list) {
  if (component.is_null()) return {};
  if (component.at("type").as_string() != "Sequence") return {component};
  std::vector<Json> out;
  const Json steps = component.at(list);
  for (int64_t i = 0; i < steps.size(); ++i) out.push_back(steps.at(i));
  return out;
}

[[noreturn]] void fail_type(const Json& step, const char* expected) {
  fail(step.at("type").where(), ": found '", step.at("type").as_string(), "', expected ", expected);
}

void expect_absent(const Json& model, std::string_view key) {
  const Json value = member(model, key);
  const bool absent = value.is_null() || (value.is_string() && value.as_string().empty()) ||
                      (value.kind() == Json::Kind::boolean && !value.as_bool());
  check(absent, value.where(), ": found ", value.dump(), ", expected null: not supported in a byte-level tokenizer");
}

}  // namespace

Tokenizer Tokenizer::read_file(const std::string& path) {
  const std::string gguf = gguf_file_of(path);
  if (gguf.empty()) return from_json(Json::read_file(path));
  return from_json(Json::parse(gguf_tokenizer_json(GgufFile(gguf)), path + ": tokenizer"));
}

Tokenizer Tokenizer::from_json(const Json& document) {
  Tokenizer out;
  out.document_ = document;
  out.sha256_ = matvlm::sha256(document.dump());
  out.read_model(document.at("model"));
  out.read_bytes(document.at("model"));
  out.read_added_tokens(member(document, "added_tokens"));
  for (const Json& step : steps_of(member(document, "normalizer"), "normalizers")) {
    fail_type(step, "no normalizer: only texts taken as they are are supported");
  }
  const Json pre_tokenizer = document.at("pre_tokenizer");
  for (const Json& step : steps_of(pre_tokenizer, "pretokenizers")) out.read_pre_tokenizer(step);
  check(out.byte_level_seen_, pre_tokenizer.where(), ": found no ByteLevel step, expected one: not byte-level");
  for (const Json& step : steps_of(member(document, "post_processor"), "processors")) out.read_post_processor(step);
  const std::vector<Json> decoders = steps_of(member(document, "decoder"), "decoders");
  for (const Json& step : decoders) {
    if (step.at("type").as_string() != "ByteLevel") fail_type(step, "'ByteLevel'");
  }
  return out;
}

void Tokenizer::read_model(const Json& model) {
  if (model.has("type") && model.at("type").as_string() != "BPE") fail_type(model, "'BPE'");
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
    expect_absent(model, key);
  }
  ignore_merges_ = model.get("ignore_merges", false);
  read_vocabulary(model.at("vocab"));
  read_merges(model.at("merges"));
}

void Tokenizer::put_token(int64_t id, const std::string& text, const Json& place) {
  check(id >= 0 && id <= kMaxId, place.where(), ": found id ", id, ", expected 0..", kMaxId);
  if (id >= vocab_size()) tokens_.resize(static_cast<size_t>(id + 1));
  Token& token = tokens_[static_cast<size_t>(id)];
  check(!token.used || token.text == text, place.where(), ": found id ", id, " for '", text, "' and for '", token.text,
        "', expected different ids");
  token.used = true;
  token.text = text;
  token.bytes = from_byte_characters(text).value_or(text);
  ids_[text] = static_cast<int32_t>(id);
}

void Tokenizer::read_vocabulary(const Json& vocabulary) {
  check(vocabulary.is_object() && vocabulary.size() > 0, vocabulary.where(),
        ": found no tokens, expected an object of tokens and ids");
  for (const std::string& text : vocabulary.keys()) {
    const Json id = vocabulary.at(text);
    put_token(id.as_int(), text, id);
  }
}

int32_t Tokenizer::id_of_merge_part(const std::string& part, const Json& place) const {
  const auto found = ids_.find(part);
  check(found != ids_.end(), place.where(), ": found the unknown token '", part, "', expected tokens of model.vocab");
  return found->second;
}

void Tokenizer::read_merges(const Json& merges) {
  check(merges.is_array(), merges.where(), ": found no array, expected the list of merges");
  for (int64_t rank = 0; rank < merges.size(); ++rank) {
    const Json merge = merges.at(rank);
    std::string left;
    std::string right;
    if (merge.is_array()) {
      check(merge.size() == 2, merge.where(), ": found ", merge.size(), " parts, expected 2");
      left = merge.at(int64_t{0}).as_string();
      right = merge.at(1).as_string();
    } else {
      const std::string line = merge.as_string();
      check(std::count(line.begin(), line.end(), ' ') == 1, merge.where(), ": found '", line,
            "', expected two tokens with one space between them");
      left = line.substr(0, line.find(' '));
      right = line.substr(line.find(' ') + 1);
    }
    const auto a = static_cast<uint32_t>(id_of_merge_part(left, merge));
    const auto b = static_cast<uint32_t>(id_of_merge_part(right, merge));
    merges_[static_cast<uint64_t>(a) << 32U | b] = {static_cast<int32_t>(rank), id_of_merge_part(left + right, merge)};
  }
}

void Tokenizer::read_bytes(const Json& model) {
  const std::string unknown = model.get("unk_token", "");
  if (!unknown.empty()) unknown_id_ = id_of_merge_part(unknown, model.at("unk_token"));
  byte_ids_.assign(256, unknown_id_);
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto place = ids_.find(byte_character(static_cast<uint8_t>(byte)));
    if (place != ids_.end()) byte_ids_[byte] = place->second;
    check(place != ids_.end() || unknown.empty() || !model.get("fuse_unk", false), model.where(),
          ": found fuse_unk with a vocabulary that lacks byte ", byte, ", expected every byte or no fuse_unk");
  }
}

void Tokenizer::read_added_tokens(const Json& list) {
  if (list.is_null()) return;
  for (int64_t i = 0; i < list.size(); ++i) {
    const Json entry = list.at(i);
    AddedToken token;
    token.content = entry.at("content").as_string();
    const int64_t id = entry.at("id").as_int();
    const auto known = ids_.find(token.content);
    if (known != ids_.end() && known->second != id) {
      fail(entry.where(), ": found id ", id, " for '", token.content, "', expected ", known->second,
           ", which it has elsewhere in the file");
    }
    put_token(id, token.content, entry.at("id"));
    token.id = static_cast<int32_t>(id);
    token.special = entry.get("special", false);
    token.lstrip = entry.get("lstrip", false);
    token.rstrip = entry.get("rstrip", false);
    token.single_word = entry.get("single_word", false);
    token.normalized = entry.get("normalized", !token.special);
    tokens_[static_cast<size_t>(id)].special = token.special;
    tokens_[static_cast<size_t>(id)].bytes = token.content;
    (token.normalized ? added_normalized_ : added_).add(token);
  }
}

void Tokenizer::read_pre_tokenizer(const Json& step) {
  const std::string type = step.at("type").as_string();
  check(!byte_level_seen_, step.where(), ": found the step '", type, "' after ByteLevel, expected ByteLevel last");
  if (type == "ByteLevel") {
    byte_level_seen_ = true;
    add_prefix_space_ = step.at("add_prefix_space").as_bool();
    split_after_prefix_ = step.get("use_regex", true);
    return;
  }
  if (type != "Split") fail_type(step, "'ByteLevel' or 'Split'");
  const Json regex = step.at("pattern").at("Regex");
  const std::optional<SplitPattern> pattern = known_split_pattern(regex.as_string());
  check(pattern.has_value(), regex.where(), ": found the pattern '", regex.as_string(),
        "', expected that of GPT-2, Llama 3 or Qwen 2");
  // With patterns that cover every character, Isolated and Removed-inverted are the same split.
  const std::string behavior = step.at("behavior").as_string();
  const bool inverted = step.get("invert", false);
  const bool supported = (behavior == "Isolated" && !inverted) || (behavior == "Removed" && inverted);
  check(supported, step.where(), ": found behavior '", behavior, "' with invert ", inverted ? "true" : "false",
        ", expected 'Isolated' without invert");
  splits_.push_back(*pattern);
}

void Tokenizer::read_post_processor(const Json& step) {
  const std::string type = step.at("type").as_string();
  if (type == "ByteLevel") return;  // changes offsets only
  if (type != "TemplateProcessing") fail_type(step, "'ByteLevel' or 'TemplateProcessing'");
  const Json single = step.at("single");
  bool before_text = true;
  for (int64_t i = 0; i < single.size(); ++i) {
    const Json part = single.at(i);
    if (part.has("Sequence")) {
      before_text = false;
      continue;
    }
    check(before_text, part.where(), ": found a token after the text, expected tokens before it only");
    const Json ids = step.at("special_tokens").at(part.at("SpecialToken").at("id").as_string()).at("ids");
    for (int64_t k = 0; k < ids.size(); ++k) {
      const int64_t id = ids.at(k).as_int();
      check(id >= 0 && id < vocab_size(), ids.where(), ": found id ", id, ", expected 0..", vocab_size() - 1);
      prefix_ids_.push_back(static_cast<int32_t>(id));
    }
  }
}

}  // namespace matvlm
