// Splitting of an array at the commas outside of strings and brackets.
#include "core/json_array_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "core/error.h"

namespace matvlm {
namespace {

constexpr size_t kBlock = size_t{1} << 20;
constexpr size_t kMaxElement = size_t{1} << 26;
constexpr int kEnd = -1;

std::string shown(int byte) {
  if (byte == kEnd) return "the end of the file";
  if (byte > ' ' && byte < 127) return cat("'", static_cast<char>(byte), "'");
  return cat("the byte ", byte);
}

bool is_space(int byte) { return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t'; }

}  // namespace

template <class... Args>
void JsonArrayReader::malformed(const Args&... what) const {
  fail(path_, ": byte ", position_, ": ", cat(what...));
}

JsonArrayReader::JsonArrayReader(const std::string& path) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) fail(path, ": cannot open: ", std::generic_category().message(errno));
  struct stat status {};
  const bool regular = ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  size_ = regular ? status.st_size : 0;
  try {
    check(regular, path, ": found no regular file, expected a JSON file");
    skip_space();
    check(peek() == '[', path, ": found ", shown(peek()), " at the beginning, expected an array of samples");
    ++at_;
    ++position_;
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

JsonArrayReader::~JsonArrayReader() { ::close(descriptor_); }

int JsonArrayReader::peek() {
  if (at_ < buffer_.size()) return static_cast<unsigned char>(buffer_[at_]);
  buffer_.resize(kBlock);
  at_ = 0;
  ssize_t got = -1;
  do {
    got = ::pread(descriptor_, buffer_.data(), buffer_.size(), position_);
  } while (got < 0 && errno == EINTR);
  const int error = errno;
  buffer_.resize(got > 0 ? static_cast<size_t>(got) : 0);
  if (got < 0) fail(path_, ": cannot read: ", std::generic_category().message(error));
  return got == 0 ? kEnd : static_cast<unsigned char>(buffer_[0]);
}

void JsonArrayReader::skip_space() {
  while (is_space(peek())) {
    ++at_;
    ++position_;
  }
}

void JsonArrayReader::resume(int64_t index, int64_t position) {
  check(index >= 0 && position > 0 && position <= size_, path_, ": found element ", index, " up to byte ", position,
        ", expected a place in the file of ", size_, " bytes");
  index_ = index;
  position_ = position;
  buffer_.clear();
  at_ = 0;
  ended_ = false;
}

bool JsonArrayReader::next(std::string& text) {
  if (ended_) return false;
  skip_space();
  if (peek() == ']') {
    expect_end();
    return false;
  }
  if (index_ >= 0) {
    if (peek() != ',') malformed("found ", shown(peek()), " after element ", index_, ", expected ',' or ']'");
    ++at_;
    ++position_;
    skip_space();
  }
  read_element(text);
  ++index_;
  return true;
}

void JsonArrayReader::expect_end() {
  ++at_;
  ++position_;
  skip_space();
  if (peek() != kEnd) malformed("found ", shown(peek()), " after the array, expected the end of the file");
  ended_ = true;
}

void JsonArrayReader::read_element(std::string& text) {
  text.clear();
  int depth = 0;
  bool in_string = false;
  bool escaped = false;
  while (true) {
    const int byte = peek();
    if (byte == kEnd) malformed("found the end of the file in element ", index_ + 1, ", expected more of it");
    if (in_string) {
      in_string = escaped || byte != '"';
      escaped = !escaped && byte == '\\';
    } else {
      const bool opens = byte == '{' || byte == '[';
      const bool closes = byte == '}' || byte == ']';
      if (depth == 0 && (byte == ',' || closes)) break;
      in_string = byte == '"';
      depth += opens ? 1 : closes ? -1 : 0;
    }
    if (text.size() >= kMaxElement) malformed("found an element of more than ", kMaxElement, " bytes, expected less");
    text += static_cast<char>(byte);
    ++at_;
    ++position_;
  }
  while (!text.empty() && is_space(static_cast<unsigned char>(text.back()))) text.pop_back();
  if (text.empty()) malformed("found no element before ", shown(peek()), ", expected one");
}

}  // namespace matvlm
