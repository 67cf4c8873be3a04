// What the fuzz targets share. Each target reads one kind of file from the fuzzer's bytes: an Error is a good answer,
// everything else that does not return (crash, sanitizer report, other exception, too much memory or time) is a
// finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace matvlm::fuzz {

// The bytes as a file in memory, for readers that take paths.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  int descriptor_ = -1;
  std::string path_;
};

std::string_view text_of(const uint8_t* data, size_t size);

// Runs `read`; an Error ends it, another exception ends the program.
void expect_error_or_result(const std::function<void()>& read);

}  // namespace matvlm::fuzz
