// Packing, sample by sample in the order of the JSON, so that the same input gives the same arrays.
#include "data/pack.h"

#include <filesystem>
#include <memory>
#include <span>
#include <unordered_map>

#include "core/error.h"
#include "core/file.h"
#include "data/batch.h"
#include "data/conversation.h"
#include "data/dataset.h"
#include "data/image.h"
#include "data/llava_json.h"
#include "data/pack_parts.h"
#include "data/pack_writer.h"
#include "data/sha256.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxMessages = 20;

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

ConversationTemplate template_of(const PackOptions& options) {
  return options.form ? *options.form : find_template(options.template_name);
}

// What is packed and how, for telling whether parts belong to it.
std::string packing_key(const PackOptions& options, const Tokenizer& tokenizer) {
  const fs::path json(options.json_path);
  std::error_code error;
  const auto size = fs::file_size(json, error);
  check(!error, options.json_path, ": cannot open: ", error.message());
  const auto time = fs::last_write_time(json, error).time_since_epoch().count();
  const std::string pictures =
      options.image_folder.empty() ? "" : cat("pictures in ", fs::absolute(options.image_folder).string());
  return cat(fs::absolute(json).string(), ", ", size, " bytes of ", time, ", ", pictures, ", template ",
             template_json(template_of(options)).dump(), ", tokenizer ", tokenizer.sha256(), ", max_length ",
             options.max_length, ", tokens_per_image ", options.tokens_per_image, ", skip_bad ", options.skip_bad,
             ", verify_images ", options.verify_images, ", version ", kPackVersion);
}

class Packer {
 public:
  Packer(const PackOptions& options, const Tokenizer& tokenizer)
      : options_(options),
        tokenizer_(tokenizer),
        form_(template_of(options)),
        source_(options.json_path, options.image_folder),
        parts_(options.output, packing_key(options, tokenizer)) {
    check(options.max_length > 0, "pack: found max_length ", options.max_length, ", expected more than 0");
    check(options.tokens_per_image > 0 || options.image_folder.empty(), "pack: found tokens_per_image ",
          options.tokens_per_image, ", expected more than 0");
    check(options.part_samples > 0, "pack: found part_samples ", options.part_samples, ", expected more than 0");
  }

  PackReport run(const PackProgressFunction& progress) {
    if (parts_.count() > 0) resume();
    start_part();
    int64_t in_part = 0;
    while (source_.next()) {
      if (in_part == options_.part_samples) {
        end_part();
        in_part = 0;
      }
      add_or_skip();
      ++in_part;
      last_ = {source_.index(), source_.position(), {}};
      if (progress) progress({source_.index() + 1, source_.position(), source_.size()});
    }
    if (report_.samples == 0) {
      fail(options_.json_path, ": found no sample to learn from among ", source_.index() + 1,
           ", expected at least one; first: ", report_.messages.front());
    }
    finish(progress);
    return report_;
  }

 private:
  // Goes on behind the last part: the pictures that are stored are known by their bytes again.
  void resume() {
    report_ = parts_.place().report;
    source_.resume(parts_.place().index, parts_.place().position);
    int64_t images = 0;
    for (int64_t part = 0; part < parts_.count(); ++part) {
      const Hdf5File file = Hdf5File::open(parts_.file(part));
      std::vector<int64_t> offsets(static_cast<size_t>(file.length("images/offsets")));
      file.read("images/offsets", 0, std::span<int64_t>(offsets));
      std::vector<uint8_t> bytes;
      for (size_t i = 1; i < offsets.size(); ++i) {
        check(offsets[i] >= offsets[i - 1], file.path(), ": found offsets that fall, expected rising ones");
        bytes.resize(static_cast<size_t>(offsets[i] - offsets[i - 1]));
        file.read("images/bytes", offsets[i - 1], std::span<uint8_t>(bytes));
        image_of_hash_.emplace(key_of(sha256(bytes)), images++);
      }
    }
    check(images == report_.images, options_.output, ".parts: found ", images, " pictures, expected ", report_.images,
          "; remove the folder");
  }

  void start_part() { writer_ = std::make_unique<PackWriter>(parts_.next_file(), false); }

  void end_part() {
    writer_->commit_part();
    last_.report = report_;
    parts_.add(last_, skipped_lines_);
    skipped_lines_.clear();
    start_part();
  }

  void finish(const PackProgressFunction& progress) {
    const std::string skipped_file = options_.output + ".skipped.jsonl";
    const std::string skipped = parts_.skipped() + skipped_lines_;
    if (parts_.count() == 0) {
      writer_->commit(options_.output, attributes(), tokenizer_);
    } else {
      writer_->commit_part();
      join_parts(progress);
    }
    std::error_code ignored;
    fs::remove(skipped_file, ignored);
    if (!skipped.empty()) write_file_atomic(skipped_file, skipped);
    parts_.remove();
  }

  void join_parts(const PackProgressFunction& progress) {
    PackProgress at{source_.index() + 1, 0, 0, "joining parts"};
    for (int64_t part = 0; part <= parts_.count(); ++part) {
      at.total_bytes += static_cast<int64_t>(fs::file_size(parts_.file(part)));
    }
    PackWriter whole(parts_.whole_file(), false, options_.compression);
    for (int64_t part = 0; part <= parts_.count(); ++part) {  // the last one is next_file()
      if (progress) progress(at);
      whole.append(parts_.file(part));
      at.bytes += static_cast<int64_t>(fs::file_size(parts_.file(part)));
    }
    whole.commit(options_.output, attributes(), tokenizer_);
  }

  PackAttributes attributes() const {
    PackAttributes out;
    out.template_name = form_.name;
    out.form = &form_;
    out.tokens_per_image = options_.image_folder.empty() ? 0 : options_.tokens_per_image;
    out.max_length = options_.max_length;
    out.skipped = report_.skipped;
    return out;
  }

  void add_or_skip() {
    std::string id;
    try {
      const ConversationSample sample = source_.sample();
      id = sample.id;
      add(sample, source_.place(id));
    } catch (const SampleError& error) {
      const bool always_skipped = error.reason() == kInconsistent || error.reason() == kNoAnswer;
      if (!always_skipped && !options_.skip_bad) throw Error(error.what());
      ++report_.skipped[error.reason()];
      if (report_.messages.size() < kMaxMessages) report_.messages.emplace_back(error.what());
      Json line = Json::object();
      line.set("index", source_.index()).set("id", id).set("reason", error.reason());
      skipped_lines_ += line.set("message", error.what()).dump() + "\n";
    }
  }

  void add(const ConversationSample& sample, const std::string& place) {
    EncodedConversation row = encode_conversation(sample.turns, form_, tokenizer_, options_.max_length);
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
    writer_->add({sample.id, row.input_ids, row.labels, image, sample.turns, {}});
    report_.tokens += std::ssize(row.input_ids);
    ++report_.samples;
    if (image < 0) ++report_.text_only;
    report_.counted_labels += labels;
  }

  // A hash of 32 bytes as the first 16 of them.
  using Key = std::string;
  static Key key_of(const std::string& hexadecimal) {
    Key key(16, '\0');
    for (size_t i = 0; i < key.size(); ++i) {
      key[i] = static_cast<char>(std::stoi(hexadecimal.substr(2 * i, 2), nullptr, 16));
    }
    return key;
  }

  // Index of the picture; files with the same bytes are stored once.
  int64_t add_image(const ConversationSample& sample, const std::string& place) {
    const Key path = key_of(sha256(sample.image_path));
    if (const auto known = image_of_path_.find(path); known != image_of_path_.end()) return known->second;
    const std::string bytes = read_image(sample, place);
    const auto [found, is_new] = image_of_hash_.try_emplace(key_of(sha256(bytes)), report_.images);
    if (is_new) {
      writer_->add_image(bytes, sample.image);
      ++report_.images;
      report_.image_bytes += static_cast<int64_t>(bytes.size());
    }
    image_of_path_.emplace(path, found->second);
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
  LlavaFile source_;
  PackParts parts_;
  std::unique_ptr<PackWriter> writer_;  // of the part that grows
  std::unordered_map<Key, int64_t> image_of_path_;
  std::unordered_map<Key, int64_t> image_of_hash_;
  PackPlace last_;
  std::string skipped_lines_;  // of the part that grows
  PackReport report_;
};

}  // namespace

PackReport pack_dataset(const PackOptions& options, const Tokenizer& tokenizer, const PackProgressFunction& progress) {
  return Packer(options, tokenizer).run(progress);
}

}  // namespace matvlm
