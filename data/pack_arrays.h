// The arrays of a pack (FORMAT.md) while it is written: rows are added one by one, or all those of a part.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/conversation.h"
#include "data/hdf5_file.h"

namespace matvlm {

struct PackRow {
  std::vector<int32_t> ids;
  std::vector<int32_t> labels;
  int64_t image = -1;  // index of the picture among all of the pack; -1: text only
  std::string id;
  std::vector<Turn> turns;
};

class PackArrays {
 public:
  // Appears under `path`, or where commit() says, with commit() only.
  explicit PackArrays(const std::string& path);
  ~PackArrays();
  PackArrays(const PackArrays&) = delete;
  PackArrays& operator=(const PackArrays&) = delete;

  void add_image(const std::string& bytes, const std::string& name);
  void add_row(const PackRow& row);
  // All rows and pictures of a file with these arrays whose rows count the pictures from the first part on.
  void append(const std::string& part);

  int64_t rows() const { return rows_; }
  Hdf5File& file() { return file_; }
  void commit() { file_.commit(); }
  void commit(const std::string& path) { file_.commit(path); }

 private:
  class Ragged;

  Hdf5File file_;
  std::vector<std::unique_ptr<Ragged>> ragged_;  // in the order of kRaggedNames
  int64_t rows_ = 0;
  int64_t tokens_ = 0;
  int64_t turns_ = 0;
};

}  // namespace matvlm
