// Reading of tokenizer.json. Whatever would change ids and is not implemented is an error, never ignored.
#include <algorithm>

#include "core/error.h"
#include "data/byte_alphabet.h"
#include "data/normalize.h"
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

// `pattern` of a Replace step: a string, not a regular expression.
std::string replaced_string(const Json& step) {
  const Json pattern = step.at("pattern");
  check(pattern.has("String"), pattern.where(), ": found ", pattern.dump(), ", expected a String");
  const std::string text = pattern.at("String").as_string();
  check(!text.empty(), pattern.where(), ": found an empty text, expected what is to be replaced");
  return text;
}

}  // namespace

Tokenizer Tokenizer::read_file(const std::string& path) { return from_json(Json::read_file(path)); }

Tokenizer Tokenizer::from_json(const Json& document) {
  Tokenizer out;
  out.document_ = document;
  out.sha256_ = matvlm::sha256(document.dump());
  const Json model = document.at("model");
  const Json pre_tokenizer = document.at("pre_tokenizer");
  const std::vector<Json> splits = steps_of(pre_tokenizer, "pretokenizers");
  const auto is_step = [&](const char* type) {
    return std::any_of(splits.begin(), splits.end(),
                       [&](const Json& step) { return step.at("type").as_string() == type; });
  };
  if (!is_step("ByteLevel") && (model.get("byte_fallback", false) || is_step("Metaspace"))) out.characters_.emplace();
  out.read_model(model);
  out.characters_ ? out.read_characters(model) : out.read_bytes(model);
  out.make_words();
  for (const Json& step : steps_of(member(document, "normalizer"), "normalizers")) out.read_normalizer(step);
  for (const Json& step : splits) out.read_pre_tokenizer(step);
  check(out.byte_level_seen_ || out.characters_, pre_tokenizer.where(),
        ": found no ByteLevel step, expected one: not byte-level");
  out.read_added_tokens(member(document, "added_tokens"));
  for (const Json& step : steps_of(member(document, "decoder"), "decoders")) out.read_decoder(step);
  for (const Json& step : steps_of(member(document, "post_processor"), "processors")) out.read_post_processor(step);
  return out;
}

void Tokenizer::read_normalizer(const Json& step) {
  const std::string type = step.at("type").as_string();
  if (type == "NFC") {
    normalizer_.add_nfc();
  } else if (characters_ && type == "Prepend") {
    normalizer_.add_prepend(step.at("prepend").as_string());
  } else if (characters_ && type == "Replace") {
    normalizer_.add_replace(replaced_string(step), step.at("content").as_string());
  } else {
    fail_type(step, characters_ ? "'NFC', 'Prepend' or 'Replace'" : "'NFC' or no normalizer");
  }
}

void Tokenizer::read_decoder(const Json& step) {
  const std::string type = step.at("type").as_string();
  if (!characters_) {
    if (type != "ByteLevel") fail_type(step, "'ByteLevel'");
    return;
  }
  if (type == "ByteFallback" || type == "Fuse") return;  // bytes are joined and repaired in any case
  if (type == "Strip") {
    check(step.at("content").as_string() == " " && step.get("stop", 0) == 0, step.where(), ": found ", step.dump(),
          ", expected spaces to be taken from the start alone");
    strip_start_ = step.at("start").as_int();
    return;
  }
  std::string from;
  std::string to = " ";
  if (type == "Metaspace") {
    from = step.at("replacement").as_string();
    first_without_spaces_ = step.get("prepend_scheme", "always") != std::string("never");
  } else if (type == "Replace") {
    from = replaced_string(step);
    to = step.at("content").as_string();
  } else {
    fail_type(step, "'Replace', 'ByteFallback', 'Fuse', 'Strip' or 'Metaspace'");
  }
  for (Token& token : tokens_) token.bytes = replace_all(token.bytes, from, to);
}

void Tokenizer::read_model(const Json& model) {
  if (model.has("type") && model.at("type").as_string() != "BPE") fail_type(model, "'BPE'");
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) expect_absent(model, key);
  if (!characters_) expect_absent(model, "byte_fallback");
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
  token.bytes = characters_ ? text : from_byte_characters(text).value_or(text);
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
    const int32_t a = id_of_merge_part(left, merge);
    const int32_t b = id_of_merge_part(right, merge);
    merges_.insert(a, b, {static_cast<int32_t>(rank), id_of_merge_part(left + right, merge)});
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
    if (token.normalized) token.content = normalizer_.apply(token.content);
    if (characters_) tokens_[static_cast<size_t>(id)].bytes = token.content;  // so Hugging Face's decoder gives it back
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
  if (characters_) {
    if (type != "Metaspace") fail_type(step, "'Metaspace', or 'ByteLevel' in a byte-level tokenizer");
    read_metaspace(step);
    return;
  }
  if (type == "Digits") {
    splits_.push_back(
        {step.get("individual_digits", false) ? SplitPattern::each_number : SplitPattern::numbers, {}, true});
    return;
  }
  if (type != "Split") fail_type(step, "'ByteLevel', 'Split' or 'Digits'");
  const Json regex = step.at("pattern").at("Regex");
  const std::string behavior = step.at("behavior").as_string();
  const bool inverted = step.get("invert", false);
  const bool supported = (behavior == "Isolated" && !inverted) || (behavior == "Removed" && inverted);
  check(supported, step.where(), ": found behavior '", behavior, "' with invert ", inverted ? "true" : "false",
        ", expected 'Isolated' without invert");
  Split split;
  split.known = known_split_pattern(regex.as_string());  // those cover every character: there are no gaps
  if (!split.known) split.regex.emplace(regex.as_string(), regex.where());
  split.keep_gaps = !inverted;
  splits_.push_back(std::move(split));
}

void Tokenizer::read_metaspace(const Json& step) {
  Metaspace& m = metaspace_.emplace();
  m.replacement = step.at("replacement").as_string();
  check(!m.replacement.empty(), step.where(), ": key 'replacement': found an empty text, expected a character");
  m.split = step.get("split", true);
  const std::string scheme = step.get("prepend_scheme", step.get("add_prefix_space", true) ? "always" : "never");
  check(scheme == "always" || scheme == "first" || scheme == "never", step.where(), ": key 'prepend_scheme': found '",
        scheme, "', expected 'always', 'first' or 'never'");
  m.prepend = scheme == "always"  ? Metaspace::Prepend::always
              : scheme == "first" ? Metaspace::Prepend::first
                                  : Metaspace::Prepend::never;
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
