// A data set: one pack or several, one behind the other. Threads may share one object.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/pack_file.h"

namespace matvlm {

// The files that `paths` name, each as it is or as a pattern (* ? [...]) whose matches come sorted. Error for a pattern
// without a match, and for a file that is named twice.
std::vector<std::string> pack_paths(const std::vector<std::string>& paths);

class Dataset {
 public:
  // Reads everything but the pictures once to validate it: see PackFile. Error when packs differ in what a reader
  // relies on: kind (conversations or texts), template, tokenizer, positions of a picture.
  explicit Dataset(const std::vector<std::string>& paths, const PackExpectation& expected = {});
  explicit Dataset(const std::string& path, const PackExpectation& expected = {})
      : Dataset(std::vector<std::string>{path}, expected) {}

  const std::string& path() const { return path_; }  // for messages: the file, or the first of how many
  // Of the first pack; max_length the largest, `skipped` summed.
  const PackInfo& info() const { return info_; }
  const std::vector<PackFile>& packs() const { return packs_; }
  int64_t size() const { return first_sample_.back(); }
  int64_t n_images() const { return first_image_.back(); }
  int64_t n_tokens() const;
  bool is_text() const { return packs_.front().is_text(); }
  // The template of the conversations. Error for packs of plain texts.
  const ConversationTemplate& form() const { return packs_.front().form(); }

  // Samples and pictures count through all packs. Error when an index is outside.
  PackedSample sample(int64_t index) const;
  int64_t length(int64_t index) const;
  int64_t image_of_sample(int64_t index) const;  // -1: none
  std::string sample_id(int64_t index) const;
  std::vector<Turn> turns(int64_t index) const;
  int64_t n_turns(int64_t index) const;

  std::vector<uint8_t> image_bytes(int64_t image) const;
  std::string image_name(int64_t image) const;

 private:
  struct Place {
    size_t pack;
    int64_t index;  // in the pack
  };
  Place place(const std::vector<int64_t>& first, int64_t index, const char* what) const;
  void join(const PackInfo& info, const std::string& path);

  std::string path_;
  PackInfo info_;
  std::vector<PackFile> packs_;
  std::vector<int64_t> first_sample_{0};  // of every pack, and their sum
  std::vector<int64_t> first_image_{0};
};

}  // namespace matvlm
