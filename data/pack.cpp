// Packing, sample by sample in the order of the JSON, so that the same input gives the same arrays.
#include "data/pack.h"

#include <span>
#include <unordered_map>

#include "core/error.h"
#include "core/file.h"
#include "data/batch.h"
#include "data/conversation.h"
#include "data/dataset.h"
#include "data/image.h"
#include "data/llava_json.h"
#include "data/sha256.h"

namespace matvlm {
namespace {

constexpr size_t kMaxMessages = 20;

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Rows of bytes of different lengths in two arrays.
class RaggedWriter {
 public:
  RaggedWriter(Hdf5File& file, const std::string& name) : file_(file), name_(name) {
    file_.append(name_ + "/bytes", std::span<const uint8_t>());
    file_.append(name_ + "/offsets", std::span<const int64_t>(&end_, 1));
  }
  void add(const std::string& row) {
    end_ += static_cast<int64_t>(row.size());
    file_.append(name_ + "/bytes", bytes_of(row));
    file_.append(name_ + "/offsets", std::span<const int64_t>(&end_, 1));
  }

 private:
  Hdf5File& file_;
  std::string name_;
  int64_t end_ = 0;
};

class Packer {
 public:
  Packer(const PackOptions& options, const Tokenizer& tokenizer)
      : options_(options),
        tokenizer_(tokenizer),
        form_(find_template(options.template_name)),
        file_(Hdf5File::create(options.output)),
        images_(file_, "images"),
        image_names_(file_, "image_names"),
        sample_ids_(file_, "sample_ids"),
        questions_(file_, "questions"),
        answers_(file_, "answers"),
        categories_(file_, "categories") {
    check(options.max_length > 0, "pack: found max_length ", options.max_length, ", expected more than 0");
    check(options.tokens_per_image > 0, "pack: found tokens_per_image ", options.tokens_per_image,
          ", expected more than 0");
    for (const char* name : {"token_offsets", "turn_offsets"}) {
      const int64_t zero = 0;
      file_.append(name, std::span<const int64_t>(&zero, 1));
    }
    for (const char* name : {"tokens", "labels"}) file_.append(name, std::span<const int32_t>());
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
    write_attributes();
    file_.commit();
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
    write_row(sample, row, image);
    report_.counted_labels += labels;
  }

  // Index of the picture; files with the same bytes are stored once.
  int64_t add_image(const ConversationSample& sample, const std::string& place) {
    if (const auto known = image_of_path_.find(sample.image_path); known != image_of_path_.end()) return known->second;
    const std::string bytes = read_image(sample, place);
    const auto [found, is_new] = image_of_hash_.try_emplace(sha256(bytes), report_.images);
    if (is_new) {
      images_.add(bytes);
      image_names_.add(sample.image);
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

  void write_row(const ConversationSample& sample, const EncodedConversation& row, int64_t image) {
    file_.append("tokens", std::span<const int32_t>(row.input_ids));
    file_.append("labels", std::span<const int32_t>(row.labels));
    report_.tokens += static_cast<int64_t>(row.input_ids.size());
    turns_ += static_cast<int64_t>(sample.turns.size());
    file_.append("token_offsets", std::span<const int64_t>(&report_.tokens, 1));
    file_.append("turn_offsets", std::span<const int64_t>(&turns_, 1));
    file_.append("image_of_sample", std::span<const int64_t>(&image, 1));
    sample_ids_.add(sample.id);
    for (const Turn& turn : sample.turns) {
      questions_.add(turn.question);
      answers_.add(turn.answer);
      categories_.add(turn.category);
    }
    ++report_.samples;
    if (image < 0) ++report_.text_only;
  }

  void write_attributes() {
    Json skipped = Json::object();
    for (const auto& [reason, count] : report_.skipped) skipped.set(reason, count);
    file_.write_attribute("format", std::string(kPackFormat));
    file_.write_attribute("format_version", kPackVersion);
    file_.write_attribute("template", form_.name);
    file_.write_attribute("tokenizer_sha256", tokenizer_.sha256());
    file_.write_attribute("vocab_size", tokenizer_.vocab_size());
    file_.write_attribute("tokens_per_image", options_.tokens_per_image);
    file_.write_attribute("max_length", options_.max_length);
    file_.write_attribute("samples", report_.samples);
    file_.write_attribute("skipped", skipped.dump());
  }

  static constexpr const char* kInconsistent = "pieces do not add up";
  static constexpr const char* kNoAnswer = "no answer left";

  const PackOptions& options_;
  const Tokenizer& tokenizer_;
  const ConversationTemplate& form_;
  Hdf5File file_;
  RaggedWriter images_;
  RaggedWriter image_names_;
  RaggedWriter sample_ids_;
  RaggedWriter questions_;
  RaggedWriter answers_;
  RaggedWriter categories_;
  std::unordered_map<std::string, int64_t> image_of_path_;
  std::unordered_map<std::string, int64_t> image_of_hash_;
  int64_t turns_ = 0;
  PackReport report_;
};

}  // namespace

PackReport pack_dataset(const PackOptions& options, const Tokenizer& tokenizer, const PackProgress& progress) {
  return Packer(options, tokenizer).run(progress);
}

}  // namespace matvlm
