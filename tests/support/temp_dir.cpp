#include "tests/support/temp_dir.h"

#include <cstdlib>
#include <filesystem>

#include "core/error.h"

namespace matvlm::testing {

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "matvlm-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) fail("cannot make a temporary directory ", pattern);
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::file(const std::string& name) const { return path_ + "/" + name; }

}  // namespace matvlm::testing
