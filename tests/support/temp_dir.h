// A directory that lives as long as the object, for tests that write files.
#pragma once

#include <string>

namespace matvlm::testing {

class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const;

 private:
  std::string path_;
};

}  // namespace matvlm::testing
