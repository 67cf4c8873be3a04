// The folder in which a pack grows part by part, and what is needed to go on with it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/file.h"
#include "data/pack.h"

namespace matvlm {

// Where a packing stands after a part.
struct PackPlace {
  int64_t index = -1;    // sample of the JSON that was looked at last
  int64_t position = 0;  // bytes of the JSON up to its end
  PackReport report;     // of all so far
};

class PackParts {
 public:
  // Makes OUTPUT.parts or opens it, under a lock. `key` says what is packed and how: parts with another one are
  // removed.
  PackParts(const std::string& output, const std::string& key);
  // Removes the folder unless parts are kept in it.
  ~PackParts();
  PackParts(const PackParts&) = delete;
  PackParts& operator=(const PackParts&) = delete;

  int64_t count() const { return count_; }
  const PackPlace& place() const { return place_; }  // after the last part
  std::string file(int64_t part) const;              // with the arrays of that part
  std::string next_file() const { return file(count_); }
  std::string whole_file() const { return folder_ + "/whole.h5"; }  // for the parts put together

  // The arrays in next_file() are a part that ends at `place`; `skipped`: lines about the samples it leaves out.
  void add(const PackPlace& place, const std::string& skipped);
  // The lines of all parts.
  std::string skipped() const;
  // Nothing of the folder is needed any more.
  void remove();

 private:
  std::string place_file(int64_t part) const;
  std::string skipped_file(int64_t part) const;
  bool read_part(int64_t part);

  std::string folder_;
  std::string key_;
  int64_t count_ = 0;
  PackPlace place_;
  std::unique_ptr<FileLock> lock_;
};

}  // namespace matvlm
