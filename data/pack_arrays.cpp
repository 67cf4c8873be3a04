#include "data/pack_arrays.h"

#include <algorithm>
#include <span>

namespace matvlm {
namespace {

constexpr const char* kRaggedNames[] = {"images", "image_names", "sample_ids", "questions", "answers", "categories"};
enum RaggedArray : size_t { kImages, kImageNames, kSampleIds, kQuestions, kAnswers, kCategories };
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

// Rows of bytes of different lengths in two arrays.
class PackArrays::Ragged {
 public:
  Ragged(Hdf5File& file, const std::string& name) : file_(file), name_(name) {
    file_.append(name_ + "/bytes", std::span<const uint8_t>());
    file_.append(name_ + "/offsets", std::span<const int64_t>(&end_, 1));
  }
  void add(const std::string& row) {
    end_ += static_cast<int64_t>(row.size());
    file_.append(name_ + "/bytes", bytes_of(row));
    file_.append(name_ + "/offsets", std::span<const int64_t>(&end_, 1));
  }
  void append(const Hdf5File& part) {
    copy_array<uint8_t>(part, file_, name_ + "/bytes", 0, 0);
    copy_array<int64_t>(part, file_, name_ + "/offsets", 1, end_);  // the first is the 0 that is there already
    end_ += part.length(name_ + "/bytes");
  }

 private:
  Hdf5File& file_;
  std::string name_;
  int64_t end_ = 0;
};

PackArrays::PackArrays(const std::string& path) : file_(Hdf5File::create(path)) {
  for (const char* name : kRaggedNames) ragged_.push_back(std::make_unique<Ragged>(file_, name));
  for (const char* name : {"token_offsets", "turn_offsets"}) {
    const int64_t zero = 0;
    file_.append(name, std::span<const int64_t>(&zero, 1));
  }
  for (const char* name : {"tokens", "labels"}) file_.append(name, std::span<const int32_t>());
  file_.append("image_of_sample", std::span<const int64_t>());
}

PackArrays::~PackArrays() = default;

void PackArrays::add_image(const std::string& bytes, const std::string& name) {
  ragged_[kImages]->add(bytes);
  ragged_[kImageNames]->add(name);
}

void PackArrays::add_row(const PackRow& row) {
  file_.append("tokens", std::span<const int32_t>(row.ids));
  file_.append("labels", std::span<const int32_t>(row.labels));
  tokens_ += std::ssize(row.ids);
  turns_ += std::ssize(row.turns);
  file_.append("token_offsets", std::span<const int64_t>(&tokens_, 1));
  file_.append("turn_offsets", std::span<const int64_t>(&turns_, 1));
  file_.append("image_of_sample", std::span<const int64_t>(&row.image, 1));
  ragged_[kSampleIds]->add(row.id);
  for (const Turn& turn : row.turns) {
    ragged_[kQuestions]->add(turn.question);
    ragged_[kAnswers]->add(turn.answer);
    ragged_[kCategories]->add(turn.category);
  }
  ++rows_;
}

void PackArrays::append(const std::string& part) {
  const Hdf5File from = Hdf5File::open(part);
  copy_array<int32_t>(from, file_, "tokens", 0, 0);
  copy_array<int32_t>(from, file_, "labels", 0, 0);
  copy_array<int64_t>(from, file_, "token_offsets", 1, tokens_);
  copy_array<int64_t>(from, file_, "turn_offsets", 1, turns_);
  copy_array<int64_t>(from, file_, "image_of_sample", 0, 0);
  tokens_ += from.length("tokens");
  turns_ += from.length("turn_offsets") > 0 ? from.length("questions/offsets") - 1 : 0;
  rows_ += from.length("image_of_sample");
  for (const auto& array : ragged_) array->append(from);
}

}  // namespace matvlm
