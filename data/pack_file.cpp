// Opening and validation of packs. Tokens are checked in blocks, so that a large pack needs little memory.
#include "data/pack_file.h"

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "data/batch.h"

namespace matvlm {
namespace {

constexpr int64_t kSamplesPerBlock = 4096;

template <class T>
void expect_equal(const std::string& path, const char* what, const T& found, const T& expected) {
  check(expected == T() || found == expected, path, ": attribute '", what, "': found ", found, ", expected ", expected);
}

// One sample's row against the rules of FORMAT.md.
void validate_row(const std::string& where, std::span<const int32_t> ids, std::span<const int32_t> labels,
                  int64_t image, int64_t vocab_size) {
  int64_t marks = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == kImageToken) {
      ++marks;
    } else if (ids[i] < 0 || ids[i] >= vocab_size) {
      fail(where, ": found id ", ids[i], " outside the vocabulary, expected 0..", vocab_size - 1);
    }
    if (labels[i] != kIgnoreLabel && (labels[i] != ids[i] || ids[i] == kImageToken)) {
      fail(where, ": found label ", labels[i], " at position ", i, ", expected ", kIgnoreLabel, " or the id there, ",
           ids[i]);
    }
  }
  check(marks == (image >= 0 ? 1 : 0), where, ": found ", marks, " image marks, expected ", image >= 0 ? 1 : 0);
}

}  // namespace

PackFile::PackFile(const std::string& path, const PackExpectation& expected) : file_(Hdf5File::open(path)) {
  read_info(expected);
  const int64_t n_samples = file_.length("image_of_sample");
  check(n_samples > 0, path, ": found no samples, expected at least one");
  image_of_sample_.resize(static_cast<size_t>(n_samples));
  file_.read("image_of_sample", 0, std::span<int64_t>(image_of_sample_));
  token_offsets_ = read_offsets("token_offsets", file_.length("tokens"));
  turn_offsets_ = read_offsets("turn_offsets", file_.length("questions/offsets") - 1);
  for (const auto& [name, offsets] :
       {std::pair<const char*, const std::vector<int64_t>*>{"token", &token_offsets_}, {"turn", &turn_offsets_}}) {
    check(static_cast<int64_t>(offsets->size()) == n_samples + 1, path, ": array '", name, "_offsets': found ",
          offsets->size(), " elements, expected ", n_samples + 1);
  }
  check(file_.length("labels") == n_tokens(), path, ": array 'labels': found ", file_.length("labels"),
        " elements, expected ", n_tokens());
  if (is_text()) read_sequences();
  images_ = read_ragged("images", -1);
  check(!expected.text_only || n_images() == 0, path, ": found ", n_images(),
        " pictures, expected none: the model has no vision tower");
  image_names_ = read_ragged("image_names", n_images());
  sample_ids_ = read_ragged("sample_ids", n_samples);
  questions_ = read_ragged("questions", turn_offsets_.back());
  answers_ = read_ragged("answers", turn_offsets_.back());
  categories_ = read_ragged("categories", turn_offsets_.back());
  validate_samples(expected.vocab_size > 0 ? expected.vocab_size : info_.vocab_size);
}

void PackFile::read_info(const PackExpectation& expected) {
  const std::string format = file_.string_attribute("format");
  check(format == kPackFormat, path(), ": attribute 'format': found '", format, "', expected '", kPackFormat, "'");
  const int64_t version = file_.int_attribute("format_version");
  check(version == kPackVersion || version == kTextPackVersion, path(), ": attribute 'format_version': found ", version,
        ", expected ", kPackVersion, " or ", kTextPackVersion, ": pack the data again");
  info_.version = version;
  info_.template_name = file_.string_attribute("template");
  info_.tokenizer_sha256 = file_.string_attribute("tokenizer_sha256");
  info_.vocab_size = file_.int_attribute("vocab_size");
  info_.tokens_per_image = file_.int_attribute("tokens_per_image");
  info_.max_length = file_.int_attribute("max_length");
  if (file_.has_attribute("template_definition")) {
    info_.form = template_from_json(
        Json::parse(file_.string_attribute("template_definition"), path() + ": attribute 'template_definition'"));
  } else if (!is_text()) {
    info_.form = find_template(info_.template_name);
  }
  const Json skipped = Json::parse(file_.string_attribute("skipped"), path() + ": attribute 'skipped'");
  for (const std::string& reason : skipped.keys()) info_.skipped[reason] = skipped.at(reason).as_int();
  // 0: a pack without pictures, which any model can read.
  if (info_.tokens_per_image != 0) {
    expect_equal(path(), "tokens_per_image", info_.tokens_per_image, expected.tokens_per_image);
  }
  expect_equal(path(), "max_length", info_.max_length, expected.max_length);
  expect_equal(path(), "tokenizer_sha256", info_.tokenizer_sha256, expected.tokenizer_sha256);
}

// Boundaries of texts: rising, and every row's among them.
void PackFile::read_sequences() {
  sequence_offsets_ = read_offsets("sequence_offsets", n_tokens());
  const auto twice = std::adjacent_find(sequence_offsets_.begin(), sequence_offsets_.end());
  check(twice == sequence_offsets_.end(), path(), ": array 'sequence_offsets': found a text without tokens");
  check(std::includes(sequence_offsets_.begin(), sequence_offsets_.end(), token_offsets_.begin(), token_offsets_.end()),
        path(), ": array 'sequence_offsets': found a text that reaches over the end of a row");
}

const ConversationTemplate& PackFile::form() const {
  check(info_.form.has_value(), path(), ": found a pack of plain texts, expected conversations");
  return *info_.form;
}

std::vector<int64_t> PackFile::read_offsets(const std::string& name, int64_t total) const {
  const int64_t size = file_.length(name);
  check(size > 0, path(), ": array '", name, "': found no elements, expected at least one");
  std::vector<int64_t> offsets(static_cast<size_t>(size));
  file_.read(name, 0, std::span<int64_t>(offsets));
  check(offsets.front() == 0, path(), ": array '", name, "': found ", offsets.front(), " first, expected 0");
  for (size_t i = 1; i < offsets.size(); ++i) {
    check(offsets[i] >= offsets[i - 1], path(), ": array '", name, "': found ", offsets[i], " after ", offsets[i - 1],
          " at ", i, ", expected rising offsets");
  }
  check(offsets.back() == total, path(), ": array '", name, "': found ", offsets.back(), " last, expected ", total);
  return offsets;
}

PackFile::Ragged PackFile::read_ragged(const std::string& name, int64_t rows) const {
  Ragged out{name, read_offsets(name + "/offsets", file_.length(name + "/bytes"))};
  const auto found = static_cast<int64_t>(out.offsets.size()) - 1;
  check(rows < 0 || found == rows, path(), ": array '", name, "/offsets': found ", found, " rows, expected ", rows);
  return out;
}

std::string PackFile::ragged_row(const Ragged& ragged, int64_t row) const {
  const int64_t begin = ragged.offsets[static_cast<size_t>(row)];
  std::string out(static_cast<size_t>(ragged.offsets[static_cast<size_t>(row + 1)] - begin), '\0');
  file_.read(ragged.name + "/bytes", begin, std::span<uint8_t>(reinterpret_cast<uint8_t*>(out.data()), out.size()));
  return out;
}

void PackFile::validate_samples(int64_t vocab_size) const {
  std::vector<int32_t> ids;
  std::vector<int32_t> labels;
  for (int64_t first = 0; first < size(); first += kSamplesPerBlock) {
    const int64_t last = std::min(size(), first + kSamplesPerBlock);
    const int64_t begin = token_offsets_[static_cast<size_t>(first)];
    const auto count = static_cast<size_t>(token_offsets_[static_cast<size_t>(last)] - begin);
    ids.resize(count);
    labels.resize(count);
    file_.read("tokens", begin, std::span<int32_t>(ids));
    file_.read("labels", begin, std::span<int32_t>(labels));
    for (int64_t s = first; s < last; ++s) {
      const std::string where = cat(path(), ": sample ", s);
      const int64_t image = image_of_sample_[static_cast<size_t>(s)];
      check(image >= -1 && image < n_images(), where, ": found picture ", image, ", expected -1..", n_images() - 1);
      check(length(s) > 0 && length(s) <= info_.max_length, where, ": found ", length(s), " ids, expected 1..",
            info_.max_length);
      const auto at = static_cast<size_t>(token_offsets_[static_cast<size_t>(s)] - begin);
      const auto n = static_cast<size_t>(length(s));
      validate_row(where, std::span<const int32_t>(ids).subspan(at, n), std::span<const int32_t>(labels).subspan(at, n),
                   image, vocab_size);
    }
  }
}

void PackFile::check_index(int64_t index) const {
  check(index >= 0 && index < size(), path(), ": found sample index ", index, ", expected 0..", size() - 1);
}

int64_t PackFile::length(int64_t index) const {
  check_index(index);
  return token_offsets_[static_cast<size_t>(index + 1)] - token_offsets_[static_cast<size_t>(index)];
}

int64_t PackFile::image_of_sample(int64_t index) const {
  check_index(index);
  return image_of_sample_[static_cast<size_t>(index)];
}

PackedSample PackFile::sample(int64_t index) const {
  PackedSample out;
  const auto n = static_cast<size_t>(length(index));
  const int64_t begin = token_offsets_[static_cast<size_t>(index)];
  out.input_ids.resize(n);
  out.labels.resize(n);
  file_.read("tokens", begin, std::span<int32_t>(out.input_ids));
  file_.read("labels", begin, std::span<int32_t>(out.labels));
  out.image = image_of_sample_[static_cast<size_t>(index)];
  auto text = std::upper_bound(sequence_offsets_.begin(), sequence_offsets_.end(), begin);
  for (; text != sequence_offsets_.end() && *text <= begin + static_cast<int64_t>(n); ++text) {
    out.sequences.push_back(*text - begin);
  }
  return out;
}

std::string PackFile::sample_id(int64_t index) const {
  check_index(index);
  return ragged_row(sample_ids_, index);
}

int64_t PackFile::n_turns(int64_t index) const {
  check_index(index);
  return turn_offsets_[static_cast<size_t>(index + 1)] - turn_offsets_[static_cast<size_t>(index)];
}

std::vector<Turn> PackFile::turns(int64_t index) const {
  std::vector<Turn> out;
  const int64_t count = n_turns(index);
  const int64_t first = turn_offsets_[static_cast<size_t>(index)];
  for (int64_t row = first; row < first + count; ++row) {
    out.push_back({ragged_row(questions_, row), ragged_row(answers_, row), ragged_row(categories_, row)});
  }
  return out;
}

std::vector<uint8_t> PackFile::image_bytes(int64_t image) const {
  check(image >= 0 && image < n_images(), path(), ": found picture index ", image, ", expected 0..", n_images() - 1);
  const int64_t begin = images_.offsets[static_cast<size_t>(image)];
  std::vector<uint8_t> out(static_cast<size_t>(images_.offsets[static_cast<size_t>(image + 1)] - begin));
  file_.read("images/bytes", begin, std::span<uint8_t>(out));
  return out;
}

std::string PackFile::image_name(int64_t image) const {
  check(image >= 0 && image < n_images(), path(), ": found picture index ", image, ", expected 0..", n_images() - 1);
  return ragged_row(image_names_, image);
}

}  // namespace matvlm
