// Runs a fuzz target without libFuzzer, for compilers that do not have it: every file of the corpus as it is, then
// mutations of them, the same ones in every run.
//   fuzz_NAME [-runs=N] [-max_total_time=SECONDS] CORPUS...
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/rng.h"
#include "tests/fuzz/fuzz.h"

namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxSize = size_t{1} << 20;

class Mutator {
 public:
  explicit Mutator(const std::vector<std::string>& corpus) : corpus_(corpus) {}

  std::string mutated() {
    std::string text = corpus_[below(corpus_.size())];
    for (size_t n = 1 + below(6); n > 0; --n) mutate(text);
    if (text.size() > kMaxSize) text.resize(kMaxSize);
    return text;
  }

 private:
  size_t below(size_t limit) {
    const double u = rng_.uniform(count_++);
    return std::min(static_cast<size_t>(u * static_cast<double>(limit)), limit - 1);
  }
  void mutate(std::string& text) {
    static constexpr const char* kNumbers[] = {"0", "-1", "4294967296", "9223372036854775807", "1e308", "null", "[]"};
    if (text.empty()) text += 'x';
    const size_t at = below(text.size());
    const size_t many = std::min(1 + below(16), text.size() - at);
    switch (below(8)) {
      case 0:
        text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:
        text[at] = static_cast<char>(below(256));
        break;
      case 2:
        text.erase(at, many);
        break;
      case 3:
        text.insert(at, text.substr(below(text.size()), many));
        break;
      case 4:  // whole bytes of a length
        for (size_t i = at; i < at + std::min<size_t>(many, 8); ++i)
          text[i] = static_cast<char>(below(2) == 0 ? 0 : 255);
        break;
      case 5:
        text.resize(at);
        break;
      case 6:
        text.replace(at, many, kNumbers[below(std::size(kNumbers))]);
        break;
      default: {
        const std::string& other = corpus_[below(corpus_.size())];
        if (!other.empty()) text.insert(at, other.substr(below(other.size()), 64));
      }
    }
  }

  const std::vector<std::string>& corpus_;
  matvlm::Rng rng_{1, 2};
  uint64_t count_ = 0;
};

int64_t option(const std::string& word, const std::string& name, int64_t otherwise) {
  if (!word.starts_with(name)) return otherwise;
  int64_t value = 0;
  const char* end = word.data() + word.size();
  const auto [stop, error] = std::from_chars(word.data() + name.size(), end, value);
  matvlm::check(error == std::errc() && stop == end, word, ": expected a whole number");
  return value;
}

void run(const std::string& text) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> corpus;
  int64_t runs = 1000;
  int64_t seconds = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    runs = option(word, "-runs=", runs);
    seconds = option(word, "-max_total_time=", seconds);
    if (word.starts_with("-")) continue;
    std::vector<std::string> files = {word};
    if (fs::is_directory(word)) {
      files.clear();
      for (const auto& entry : fs::directory_iterator(word)) files.push_back(entry.path().string());
      std::sort(files.begin(), files.end());
    }
    for (const std::string& file : files) corpus.push_back(matvlm::read_file(file));
  }
  if (corpus.empty()) corpus.emplace_back("x");
  for (const std::string& text : corpus) run(text);
  Mutator mutator(corpus);
  const auto start = std::chrono::steady_clock::now();
  int64_t done = 0;
  for (; seconds > 0 || done < runs; ++done) {
    const std::string text = mutator.mutated();
    // The last input is there to look at when the program dies on it.
    if (const char* last = std::getenv("MATVLM_FUZZ_LAST")) matvlm::write_file_atomic(last, text);
    run(text);
    if (seconds > 0 && std::chrono::steady_clock::now() - start > std::chrono::seconds(seconds)) break;
  }
  std::printf("%lld files, %lld mutations\n", static_cast<long long>(corpus.size()), static_cast<long long>(done));
  return 0;
}
