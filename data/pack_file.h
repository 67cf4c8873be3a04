// One packed file (see FORMAT.md), opened read-only. Offsets are in memory, samples and pictures are read when asked
// for; threads may share one object.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/conversation.h"
#include "data/hdf5_file.h"

namespace matvlm {

inline constexpr const char* kPackFormat = "matvlm-pack";
inline constexpr int64_t kPackVersion = 1;            // conversations
inline constexpr int64_t kTextPackVersion = 2;        // rows of plain texts
inline constexpr const char* kTextTemplate = "text";  // what such a pack names as its template

struct PackInfo {
  int64_t version = kPackVersion;
  std::string template_name;
  std::optional<ConversationTemplate> form;  // conversations
  std::string tokenizer_sha256;
  int64_t vocab_size = 0;  // of the tokenizer
  int64_t tokens_per_image = 0;
  int64_t max_length = 0;
  std::map<std::string, int64_t> skipped;  // reason -> samples of the JSON that are not in the pack
};

// What the reader of a pack relies on; a field that is 0 or empty is not compared.
struct PackExpectation {
  int64_t vocab_size = 0;  // rows of the model's embedding: every id must be below
  int64_t tokens_per_image = 0;
  int64_t max_length = 0;
  std::string tokenizer_sha256;
  bool text_only = false;  // the reader has no vision tower: a pack with pictures is refused
};

struct PackedSample {
  std::vector<int32_t> input_ids;
  std::vector<int32_t> labels;
  int64_t image = -1;              // -1: text-only
  std::vector<int64_t> sequences;  // of a text pack: end of every text in the row, the last one input_ids.size()
};

class PackFile {
 public:
  // Reads everything but the pictures once to validate it. Error: no whole HDF5 file, another format version, missing
  // arrays, offsets that do not rise or do not fit, ids outside the vocabulary, labels that differ from their ids,
  // pictures and image marks that do not correspond, values other than expected.
  explicit PackFile(const std::string& path, const PackExpectation& expected = {});

  const std::string& path() const { return file_.path(); }
  const PackInfo& info() const { return info_; }
  int64_t size() const { return static_cast<int64_t>(image_of_sample_.size()); }
  int64_t n_images() const { return static_cast<int64_t>(images_.offsets.size()) - 1; }
  int64_t n_tokens() const { return token_offsets_.back(); }
  // Rows of plain texts, every token a label; else conversations.
  bool is_text() const { return info_.version == kTextPackVersion; }
  // The template of the conversations. Error for a text pack.
  const ConversationTemplate& form() const;

  // Error when `index` is outside 0..size()-1.
  PackedSample sample(int64_t index) const;
  int64_t length(int64_t index) const;  // of input_ids
  int64_t image_of_sample(int64_t index) const;
  std::string sample_id(int64_t index) const;
  std::vector<Turn> turns(int64_t index) const;
  int64_t n_turns(int64_t index) const;

  // The picture file's bytes, as it was packed.
  std::vector<uint8_t> image_bytes(int64_t image) const;
  std::string image_name(int64_t image) const;

 private:
  struct Ragged {  // rows of bytes: NAME/bytes and NAME/offsets
    std::string name;
    std::vector<int64_t> offsets;
  };

  void read_info(const PackExpectation& expected);
  std::vector<int64_t> read_offsets(const std::string& name, int64_t total) const;
  Ragged read_ragged(const std::string& name, int64_t rows) const;
  std::string ragged_row(const Ragged& ragged, int64_t row) const;
  void validate_samples(int64_t vocab_size) const;
  void read_sequences();
  void check_index(int64_t index) const;

  Hdf5File file_;
  PackInfo info_;
  std::vector<int64_t> token_offsets_;
  std::vector<int64_t> turn_offsets_;
  std::vector<int64_t> image_of_sample_;
  std::vector<int64_t> sequence_offsets_;  // text packs
  Ragged images_;
  Ragged image_names_;
  Ragged sample_ids_;
  Ragged questions_;
  Ragged answers_;
  Ragged categories_;
};

}  // namespace matvlm
