// Packing, sample by sample in the order of the JSON, so that the same input gives the same arrays.
#include "data/pack.h"

#include <span>
#include <unordered_map>

#include "core/error.h"
#include "core/file.h"
#include "data/batch.h"
#include "data/conversation.h"
#include "data/image.h"
#include "data/llava_json.h"
#include "data/pack_writer.h"
#include "data/sha256.h"

namespace matvlm {
namespace {

constexpr size_t kMaxMessages = 20;

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

class Packer {
 public:
  Packer(const PackOptions& options, const Tokenizer& tokenizer)
      : options_(options),
        tokenizer_(tokenizer),
        form_(options.form ? *options.form : find_template(options.template_name)),
        writer_(options.output, false) {
    check(options.max_length > 0, "pack: found max_length ", options.max_length, ", expected more than 0");
    check(options.tokens_per_image > 0 || options.image_folder.empty(), "pack: found tokens_per_image ",
          options.tokens_per_image, ", expected more than 0");
  }

  PackReport run(const PackProgress& progress) {
    const LlavaFile source(options_.json_path, options_.image_folder);
    for (int64_t i = 0; i < source.size(); ++i) {
      add_or_skip(source, i);
      if (progress) progress(i + 1, source.size());
    }
    if (report_.samples == 0) {
      fail(options_.json_path, ": found no sample to learn from among ", source.size(),
           ", expected at least one; first: ", report_.messages.front());
    }
    PackAttributes attributes;
    attributes.template_name = form_.name;
    attributes.form = &form_;
    attributes.tokens_per_image = options_.image_folder.empty() ? 0 : options_.tokens_per_image;
    attributes.max_length = options_.max_length;
    attributes.skipped = report_.skipped;
    writer_.commit(attributes, tokenizer_);
    return report_;
  }

 private:
  void add_or_skip(const LlavaFile& source, int64_t index) {
    ConversationSample sample;
    try {
      sample = source.sample(index);
      add(sample, source.place(index, sample.id));
    } catch (const SampleError& error) {
      const bool always_skipped = error.reason() == kInconsistent || error.reason() == kNoAnswer;
      if (!always_skipped && !options_.skip_bad) throw Error(error.what());
      ++report_.skipped[error.reason()];
      if (report_.messages.size() < kMaxMessages) report_.messages.emplace_back(error.what());
    }
  }

  void add(const ConversationSample& sample, const std::string& place) {
    EncodedConversation row = encode_conversation(sample.turns, form_, tokenizer_);
    if (!row.consistent) {
      throw SampleError(kInconsistent, place + "the turns' tokens do not add up to those of the whole text");
    }
    const auto whole = static_cast<int64_t>(row.input_ids.size());
    cut_conversation(row, options_.max_length);
    const int64_t labels = count_labels_after_splice(row, options_.tokens_per_image, options_.max_length);
    if (labels == 0) {
      throw SampleError(kNoAnswer, cat(place, "found no answer within max_length ", options_.max_length));
    }
    bool has_mark = false;  // it may have been cut off
    for (const int32_t id : row.input_ids) has_mark = has_mark || id == kImageToken;
    const int64_t image = has_mark ? add_image(sample, place) : -1;
    const int64_t spliced = whole + (sample.image.empty() ? 0 : options_.tokens_per_image - 1);
    if (spliced > options_.max_length) ++report_.cut_samples;
    writer_.add({sample.id, row.input_ids, row.labels, image, sample.turns, {}});
    report_.tokens = writer_.tokens();
    ++report_.samples;
    if (image < 0) ++report_.text_only;
    report_.counted_labels += labels;
  }

  // Index of the picture; files with the same bytes are stored once.
  int64_t add_image(const ConversationSample& sample, const std::string& place) {
    if (const auto known = image_of_path_.find(sample.image_path); known != image_of_path_.end()) return known->second;
    const std::string bytes = read_image(sample, place);
    const auto [found, is_new] = image_of_hash_.try_emplace(sha256(bytes), report_.images);
    if (is_new) {
      writer_.add_image(bytes, sample.image);
      ++report_.images;
      report_.image_bytes += static_cast<int64_t>(bytes.size());
    }
    image_of_path_.emplace(sample.image_path, found->second);
    return found->second;
  }

  std::string read_image(const ConversationSample& sample, const std::string& place) const {
    try {
      std::string bytes = read_file(sample.image_path);
      if (options_.verify_images) decode_image(bytes_of(bytes), sample.image_path);
      return bytes;
    } catch (const Error& error) {
      throw SampleError("broken picture", place + error.what());
    }
  }

  static constexpr const char* kInconsistent = "pieces do not add up";
  static constexpr const char* kNoAnswer = "no answer left";

  const PackOptions& options_;
  const Tokenizer& tokenizer_;
  const ConversationTemplate form_;
  PackWriter writer_;
  std::unordered_map<std::string, int64_t> image_of_path_;
  std::unordered_map<std::string, int64_t> image_of_hash_;
  PackReport report_;
};

}  // namespace

PackReport pack_dataset(const PackOptions& options, const Tokenizer& tokenizer, const PackProgress& progress) {
  return Packer(options, tokenizer).run(progress);
}

}  // namespace matvlm
