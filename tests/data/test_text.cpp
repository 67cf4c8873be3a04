// Plain texts: reading, packing into rows with boundaries, what a reader gets back; templates of conversations without
// pictures.
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/file.h"
#include "data/batch.h"
#include "data/bpe_trainer.h"
#include "data/dataset.h"
#include "data/llava_json.h"
#include "data/loader.h"
#include "data/pack_text.h"
#include "data/text_source.h"
#include "launch/template_file.h"
#include "tests/support/temp_dir.h"

namespace matvlm::testing {
namespace {

template <class Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

const Tokenizer& tokenizer() {
  static const Tokenizer trained = train_bpe(
      {"one two three four five six seven eight nine ten"},
      {300,
       {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
       1});
  return trained;
}

class Texts : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    write_file_atomic(dir_.file(name), text);
    return dir_.file(name);
  }
  std::vector<std::string> read(const std::vector<std::string>& paths) {
    std::vector<std::string> out;
    read_texts(paths, {}, [&](const TextDocument& d) { out.push_back(d.text); });
    return out;
  }
  TextPackReport pack(const std::vector<std::string>& paths, int64_t length, bool skip = false) {
    return pack_texts({paths, dir_.file("pack.h5"), length, "", skip}, tokenizer());
  }
  TempDir dir_;
};

TEST_F(Texts, FilesAndLinesInTheirOrder) {
  const std::string plain = write("a.txt", "one\ntwo\n");
  const std::string lines =
      write("b.jsonl", "{\"text\": \"three\"}\n\n{\"id\": 3, \"text\": \"v\\u00e4\"}\n{\"text\": \"  \"}");
  EXPECT_EQ(read({lines, plain}), (std::vector<std::string>{"three", "v\xC3\xA4", "one\ntwo\n"}));
  int64_t done = 0;
  int64_t total = 0;
  read_texts(
      {plain, lines}, {}, [](const TextDocument&) {},
      [&](int64_t d, int64_t t) {
        EXPECT_GE(d, done);
        done = d;
        total = t;
      });
  EXPECT_EQ(done, total);
  EXPECT_EQ(total, static_cast<int64_t>(read_file(plain).size() + read_file(lines).size()));
}

TEST_F(Texts, BadDocumentsAreNamedOrCounted) {
  const std::string lines = write("b.jsonl", "{\"text\": \"one two\"}\nno json\n{\"texts\": \"x\"}\n{\"text\": 3}\n");
  EXPECT_TRUE(error_of([&] { read({lines}); }).starts_with(lines + ": line 2"));
  const std::string latin = write("latin.txt", "caf\xE9 one");
  EXPECT_EQ(error_of([&] { read({latin}); }),
            latin + ": found a byte that is not UTF-8 at byte 3, expected UTF-8 text");
  EXPECT_TRUE(error_of([&] { read({dir_.file("none.txt")}); }).starts_with(dir_.file("none.txt") + ": cannot read"));
  const TextPackReport report = pack({lines, latin}, 8, true);
  EXPECT_EQ(report.documents, 1);
  EXPECT_EQ(report.skipped, (std::map<std::string, int64_t>{{"malformed", 3}, {"not UTF-8", 1}}));
  EXPECT_EQ(report.messages.size(), 4U);
}

TEST_F(Texts, RowsAreFullAndKnowTheirBoundaries) {
  const std::string text = "one two three four five";
  const std::vector<int32_t> ids = tokenizer().encode(text);
  const int32_t end = *tokenizer().token_to_id("<|endoftext|>");
  const auto n = static_cast<int64_t>(ids.size()) + 1;
  std::vector<int32_t> stream;
  for (int i = 0; i < 3; ++i) {
    stream.insert(stream.end(), ids.begin(), ids.end());
    stream.push_back(end);
  }
  const std::string line = "{\"text\": \"" + text + "\"}\n";
  const std::string path = write("a.jsonl", line + line + line);
  const TextPackReport report = pack({path}, n + 2);  // the second text starts in the first row
  EXPECT_EQ(report.rows, 3);
  EXPECT_EQ(report.tokens, 3 * n);
  EXPECT_EQ(report.predicted, 3 * n - 5);  // three texts, two of them continued in another row
  const Dataset data(dir_.file("pack.h5"));
  EXPECT_TRUE(data.is_text());
  EXPECT_EQ(data.size(), 3);
  EXPECT_EQ(data.n_turns(0), 0);
  EXPECT_EQ(data.sample_id(0), path + ":1");
  EXPECT_EQ(data.sample_id(1), path + ":2");
  std::vector<int32_t> read;
  for (int64_t i = 0; i < 3; ++i) {
    const PackedSample row = data.sample(i);
    EXPECT_EQ(row.labels, row.input_ids);
    read.insert(read.end(), row.input_ids.begin(), row.input_ids.end());
  }
  EXPECT_EQ(read, stream);
  EXPECT_EQ(data.sample(0).sequences, (std::vector<int64_t>{n, n + 2}));
  EXPECT_EQ(data.sample(1).sequences, (std::vector<int64_t>{n - 2, n + 2}));
  EXPECT_EQ(data.sample(2).sequences, (std::vector<int64_t>{n - 4}));
  const Batch batch = make_batch(data, {2, 0}, {});
  EXPECT_EQ(batch.sequences, (std::vector<int64_t>{0, n - 4, 2 * n - 4, 2 * n - 2}));
  EXPECT_EQ(batch.cu_seqlens, (std::vector<int64_t>{0, n - 4, 2 * n - 2}));
  EXPECT_EQ(error_of([&] { data.form(); }),
            dir_.file("pack.h5") + ": found a pack of plain texts, expected conversations");
}

TEST_F(Texts, WhatCannotBePacked) {
  const std::string path = write("a.txt", "one two");
  EXPECT_EQ(error_of([&] { pack({path}, 1); }), "pack: found max_length 1, expected at least 2");
  EXPECT_EQ(error_of([&] { pack({write("empty.txt", " \n")}, 8); }),
            dir_.file("empty.txt") + ": found no text to learn from, expected at least two tokens");
  const Tokenizer bare = train_bpe({"one"}, {260, {"<pad>"}, 1});
  EXPECT_EQ(error_of([&] {
              pack_texts({{path}, dir_.file("p.h5"), 8, "", false}, bare);
            }),
            "tokenizer: found none of <|endoftext|>, <|end_of_text|> and </s>, expected an end token to be named");
  EXPECT_EQ(error_of([&] {
              pack_texts({{path}, dir_.file("p.h5"), 8, "</s>", false}, bare);
            }),
            "tokenizer: found no token '</s>', expected the end token to be one");
}

TEST_F(Texts, AConversationPackWithoutAPictureFolder) {
  const std::string turns = R"("conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two"}]})";
  PackOptions options;
  options.json_path = write("chat.json", R"([{"id": "a", )" + turns + "]");
  options.output = dir_.file("chat.h5");
  options.template_name = "chatml";
  options.tokens_per_image = 0;
  options.max_length = 128;
  EXPECT_EQ(pack_dataset(options, tokenizer()).samples, 1);
  PackExpectation expected;
  expected.tokens_per_image = 25;
  const Dataset data(options.output, expected);  // without pictures, whatever a picture would take
  EXPECT_EQ(data.form(), find_template("chatml"));
  options.json_path =
      write("picture.json", R"([{"id": "a", "image": "a.png", "conversations": [{"from": "human", "value": "<image>"},
      {"from": "gpt", "value": "two"}]}])");
  EXPECT_EQ(error_of([&] { pack_dataset(options, tokenizer()); }),
            options.json_path + ": sample 0 (id 'a'): found the picture 'a.png', but no picture folder was given");
}

// Labels of a conversation as text, '.' for every token that is not learnt.
std::string learnt(const EncodedConversation& c) {
  std::string out;
  for (const int32_t label : c.labels)
    out += label == kIgnoreLabel ? "." : tokenizer().decode(std::vector<int32_t>{label}, false);
  while (out.find("..") != std::string::npos) out.erase(out.find(".."), 1);
  return out;
}

TEST(Templates, ChatmlAndLlama) {
  const std::vector<Turn> turns = {{"one", "two", ""}, {"three ", " four", ""}};
  EncodedConversation c = encode_conversation(turns, find_template("chatml"), tokenizer());
  EXPECT_TRUE(c.consistent);
  EXPECT_EQ(tokenizer().decode(c.input_ids, false),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\none<|im_end|>\n"
            "<|im_start|>assistant\ntwo<|im_end|>\n<|im_start|>user\nthree <|im_end|>\n<|im_start|>assistant\n "
            "four<|im_end|>\n");
  EXPECT_EQ(learnt(c), ".two<|im_end|>. four<|im_end|>.");
  c = encode_conversation(turns, find_template("llama"), tokenizer());
  EXPECT_TRUE(c.consistent);
  EXPECT_EQ(tokenizer().decode(c.input_ids, false),
            "<|start_header_id|>user<|end_header_id|>\n\none<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            "two<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nthree<|eot_id|><|start_header_id|>assistant"
            "<|end_header_id|>\n\nfour<|eot_id|>");
  EXPECT_EQ(learnt(c), ".two<|eot_id|>.four<|eot_id|>");
  // A text that holds an end token, or that joins the template's own line end, is not learnt from.
  EXPECT_FALSE(encode_conversation({{"one", "two<|im_end|>", ""}}, find_template("chatml"), tokenizer()).consistent);
  EXPECT_FALSE(encode_conversation({{"a<|im_end|>", "two", ""}}, find_template("chatml"), tokenizer()).consistent);
  EXPECT_EQ(
      tokenizer().decode(encode_prompt({{"one", "", ""}}, find_template("llama"), tokenizer()), false),
      "<|start_header_id|>user<|end_header_id|>\n\none<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST_F(Texts, AUsersTemplate) {
  const std::string path = write("mine.yaml",
                                 "name: mine\nsystem: \"Be brief.\\n\"\nuser_prefix: \"Q: \"\nuser_suffix: \"\\n\"\n"
                                 "assistant_prefix: \"A:\"\nend_token: <|endoftext|>\nturn_end: \"\\n\"\ntrim: true\n");
  const ConversationTemplate form = load_template(path);
  EXPECT_EQ(form.name, "mine");
  EXPECT_EQ(form.answer_prefix, " ");
  EXPECT_TRUE(form.trim);
  EXPECT_EQ(template_from_json(template_json(form)), form);
  const EncodedConversation c = encode_conversation({{"one ", "two", ""}}, form, tokenizer());
  EXPECT_EQ(tokenizer().decode(c.input_ids, false), "Be brief.\nQ: one\nA: two<|endoftext|>\n");
  EXPECT_EQ(learnt(c), ". two<|endoftext|>.");
  EXPECT_EQ(load_template("phi").name, "phi");
  EXPECT_EQ(error_of([] { load_template("vicuna"); }), "template: found 'vicuna', expected 'phi', 'llama' or 'chatml'");
  const auto error = [&](const std::string& text) {
    const std::string bad = write("bad.yaml", text);
    const std::string message = error_of([&] { load_template(bad); });
    EXPECT_TRUE(message.starts_with(bad)) << message;
    return message.substr(std::min(bad.size(), message.size()));
  };
  EXPECT_EQ(error("name: a\nname: b\n"), ":2: key 'name': found twice, expected once");
  EXPECT_EQ(error("trim: maybe\n"), ":1: key 'trim': found 'maybe', expected true or false");
  EXPECT_EQ(error("- a\n"), ": found a list, expected the keys of a template");
  EXPECT_EQ(error("system: [a]\n"), ":1: key 'system': found a list, expected a text");
  EXPECT_TRUE(error("nam: a\n").find("unknown key of a template") != std::string::npos);
  EXPECT_EQ(error("name: a\nassistant_prefix: x\n"), ": key 'end_token': found nothing, expected one token");
  EXPECT_EQ(error("name: text\nend_token: x\n"), ": key 'name': found 'text', expected a name other than 'text'");
  EXPECT_EQ(error("name: a\nend_token: x\n"),
            ": key 'assistant_prefix': found nothing, expected what stands before an answer");
  EXPECT_EQ(error("name: a\nend_token: x\nassistant_prefix: y\nimage_prefix: z\n"),
            ": key 'image_prefix': found 'z', expected a text with <image>");
}

}  // namespace
}  // namespace matvlm::testing
