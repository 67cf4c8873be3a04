#include "data/dataset.h"

#include <glob.h>

#include <algorithm>
#include <set>

#include "core/error.h"

namespace matvlm {
namespace {

std::vector<std::string> matches(const std::string& pattern) {
  glob_t found{};
  std::vector<std::string> out;
  const int result = glob(pattern.c_str(), 0, nullptr, &found);
  for (size_t i = 0; result == 0 && i < found.gl_pathc; ++i) out.emplace_back(found.gl_pathv[i]);
  globfree(&found);
  check(!out.empty(), pattern, ": found no file that matches, expected at least one pack");
  return out;  // sorted by glob
}

}  // namespace

std::vector<std::string> pack_paths(const std::vector<std::string>& paths) {
  std::vector<std::string> out;
  std::set<std::string> seen;
  for (const std::string& path : paths) {
    const bool pattern = path.find_first_of("*?[") != std::string::npos;
    for (const std::string& file : pattern ? matches(path) : std::vector<std::string>{path}) {
      check(seen.insert(file).second, file, ": found the pack named twice, expected once");
      out.push_back(file);
    }
  }
  check(!out.empty(), "[data] found no packs, expected at least one");
  return out;
}

Dataset::Dataset(const std::vector<std::string>& paths, const PackExpectation& expected) {
  for (const std::string& path : pack_paths(paths)) {
    packs_.emplace_back(path, expected);
    const PackFile& pack = packs_.back();
    join(pack.info(), path);
    first_sample_.push_back(first_sample_.back() + pack.size());
    first_image_.push_back(first_image_.back() + pack.n_images());
  }
  path_ = packs_.front().path();
  if (packs_.size() > 1) path_ += cat(" and ", packs_.size() - 1, " more");
}

void Dataset::join(const PackInfo& info, const std::string& path) {
  if (packs_.size() == 1) {
    info_ = info;
    return;
  }
  const auto same = [&](const char* what, const auto& found, const auto& first) {
    check(found == first, path, ": attribute '", what, "': found ", found, ", expected ", first, ", as in ",
          packs_.front().path());
  };
  same("format_version", info.version, info_.version);
  same("template", info.template_name, info_.template_name);
  same("tokenizer_sha256", info.tokenizer_sha256, info_.tokenizer_sha256);
  same("vocab_size", info.vocab_size, info_.vocab_size);
  // 0: a pack without pictures, which goes with any.
  if (info.tokens_per_image != 0 && info_.tokens_per_image != 0) {
    same("tokens_per_image", info.tokens_per_image, info_.tokens_per_image);
  }
  info_.tokens_per_image = std::max(info_.tokens_per_image, info.tokens_per_image);
  info_.max_length = std::max(info_.max_length, info.max_length);
  for (const auto& [reason, count] : info.skipped) info_.skipped[reason] += count;
}

int64_t Dataset::n_tokens() const {
  int64_t sum = 0;
  for (const PackFile& pack : packs_) sum += pack.n_tokens();
  return sum;
}

Dataset::Place Dataset::place(const std::vector<int64_t>& first, int64_t index, const char* what) const {
  check(index >= 0 && index < first.back(), path_, ": found ", what, " index ", index, ", expected 0..",
        first.back() - 1);
  const auto after = std::upper_bound(first.begin(), first.end(), index);
  return {static_cast<size_t>(after - first.begin()) - 1, index - *(after - 1)};
}

PackedSample Dataset::sample(int64_t index) const {
  const Place at = place(first_sample_, index, "sample");
  PackedSample out = packs_[at.pack].sample(at.index);
  if (out.image >= 0) out.image += first_image_[at.pack];
  return out;
}

int64_t Dataset::length(int64_t index) const {
  const Place at = place(first_sample_, index, "sample");
  return packs_[at.pack].length(at.index);
}

int64_t Dataset::image_of_sample(int64_t index) const {
  const Place at = place(first_sample_, index, "sample");
  const int64_t image = packs_[at.pack].image_of_sample(at.index);
  return image < 0 ? image : image + first_image_[at.pack];
}

std::string Dataset::sample_id(int64_t index) const {
  const Place at = place(first_sample_, index, "sample");
  return packs_[at.pack].sample_id(at.index);
}

std::vector<Turn> Dataset::turns(int64_t index) const {
  const Place at = place(first_sample_, index, "sample");
  return packs_[at.pack].turns(at.index);
}

int64_t Dataset::n_turns(int64_t index) const {
  const Place at = place(first_sample_, index, "sample");
  return packs_[at.pack].n_turns(at.index);
}

std::vector<uint8_t> Dataset::image_bytes(int64_t image) const {
  const Place at = place(first_image_, image, "picture");
  return packs_[at.pack].image_bytes(at.index);
}

std::string Dataset::image_name(int64_t image) const {
  const Place at = place(first_image_, image, "picture");
  return packs_[at.pack].image_name(at.index);
}

}  // namespace matvlm
