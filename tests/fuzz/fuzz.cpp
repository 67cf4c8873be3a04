#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include "core/error.h"

namespace matvlm::fuzz {

MemoryFile::MemoryFile(const uint8_t* data, size_t size) : descriptor_(memfd_create("fuzz", MFD_CLOEXEC)) {
  if (descriptor_ < 0) std::abort();
  path_ = cat("/proc/self/fd/", descriptor_);
  for (size_t written = 0; written < size;) {
    const ssize_t step = ::write(descriptor_, data + written, size - written);
    if (step <= 0) std::abort();
    written += static_cast<size_t>(step);
  }
}

MemoryFile::~MemoryFile() { ::close(descriptor_); }

std::string_view text_of(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

void expect_error_or_result(const std::function<void()>& read) {
  try {
    read();
  } catch (const Error& error) {
    // One line is what the program promises of it.
    if (std::string_view(error.what()).find('\n') != std::string_view::npos) std::abort();
  }
}

}  // namespace matvlm::fuzz
