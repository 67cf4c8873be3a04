// Writes the arrays and attributes of a pack (FORMAT.md): rows are added one by one, or all those of a part.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "data/conversation.h"
#include "data/hdf5_file.h"
#include "data/tokenizer.h"

namespace matvlm {

struct PackRow {
  std::string id;
  std::vector<int32_t> ids, labels;
  int64_t image = -1;  // index of the picture among all of the pack; -1: none
  std::vector<Turn> turns;
  std::vector<int64_t> sequences;  // text packs: end of every text in the row, rising, the last one ids.size()
};

struct PackAttributes {
  std::string template_name;
  const ConversationTemplate* form = nullptr;  // stored whole, so that a reader needs no other file
  int64_t tokens_per_image = 0;
  int64_t max_length = 0;
  std::map<std::string, int64_t> skipped;  // reason -> samples
};

class PackWriter {
 public:
  // text: rows of several texts, without conversations. The file appears with a commit or not at all.
  PackWriter(const std::string& path, bool text, Hdf5Compression compression = Hdf5Compression::none);

  void add_image(const std::string& bytes, const std::string& name);
  void add(const PackRow& row);
  // All rows and pictures of a committed part of the same kind, whose rows count the pictures from the first part on.
  void append(const std::string& part);
  // The arrays alone, for append().
  void commit_part() { file_.commit(); }
  // The pack, under `path` (on the same file system).
  void commit(const std::string& path, const PackAttributes& attributes, const Tokenizer& tokenizer);

  int64_t rows() const { return rows_; }
  int64_t tokens() const { return tokens_; }

 private:
  // Rows of bytes of different lengths in two arrays.
  class Ragged {
   public:
    Ragged(Hdf5File& file, std::string name);
    void add(const std::string& row);
    void append(const Hdf5File& part);

   private:
    Hdf5File& file_;
    std::string name_;
    int64_t end_ = 0;
  };

  Hdf5File file_;
  bool text_;
  Ragged images_;
  Ragged image_names_;
  Ragged sample_ids_;
  Ragged questions_;
  Ragged answers_;
  Ragged categories_;
  int64_t rows_ = 0;
  int64_t tokens_ = 0;
  int64_t turns_ = 0;
};

}  // namespace matvlm
