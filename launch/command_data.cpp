// matvlm data ...: makes data sets, tokenizers and packs.
#include <filesystem>
#include <iostream>

#include "core/error.h"
#include "core/json.h"
#include "core/json_array_reader.h"
#include "data/conversation.h"
#include "data/pack_text.h"
#include "data/text_source.h"
#include "launch/cli.h"
#include "launch/commands.h"
#include "launch/progress.h"
#include "launch/template_file.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

void make_parent(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  std::error_code error;
  if (!parent.empty()) fs::create_directories(parent, error);
  check(!error, parent.string(), ": cannot create the folder: ", error.message());
}

// The texts of a conversation as the template writes them, so that the tokenizer learns the template's words as well.
std::string conversation_text(const Json& conversations, const ConversationTemplate& form) {
  std::string text = form.system;
  for (int64_t i = 0; i < conversations.size(); ++i) {
    const Json turn = conversations.at(i);
    const std::string value = turn.at("value").as_string();
    if (turn.at("from").as_string() == "gpt") {
      text += form.assistant_prefix + form.answer_prefix + value + form.end_token + form.turn_end;
    } else {
      text += form.user_prefix + without_image_mark(value) + form.user_suffix;
    }
  }
  return text;
}

std::string pack_summary(const PackReport& report) {
  std::string text = cat(report.samples, " samples (", report.text_only, " text only), ", report.images, " pictures, ",
                         report.tokens, " tokens, ", report.counted_labels, " learnt from");
  if (report.resumed_samples > 0)
    text += cat(", the first ", report.resumed_samples, " of the JSON by an earlier call");
  if (report.cut_samples > 0) text += cat(", ", report.cut_samples, " samples cut");
  for (const auto& [reason, count] : report.skipped) text += cat("\nskipped ", count, ": ", reason);
  for (const std::string& message : report.messages) text += "\n  " + message;
  return text;
}

}  // namespace

int run_data_emoji(const EmojiOptions& options) {
  make_parent(options.out);
  std::cout << make_emoji_dataset(options).text() << std::flush;
  return kExitOk;
}

int run_data_synthetic(const SyntheticOptions& options) {
  make_parent(options.out);
  std::cout << make_synthetic_dataset(options).text() << std::flush;
  return kExitOk;
}

int run_data_tokenizer(const DataTokenizerArgs& args) {
  check(args.data.empty() != args.text.empty(), "data tokenizer: found ",
        args.data.empty() ? "neither --data nor" : "both --data and", " --text, expected one of them");
  const ConversationTemplate form = load_template(args.template_name);
  std::vector<std::string> texts;
  if (!args.text.empty()) read_texts(args.text, {}, [&](const TextDocument& d) { texts.push_back(d.text); });
  for (const std::string& path : args.data) {
    JsonArrayReader samples(path);
    for (std::string text; samples.next(text);) {
      const Json sample = Json::parse(text, cat(path, ": sample ", samples.index()));
      texts.push_back(conversation_text(sample.at("conversations"), form));
    }
  }
  check(!texts.empty(), args.data.empty() ? args.text.front() : args.data.front(),
        ": found no samples, expected some to learn from");
  const Tokenizer tokenizer = train_bpe(texts, args.options);
  make_parent(args.out);
  tokenizer.save(args.out);
  std::cout << args.out << ": " << tokenizer.vocab_size() << " tokens from " << texts.size()
            << (args.data.empty() ? " texts\n" : " conversations\n");
  return kExitOk;
}

namespace {

std::string text_summary(const TextPackReport& report) {
  std::string text = cat(report.rows, " rows of ", report.documents, " texts, ", report.tokens, " tokens for ",
                         report.bytes, " bytes, ", report.predicted, " learnt from");
  for (const auto& [reason, count] : report.skipped) text += cat("\nskipped ", count, ": ", reason);
  for (const std::string& message : report.messages) text += "\n  " + message;
  return text;
}

}  // namespace

int run_data_pack(const DataPackArgs& args) {
  check(args.options.json_path.empty() != args.text.empty(), "data pack: found ",
        args.text.empty() ? "neither --data nor" : "both --data and", " --text, expected one of them");
  const Tokenizer tokenizer = Tokenizer::read_file(args.tokenizer);
  make_parent(args.options.output);
  ProgressDisplay display;
  const auto progress = [&](const PackProgress& at) { display.show(at); };
  std::string summary;
  bool skipped_file = false;
  if (args.text.empty()) {
    PackOptions options = args.options;
    options.form = load_template(options.template_name);
    const PackReport report = pack_dataset(options, tokenizer, progress);
    summary = pack_summary(report);
    skipped_file = !report.skipped.empty();
  } else {
    const PackOptions& o = args.options;
    summary = text_summary(pack_texts({args.text, o.output, o.max_length, args.end_token, o.skip_bad, o.compression},
                                      tokenizer, progress));
  }
  display.clear();
  std::cout << args.options.output << ": " << summary << "\n";
  if (skipped_file) std::cout << "all of them: " << args.options.output << ".skipped.jsonl\n";
  return kExitOk;
}

}  // namespace matvlm
