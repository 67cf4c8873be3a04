// Tokenizer: ids and texts of Hugging Face tokenizers (golden/tokenizer), streaming, and the message of every bad file.
#include <gtest/gtest.h>

#include <functional>
#include <iterator>

#include "core/error.h"
#include "core/file.h"
#include "core/rng.h"
#include "data/bpe_trainer.h"
#include "data/normalize.h"
#include "data/tokenizer.h"
#include "data/utf8.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

const std::string kGolden = std::string(MATVLM_SOURCE_DIR) + "/tests/golden/tokenizer/";

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::vector<int32_t> ids_of(const Json& list) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < list.size(); ++i) out.push_back(static_cast<int32_t>(list.at(i).as_int()));
  return out;
}

// Number of texts compared, and of those whose decoded text was compared as well.
struct Compared {
  int64_t encoded = 0;
  int64_t decoded = 0;
};
Compared compare_golden(const std::string& file) {
  const Json cases = Json::read_file(kGolden + file);
  std::string name;
  std::optional<Tokenizer> tokenizer;
  Compared out;
  for (int64_t i = 0; i < cases.size(); ++i) {
    const Json entry = cases.at(i);
    if (entry.at("tokenizer").as_string() != name) {
      name = entry.at("tokenizer").as_string();
      tokenizer.emplace(Tokenizer::read_file(kGolden + name));
    }
    const std::vector<int32_t> ids = ids_of(entry.at("ids"));
    EXPECT_EQ(tokenizer->encode(entry.at("text").as_string()), ids) << name << " " << entry.at("text").dump();
    ++out.encoded;
    if (!entry.has("decoded")) continue;  // see golden/README.md
    EXPECT_EQ(tokenizer->decode(ids, false), entry.at("decoded").as_string());
    EXPECT_EQ(tokenizer->decode(ids, true), entry.at("decoded_skip_special").as_string());
    ++out.decoded;
  }
  return out;
}

TEST(Tokenizer, MatchesHuggingFaceOnGoldenTexts) {
  const Compared compared = compare_golden("cases.json");
  EXPECT_EQ(compared.encoded, 896);
  EXPECT_EQ(compared.decoded, 687);
}

// A document of characters, not bytes, with one change.
void expect_characters_rejected(const std::string& from, const std::string& to, const std::string& message) {
  std::string text = R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]}, "pre_tokenizer": null,
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "_"}, "content": " "},
    {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "byte_fallback": true, "vocab": {"a": 0, "_": 1, "_a": 2, "<0x62>": 3}, "merges": ["_ a"]}})";
  const Tokenizer whole = Tokenizer::from_json(Json::parse(text, "t.json"));
  EXPECT_EQ(whole.encode("a ab"), (std::vector<int32_t>{2, 2, 3}));
  EXPECT_EQ(whole.decode(whole.encode("a ab"), false), "a ab");
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  const std::string found = error_of([&] { Tokenizer::from_json(Json::parse(text, "t.json")); });
  EXPECT_TRUE(contains(found, "t.json") && contains(found, message)) << found;
}

TEST(Tokenizer, ModelsOfCharactersThatAreNotSupported) {
  expect_characters_rejected("Prepend", "NFKC", "found 'NFKC', expected 'NFC', 'Prepend' or 'Replace'");
  expect_characters_rejected("{\"String\": \" \"}", "{\"Regex\": \" \"}", "expected a String");
  expect_characters_rejected("{\"String\": \"_\"}", "{\"String\": \"\"}", "found an empty text");
  expect_characters_rejected("\"stop\": 0", "\"stop\": 1", "expected spaces to be taken from the start alone");
  expect_characters_rejected("\"Fuse\"", "\"CTC\"", "found 'CTC', expected 'Replace'");
  expect_characters_rejected("\"pre_tokenizer\": null", "\"pre_tokenizer\": {\"type\": \"Whitespace\"}",
                             "found 'Whitespace', expected 'Metaspace'");
  expect_characters_rejected(
      "\"pre_tokenizer\": null",
      "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"last\"}",
      "found 'last', expected 'always', 'first' or 'never'");
}

// Why a pattern cannot be used in this build, or nothing.
std::string regex_error(const std::string& pattern) {
  return error_of([&] { Regex(pattern, "here"); });
}

TEST(Tokenizer, OtherPatternsNeedPcre2) {
  if (!regex_error("a").empty()) {
    EXPECT_EQ(regex_error("a"),
              "here: found the pattern 'a', expected that of GPT-2, Llama 3 or Qwen 2: this build has no PCRE2 "
              "(libpcre2-dev)");
    EXPECT_TRUE(contains(error_of([] { compare_golden("pcre2/cases.json"); }), "pcre2/gpt4o.json: key"));
    return;
  }
  const Compared compared = compare_golden("pcre2/cases.json");
  EXPECT_EQ(compared.encoded, 120);
  EXPECT_EQ(compared.decoded, 120);
  EXPECT_TRUE(contains(regex_error("(a"), "here: found the pattern '(a', which is no regular expression: "));
}

// The matchers written by hand against the expressions that they stand for.
TEST(Pretokenizer, MatchersDoWhatTheirExpressionsSay) {
  if (!regex_error("a").empty()) return;  // OtherPatternsNeedPcre2 has looked at the message
  const std::string llama3 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  std::string qwen2 = llama3;
  qwen2.erase(qwen2.find("{1,3}"), 5);
  const std::pair<SplitPattern, Regex> pairs[] = {
      {SplitPattern::gpt2,
       Regex(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", "gpt2")},
      {SplitPattern::llama3, Regex(llama3, "llama3")},
      {SplitPattern::qwen2, Regex(qwen2, "qwen2")},
      {SplitPattern::each_number, Regex(R"(\p{N})", "each")},
      {SplitPattern::numbers, Regex(R"(\p{N}+)", "all")}};
  EXPECT_EQ(known_split_pattern(llama3), SplitPattern::llama3);
  EXPECT_EQ(known_split_pattern(qwen2), SplitPattern::qwen2);
  const std::string ends[] = {"'s", "'RE", "'ll", " ",  "  ", "\n", "\r\n",    "\t",
                              "a",  "Z",   "7",   "42", "!",  "?!", "\xC2\xA0"};
  for (uint64_t i = 0; i < 3000; ++i) {
    const Rng rng{5, i};
    std::string text;
    for (uint64_t k = 0; k < 1 + rng.below(0, 30); ++k) {
      if (rng.below(3 * k + 1, 2) == 0) {
        text += ends[rng.below(3 * k + 2, std::size(ends))];
        continue;
      }
      // Any code point of the first three planes' older blocks, surrogates left out.
      const auto code = static_cast<uint32_t>(rng.below(3 * k + 3, 0x2000));
      append_utf8(text, code);
    }
    for (const auto& [pattern, regex] : pairs) {
      std::vector<std::string_view> by_hand;
      std::vector<std::string_view> by_regex;
      split_text(text, pattern, by_hand);
      regex.split(text, true, by_regex);
      ASSERT_EQ(by_hand, by_regex) << Json::of(text).dump();
    }
  }
}

TEST(Tokenizer, StreamingGivesTheSameTextAndNeverHalfACharacter) {
  const Tokenizer tokenizer = Tokenizer::read_file(kGolden + "gpt2.json");
  const std::string text = "東京 côte 👩🏽‍🚀 d'ivoire<|endoftext|>Ελλάδα";
  const std::vector<int32_t> ids = tokenizer.encode(text);
  StreamDecoder stream(tokenizer, false);
  std::string joined;
  for (const int32_t id : ids) {
    const std::string part = stream.add(id);
    EXPECT_FALSE(contains(part, "\xEF\xBF\xBD"));
    joined += part;
  }
  EXPECT_EQ(joined + stream.finish(), text);
  StreamDecoder cut(tokenizer, true);
  EXPECT_EQ(cut.add(tokenizer.encode("東").front()), "");
  EXPECT_EQ(cut.finish(), "\xEF\xBF\xBD");
}

TEST(Tokenizer, BytesThatAreNoTextComeBack) {
  const Tokenizer tokenizer = Tokenizer::read_file(kGolden + "gpt2.json");
  const std::string broken = "a\xFF\xC3 b\xE2\x82";
  std::string bytes;
  for (const int32_t id : tokenizer.encode(broken)) bytes += tokenizer.token_bytes(id);
  EXPECT_EQ(bytes, broken);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(broken), false), repair_utf8(broken));
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{1000000, -200}, false), "");
}

TEST(Tokenizer, LongWordsTakeNoQuadraticTime) {
  const Tokenizer tokenizer = Tokenizer::read_file(kGolden + "gpt2.json");
  const std::string word(300000, 'e');
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(word), false), word);
}

TEST(Tokenizer, VocabSizeIsLargestIdPlusOneAndSaveKeepsTheDocument) {
  testing::TempDir dir;
  const Tokenizer tokenizer = Tokenizer::read_file(kGolden + "added.json");
  EXPECT_EQ(tokenizer.vocab_size(), 610);
  EXPECT_EQ(tokenizer.token_to_id("<|endoftext|>"), 0);
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.token_to_id("no such token").has_value());
  tokenizer.save(dir.file("tokenizer.json"));
  const Tokenizer copy = Tokenizer::read_file(dir.file("tokenizer.json"));
  EXPECT_EQ(copy.sha256(), tokenizer.sha256());
  EXPECT_NE(copy.sha256(), Tokenizer::read_file(kGolden + "gpt2.json").sha256());
}

// A document with one change; `where` and `what` must stand in the message.
void expect_rejected(const std::string& from, const std::string& to, const std::string& where,
                     const std::string& what) {
  std::string text = R"({"added_tokens": [{"id": 3, "content": "<e>", "special": true}], "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})";
  EXPECT_NO_THROW(Tokenizer::from_json(Json::parse(text, "t.json")));
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  const std::string message = error_of([&] { Tokenizer::from_json(Json::parse(text, "t.json")); });
  EXPECT_TRUE(contains(message, "t.json") && contains(message, where) && contains(message, what)) << message;
  EXPECT_FALSE(contains(message, "\n")) << message;
}

TEST(Tokenizer, BadDocumentsAreNamed) {
  expect_rejected("\"BPE\"", "\"WordPiece\"", "model.type", "'WordPiece', expected 'BPE'");
  expect_rejected("\"merges\"", "\"other\"", "'model'", "merges");
  expect_rejected("\"vocab\"", "\"other\"", "'model'", "vocab");
  expect_rejected("\"model\"", "\"other\"", "t.json", "'model'");
  expect_rejected("\"pre_tokenizer\"", "\"other\"", "t.json", "'pre_tokenizer'");
  expect_rejected("\"b\": 1", "\"b\": 0", "model.vocab.b", "found id 0 for 'b' and for 'a'");
  expect_rejected("\"b\": 1", "\"b\": -1", "model.vocab.b", "found id -1");
  expect_rejected("\"b\": 1", "\"b\": 1e3", "model.vocab.b", "expected");
  expect_rejected("\"b\": 1", "\"b\": 99999999999", "model.vocab.b", "found id 99999999999");
  expect_rejected("\"b\": 1", "\"a\": 1", "model.vocab", "a");
  expect_rejected("{\"a\": 0, \"b\": 1, \"ab\": 2}", "{}", "model.vocab", "no tokens");
  expect_rejected("a b", "a c", "model.merges[0]", "unknown token 'c'");
  expect_rejected("a b", "b a", "model.merges[0]", "unknown token 'ba'");
  expect_rejected("a b", "ab", "model.merges[0]", "one space");
  expect_rejected("\"a b\"", "[\"a\"]", "model.merges[0]", "expected 2");
  expect_rejected("\"id\": 3", "\"id\": 2", "added_tokens[0]", "found id 2 for '<e>' and for 'ab'");
  expect_rejected("\"<e>\"", "\"a\"", "added_tokens[0]", "found id 3 for 'a', expected 0");
  expect_rejected("\"content\"", "\"text\"", "added_tokens[0]", "content");
  expect_rejected("\"ByteLevel\", \"add", "\"Whitespace\", \"add", "pre_tokenizer.type", "'Whitespace'");
  expect_rejected("\"add_prefix_space\": false", "\"x\": 1", "pre_tokenizer", "add_prefix_space");
  expect_rejected("{\"type\": \"ByteLevel\", \"add_prefix_space\": false}", "null", "pre_tokenizer", "not byte-level");
  expect_rejected("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFD\"}", "normalizer.type",
                  "'NFD', expected 'NFC' or no normalizer");
  expect_rejected("{\"type\": \"ByteLevel\"}", "{\"type\": \"WordPiece\"}", "decoder.type", "'WordPiece'");
  expect_rejected("\"BPE\"", "\"BPE\", \"byte_fallback\": true", "model.byte_fallback", "true");
  expect_rejected("\"BPE\"", "\"BPE\", \"unk_token\": \"?\"", "model.unk_token", "unknown token '?'");
  const std::string split =
      R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "(\\w+"}, "behavior": "Isolated"}]})";
  expect_rejected("{\"type\": \"ByteLevel\", \"add_prefix_space\": false}", split, "pretokenizers[0].pattern.Regex",
                  "found the pattern '(\\w+'");
}

TEST(Tokenizer, EmptyTruncatedAndMissingFilesAreNamed) {
  testing::TempDir dir;
  const std::string path = dir.file("tokenizer.json");
  EXPECT_TRUE(contains(error_of([&] { Tokenizer::read_file(path); }), path));
  const std::string whole = read_file(kGolden + "gpt2.json");
  for (const size_t size : {size_t{0}, size_t{1}, whole.size() / 2, whole.size() - 3}) {
    write_file_atomic(path, whole.substr(0, size));
    const std::string message = error_of([&] { Tokenizer::read_file(path); });
    EXPECT_TRUE(contains(message, path)) << size << " " << message;
    EXPECT_FALSE(contains(message, "\n"));
  }
}

TEST(Tokenizer, BytesThatTheVocabularyLacksAreLeftOutOrUnknown) {
  const std::string head = R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "model": {)";
  const Tokenizer strict = Tokenizer::from_json(Json::parse(head + R"("vocab": {"a": 0}, "merges": []}})", "t"));
  EXPECT_EQ(strict.encode("aba"), (std::vector<int32_t>{0, 0}));
  EXPECT_TRUE(strict.encode("bb").empty());
  EXPECT_TRUE(strict.encode(std::string(100, 'b')).empty());
  const Tokenizer lenient = Tokenizer::from_json(
      Json::parse(head + R"("unk_token": "<u>", "vocab": {"a": 0, "<u>": 1}, "merges": []}})", "t"));
  EXPECT_EQ(lenient.encode("aba"), (std::vector<int32_t>{0, 1, 0}));
}

TEST(Tokenizer, BeginTokenOfThePostProcessorIsKnown) {
  const std::string text = R"({"added_tokens": [{"id": 1, "content": "<s>", "special": true}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "model": {"vocab": {"a": 0}, "merges": []},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}})";
  EXPECT_EQ(Tokenizer::from_json(Json::parse(text, "t")).prefix_ids(), std::vector<int32_t>{1});
}

TEST(Tokenizer, FormCIsThatOfTheStandard) {
  const std::pair<const char*, const char*> cases[] = {
      {"plain", "plain"},
      {"e\xCC\x81", "\xC3\xA9"},                                 // e + acute
      {"\xC3\xA9", "\xC3\xA9"},                                  // composed already
      {"q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87"},                // dot above, dot below: ordered, nothing to compose
      {"s\xCC\x87\xCC\xA3", "\xE1\xB9\xA9"},                     // composes through both
      {"a\xCC\x81\xCC\x81", "\xC3\xA1\xCC\x81"},                 // the second acute is blocked
      {"\xE2\x84\xAB", "\xC3\x85"},                              // Angstrom sign
      {"\xE0\xA5\x98", "\xE0\xA4\x95\xE0\xA4\xBC"},              // excluded from composition
      {"\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xED\x95\x9C"},  // Hangul, three parts
      {"\xED\x95\x98\xE1\x86\xAB", "\xED\x95\x9C"},              // a syllable and a trailing consonant
      {"\xEF\xA9\xB0", "\xE4\xB8\xA6"},                          // compatibility ideograph
      {"a\xFF\xCC\x81", "a\xFF\xCC\x81"},                        // nothing composes over a broken byte
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(to_nfc(text), expected);
    EXPECT_EQ(to_nfc(expected), expected);
    EXPECT_TRUE(text == std::string(expected) || !is_nfc_quick(text)) << expected;
  }
}

TEST(Utf8, RepairAndTailFollowTheStandard) {
  EXPECT_EQ(repair_utf8("a\xF0\x9F\x92z"), "a\xEF\xBF\xBDz");      // one part, one replacement
  EXPECT_EQ(repair_utf8("\xC0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD");  // overlong
  EXPECT_EQ(repair_utf8("\xED\xA0\x80").size(), 9U);               // surrogate: three parts
  EXPECT_EQ(incomplete_utf8_tail("ab\xF0\x9F\x92"), 3);
  EXPECT_EQ(incomplete_utf8_tail("ab\xE2"), 1);
  EXPECT_EQ(incomplete_utf8_tail("ab\x92"), 0);
  EXPECT_EQ(incomplete_utf8_tail("\xC3\xA9"), 0);
  EXPECT_EQ(strip(" \t\xC2\xA0 a b \x1C\n"), "a b");
  EXPECT_EQ(strip(" \n "), "");
}

}  // namespace
}  // namespace matvlm
