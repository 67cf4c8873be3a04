#include "data/pack_text.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "data/dataset.h"
#include "data/pack_writer.h"
#include "data/text_source.h"

namespace matvlm {
namespace {

constexpr size_t kMaxMessages = 20;

int32_t end_token_of(const TextPackOptions& options, const Tokenizer& tokenizer) {
  if (!options.end_token.empty()) {
    const auto id = tokenizer.token_to_id(options.end_token);
    check(id.has_value(), "tokenizer: found no token '", options.end_token, "', expected the end token to be one");
    return *id;
  }
  for (const char* name : {"<|endoftext|>", "<|end_of_text|>", "</s>"}) {
    if (const auto id = tokenizer.token_to_id(name)) return *id;
  }
  fail("tokenizer: found none of <|endoftext|>, <|end_of_text|> and </s>, expected an end token to be named");
}

class TextPacker {
 public:
  TextPacker(const TextPackOptions& options, const Tokenizer& tokenizer)
      : options_(options),
        tokenizer_(tokenizer),
        end_(end_token_of(options, tokenizer)),
        writer_(options.output, true, options.compression) {
    check(options.max_length >= 2, "pack: found max_length ", options.max_length, ", expected at least 2");
    check(!options.paths.empty(), "pack: found no files of text, expected at least one");
  }

  TextPackReport run(const PackProgressFunction& progress) {
    TextProblems problems;
    problems.skip = options_.skip_bad;
    problems.report = [this](const std::string& reason, const std::string& message) {
      ++report_.skipped[reason];
      if (report_.messages.size() < kMaxMessages) report_.messages.push_back(message);
    };
    const auto bytes_read = [&](int64_t done, int64_t total) {
      if (progress) progress({report_.documents, done, total});
    };
    read_texts(
        options_.paths, problems, [this](const TextDocument& document) { add(document); }, bytes_read);
    flush();
    check(report_.predicted > 0, options_.paths.front(), ": found no text to learn from, expected at least two tokens");
    PackAttributes attributes;
    attributes.template_name = kTextTemplate;
    attributes.max_length = options_.max_length;
    attributes.skipped = report_.skipped;
    writer_.commit(options_.output, attributes, tokenizer_);
    report_.rows = writer_.rows();
    report_.tokens = writer_.tokens();
    return report_;
  }

 private:
  void add(const TextDocument& document) {
    std::vector<int32_t> ids = tokenizer_.prefix_ids();
    const std::vector<int32_t> text = tokenizer_.encode(document.text);
    ids.insert(ids.end(), text.begin(), text.end());
    ids.push_back(end_);
    ++report_.documents;
    report_.bytes += static_cast<int64_t>(document.text.size());
    for (size_t begin = 0; begin < ids.size();) {
      if (row_.ids.empty()) row_.id = document.id;
      const size_t room = static_cast<size_t>(options_.max_length) - row_.ids.size();
      const size_t count = std::min(room, ids.size() - begin);
      const auto from = ids.begin() + static_cast<std::ptrdiff_t>(begin);
      row_.ids.insert(row_.ids.end(), from, from + static_cast<std::ptrdiff_t>(count));
      row_.sequences.push_back(static_cast<int64_t>(row_.ids.size()));
      report_.predicted += static_cast<int64_t>(count) - 1;
      begin += count;
      if (count == room) flush();
    }
  }

  void flush() {
    // A last row of one token has nothing to predict.
    if (row_.ids.size() > 1) {
      row_.labels = row_.ids;
      writer_.add(row_);
    }
    row_ = PackRow();
  }

  const TextPackOptions& options_;
  const Tokenizer& tokenizer_;
  int32_t end_;
  PackWriter writer_;
  PackRow row_;
  TextPackReport report_;
};

}  // namespace

TextPackReport pack_texts(const TextPackOptions& options, const Tokenizer& tokenizer,
                          const PackProgressFunction& progress) {
  return TextPacker(options, tokenizer).run(progress);
}

}  // namespace matvlm
