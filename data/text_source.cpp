#include "data/text_source.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/llava_json.h"
#include "data/utf8.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

// Byte at which `text` stops being UTF-8, or -1.
int64_t first_invalid(const std::string& text) {
  const auto size = static_cast<int64_t>(text.size());
  for (int64_t at = 0; at < size;) {
    if (static_cast<uint8_t>(text[static_cast<size_t>(at)]) < 0x80) {
      ++at;
      continue;
    }
    const CodePoint point = code_point_at(text, at);
    if (point.code == kInvalidCode) return at;
    at += point.length;
  }
  return -1;
}

class Reader {
 public:
  Reader(const TextProblems& problems, const std::function<void(const TextDocument&)>& use)
      : problems_(problems), use_(use) {}

  void take_file(const std::string& path) {
    guard([&] { give({path, read_file(path), path + ": "}); });
  }

  // Returns the bytes read.
  template <class Progress>
  void take_lines(const std::string& path, const Progress& progress) {
    std::ifstream file(path, std::ios::binary);
    check(file.good(), path, ": cannot open: ", std::strerror(errno));
    int64_t number = 0;
    int64_t bytes = 0;
    for (std::string line; std::getline(file, line);) {
      ++number;
      bytes += static_cast<int64_t>(line.size()) + (file.eof() ? 0 : 1);
      if (strip(line).empty()) continue;
      guard([&] { give(document(path, number, line)); });
      progress(bytes);
    }
    check(file.eof(), path, ": cannot read after line ", number);
  }

 private:
  static TextDocument document(const std::string& path, int64_t number, const std::string& line) {
    const std::string place = cat(path, ": line ", number);
    try {
      return {cat(path, ":", number), Json::parse(line, place).at("text").as_string(), place + ": "};
    } catch (const Error& error) {
      throw SampleError("malformed", error.what());
    }
  }

  void give(const TextDocument& document) {
    if (strip(document.text).empty()) return;
    const int64_t bad = first_invalid(document.text);
    if (bad >= 0) {
      throw SampleError("not UTF-8",
                        cat(document.place, "found a byte that is not UTF-8 at byte ", bad, ", expected UTF-8 text"));
    }
    use_(document);
  }

  template <class Action>
  void guard(const Action& action) {
    try {
      action();
    } catch (const SampleError& error) {
      if (!problems_.skip) throw;
      if (problems_.report) problems_.report(error.reason(), error.what());
    }
  }

  const TextProblems& problems_;
  const std::function<void(const TextDocument&)>& use_;
};

}  // namespace

void read_texts(const std::vector<std::string>& paths, const TextProblems& problems,
                const std::function<void(const TextDocument&)>& use,
                const std::function<void(int64_t done, int64_t total)>& progress) {
  int64_t total = 0;
  for (const std::string& path : paths) {
    std::error_code error;
    const auto size = fs::file_size(path, error);
    check(!error, path, ": cannot read: ", error.message());
    total += static_cast<int64_t>(size);
  }
  int64_t done = 0;
  Reader reader(problems, use);
  for (const std::string& path : paths) {
    if (path.ends_with(".jsonl")) {
      reader.take_lines(path, [&](int64_t bytes) {
        if (progress) progress(done + bytes, total);
      });
    } else {
      reader.take_file(path);
    }
    done += static_cast<int64_t>(fs::file_size(path));
    if (progress) progress(done, total);
  }
}

}  // namespace matvlm
