#include "data/pack_writer.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "data/dataset.h"

namespace matvlm {
namespace {

constexpr int64_t kBlock = int64_t{1} << 20;  // elements copied at a time

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Elements from `begin` on, plus `shift`, to the end of the array of the same name.
template <class T>
void copy_array(const Hdf5File& from, Hdf5File& to, const std::string& name, int64_t begin, T shift) {
  const int64_t length = from.length(name);
  std::vector<T> block;
  for (; begin < length; begin += std::ssize(block)) {
    block.resize(static_cast<size_t>(std::min(kBlock, length - begin)));
    from.read(name, begin, std::span<T>(block));
    for (T& value : block) value = static_cast<T>(value + shift);
    to.append(name, std::span<const T>(block));
  }
}

}  // namespace

PackWriter::Ragged::Ragged(Hdf5File& file, std::string name) : file_(file), name_(std::move(name)) {
  file_.append(name_ + "/bytes", std::span<const uint8_t>());
  file_.append(name_ + "/offsets", std::span<const int64_t>(&end_, 1));
}

void PackWriter::Ragged::add(const std::string& row) {
  end_ += static_cast<int64_t>(row.size());
  file_.append(name_ + "/bytes", bytes_of(row));
  file_.append(name_ + "/offsets", std::span<const int64_t>(&end_, 1));
}

void PackWriter::Ragged::append(const Hdf5File& part) {
  copy_array<uint8_t>(part, file_, name_ + "/bytes", 0, 0);
  copy_array<int64_t>(part, file_, name_ + "/offsets", 1, end_);  // the first is the 0 that is there already
  end_ += part.length(name_ + "/bytes");
}

PackWriter::PackWriter(const std::string& path, bool text, Hdf5Compression compression)
    : file_(Hdf5File::create(path, compression)),
      text_(text),
      images_(file_, "images"),
      image_names_(file_, "image_names"),
      sample_ids_(file_, "sample_ids"),
      questions_(file_, "questions"),
      answers_(file_, "answers"),
      categories_(file_, "categories") {
  const int64_t zero = 0;
  for (const char* name : {"token_offsets", "turn_offsets"}) file_.append(name, std::span<const int64_t>(&zero, 1));
  for (const char* name : {"tokens", "labels"}) file_.append(name, std::span<const int32_t>());
  file_.append("image_of_sample", std::span<const int64_t>());
  if (text_) file_.append("sequence_offsets", std::span<const int64_t>(&zero, 1));
}

void PackWriter::add_image(const std::string& bytes, const std::string& name) {
  images_.add(bytes);
  image_names_.add(name);
}

void PackWriter::add(const PackRow& row) {
  file_.append("tokens", std::span<const int32_t>(row.ids));
  file_.append("labels", std::span<const int32_t>(row.labels));
  if (text_) {
    check(!row.sequences.empty() && row.sequences.back() == static_cast<int64_t>(row.ids.size()),
          "[pack] a row of texts without its boundaries");
    for (const int64_t end : row.sequences) {
      const int64_t at = tokens_ + end;
      file_.append("sequence_offsets", std::span<const int64_t>(&at, 1));
    }
  }
  tokens_ += static_cast<int64_t>(row.ids.size());
  turns_ += static_cast<int64_t>(row.turns.size());
  file_.append("token_offsets", std::span<const int64_t>(&tokens_, 1));
  file_.append("turn_offsets", std::span<const int64_t>(&turns_, 1));
  file_.append("image_of_sample", std::span<const int64_t>(&row.image, 1));
  sample_ids_.add(row.id);
  for (const Turn& turn : row.turns) {
    questions_.add(turn.question);
    answers_.add(turn.answer);
    categories_.add(turn.category);
  }
  ++rows_;
}

void PackWriter::append(const std::string& part) {
  const Hdf5File from = Hdf5File::open(part);
  copy_array<int32_t>(from, file_, "tokens", 0, 0);
  copy_array<int32_t>(from, file_, "labels", 0, 0);
  copy_array<int64_t>(from, file_, "token_offsets", 1, tokens_);
  copy_array<int64_t>(from, file_, "turn_offsets", 1, turns_);
  copy_array<int64_t>(from, file_, "image_of_sample", 0, 0);
  if (text_) copy_array<int64_t>(from, file_, "sequence_offsets", 1, tokens_);
  tokens_ += from.length("tokens");
  turns_ += from.length("questions/offsets") - 1;
  rows_ += from.length("image_of_sample");
  for (Ragged* array : {&images_, &image_names_, &sample_ids_, &questions_, &answers_, &categories_}) {
    array->append(from);
  }
}

void PackWriter::commit(const std::string& path, const PackAttributes& attributes, const Tokenizer& tokenizer) {
  Json skipped = Json::object();
  for (const auto& [reason, count] : attributes.skipped) skipped.set(reason, count);
  file_.write_attribute("format", std::string(kPackFormat));
  file_.write_attribute("format_version", text_ ? kTextPackVersion : kPackVersion);
  file_.write_attribute("template", attributes.template_name);
  if (attributes.form != nullptr) {
    file_.write_attribute("template_definition", template_json(*attributes.form).dump());
  }
  file_.write_attribute("tokenizer_sha256", tokenizer.sha256());
  file_.write_attribute("vocab_size", tokenizer.vocab_size());
  file_.write_attribute("tokens_per_image", attributes.tokens_per_image);
  file_.write_attribute("max_length", attributes.max_length);
  file_.write_attribute("samples", rows_);
  file_.write_attribute("skipped", skipped.dump());
  file_.commit(path);
}

}  // namespace matvlm
